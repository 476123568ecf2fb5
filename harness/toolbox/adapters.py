"""What adapters have in common: frozen weights, layers found by name, virtual tokens, and files in PEFT's layout.

An adapter is a module beside a frozen model. It acts by hooks on the model's `nn.Linear` and `nn.Embedding` layers, in
training and in the fast decoder alike, which calls these layers too. A hook must be a bound method of a module that
belongs to the adapter: a copy of the model then gets hooks of the copied adapter.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from harness.contracts import Model, Problem

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def freeze(model: Model) -> None:
    """Freeze every weight there is, so that only what is added from now on will train.

    Raises:
        ValueError: the model has an adapter already: its checkpoint could not name both.
    """
    if model.adapter is not None:
        msg = f"{model.name} has an adapter already; merge it, or train another checkpoint"
        raise ValueError(msg)
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def linear_layers(model: Model, names: Collection[str] = ()) -> dict[str, nn.Linear]:
    """Linear layers by their full name, in the model's order: all of them, or those that `names` has.

    A name counts in full or from any dot on, as in PEFT's `target_modules`. The output layer is never among them: its
    weights may be the embedding's.

    Raises:
        ValueError: the model has no linear layer of that name.
    """
    output = model.module.get_output_embeddings()  # type: ignore[operator]
    layers = {name: layer for name, layer in model.module.named_modules() if isinstance(layer, nn.Linear)}
    layers = {name: layer for name, layer in layers.items() if layer is not output}
    if missing := [name for name in names if not any(f".{full}".endswith(f".{name}") for full in layers)]:
        msg = f"{model.name} has no linear layer named {' or '.join(missing)}"
        raise ValueError(msg)
    wanted = tuple(f".{name}" for name in names)
    return {name: layer for name, layer in layers.items() if not names or f".{name}".endswith(wanted)}


def embedding_layer(model: Model) -> nn.Embedding:
    """The layer that looks up the vectors of token ids."""
    layer: nn.Embedding = model.module.get_input_embeddings()  # type: ignore[operator]
    return layer


def first_tokens(model: Model, problems: Sequence[Problem], count: int, seed: int) -> list[int]:
    """The first `count` token ids of prompts one after the other, from the problem on that `seed` points to.

    Raises:
        ValueError: there is no problem.
    """
    if not problems:
        msg = "there is nothing to train on"
        raise ValueError(msg)
    begin = seed % len(problems)
    texts = (problem.prompt for problem in itertools.cycle([*problems[begin:], *problems[:begin]]))
    return list(itertools.islice(itertools.chain.from_iterable(map(model.encode_prompt, texts)), count))


class VirtualTokens(nn.Module):
    """Finds the token ids that follow those of the vocabulary, so that other hooks can fill their places.

    The embedding, which has no row for them, is given the id of its last word instead.
    """

    ids: torch.Tensor | None
    """Of the pass under way, with the shape of its input; None where no token is virtual."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.words, self.ids = embedding.num_embeddings, None
        embedding.register_forward_pre_hook(self.find)

    def find(self, _embedding: nn.Module, inputs: tuple[Any, ...]) -> tuple[torch.Tensor]:
        """Before the embedding: remember where the virtual tokens are, and hide them."""
        ids: torch.Tensor = inputs[0]
        self.ids = ids if bool((ids >= self.words).any()) else None  # most passes of a decoder have none
        return (ids.clamp(max=self.words - 1),)

    def fill(self, output: torch.Tensor, rows_KD: torch.Tensor) -> torch.Tensor:
        """A layer's `output` (..., D) with row k of `rows_KD` wherever virtual token k is."""
        if self.ids is None:
            return output
        number = (self.ids - self.words).clamp(min=0)
        return torch.where((self.ids >= self.words)[..., None], F.embedding(number, rows_KD).to(output.dtype), output)


def write_adapter(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, folder / WEIGHTS, {"format": "pt"})


def read_adapter(folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Configuration and tensors of an adapter whose `peft_type` is `kind`.

    Raises:
        ValueError: a file is missing or broken, or the adapter is of another kind; the message names the file.
    """
    try:
        config = dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        msg = f"{folder} holds no adapter that can be read: {error}"
        raise ValueError(msg) from error
    if config.get("peft_type") != kind:
        msg = f"{folder / CONFIG} is of an adapter of type {config.get('peft_type')}, not {kind}"
        raise ValueError(msg)
    return config, tensors
