"""Prefix tuning: learn the keys and values of a few tokens before every prompt, in every layer, and nothing else.

Paper: Li & Liang 2021, arXiv:2101.00190, sec. 4.2, eq. (3): the states of prefix positions are rows of a matrix.
At a virtual token, k_proj and v_proj give learnt rows, whatever its own state is; all later tokens attend to them.
They begin as what a real prompt's first k tokens have there (sec. 7.4 of the paper: random ones start far worse).
Data: the train split, with its worked solutions where it has them. Trains: k x layers x 2 key-value widths. Saved as
PEFT's PREFIX_TUNING, whose keys are as the cache holds them, rotated: they are turned back before k_proj gives them.
Cost: about 4 N a token in training, and k tokens more a prompt, in training and for every answer; they count as tokens.
Shapes: k virtual tokens, L layers, K key-value heads of width E.
Left out: the paper's MLP in front of the prefix (discarded after training), models that normalise keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from harness import Model, Run, TrainingData, hookimpl
from harness.toolbox import (
    VirtualTokens,
    embedding_layer,
    fine_tune,
    first_tokens,
    freeze,
    linear_layers,
    read_adapter,
    worked_examples,
    write_adapter,
)


class PrefixLayer(nn.Module):
    """Learnt keys and values (k, K E) of one layer, in float32; the keys are rotated to positions 0 to k - 1."""

    turns: torch.Tensor
    """(2, k, 1, E): cosines and sines of the positions."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, turns: torch.Tensor, places: VirtualTokens) -> None:
        super().__init__()
        self.keys, self.values, self.places = nn.Parameter(keys), nn.Parameter(values), places
        self.register_buffer("turns", turns, persistent=False)

    def put_keys(self, _k_proj: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        """Eq. (3) for keys, turned back, as attention is about to rotate them."""
        cos, sin = self.turns  # (k, 1, E) each
        rotated = self.keys.view(len(self.keys), -1, cos.shape[-1])  # (k, K, E)
        left, right = rotated.chunk(2, -1)
        keys = (rotated * cos - torch.cat([-right, left], -1) * sin) / (cos**2 + sin**2)
        return self.places.fill(output, keys.flatten(1))

    def put_values(self, _v_proj: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        """Eq. (3) for values."""
        return self.places.fill(output, self.values)


class Prefix(nn.Module):
    """The prefix of all layers, put in the place of the virtual tokens' keys and values."""

    def __init__(self, model: Model, states: torch.Tensor) -> None:
        """Take `states` (k, 2 L, K E): keys and values of the first layer, of the second, and so on."""
        super().__init__()
        module: Any = model.module
        if any(name.endswith("k_norm") for name, _ in module.named_modules()):
            msg = f"{model.name} normalises its keys: what k_proj gives would not be what was learnt"
            raise ValueError(msg)
        embedding, k_projs, v_projs = embedding_layer(model), *(linear_layers(model, [p]) for p in ("k_proj", "v_proj"))
        states = states.to(embedding.weight.device, torch.float32)
        positions = torch.arange(len(states), device=states.device)[None]
        turns = torch.cat(module.model.rotary_emb(states, positions))[:, :, None]
        self.virtual_tokens, self.places = len(states), VirtualTokens(embedding)
        self.layers: list[PrefixLayer] = []
        for number, (k_proj, v_proj) in enumerate(zip(k_projs.values(), v_projs.values(), strict=True)):
            keys, values = (states[:, 2 * number + place].clone() for place in (0, 1))
            layer = PrefixLayer(keys, values, turns, self.places)
            k_proj.register_forward_hook(layer.put_keys)
            v_proj.register_forward_hook(layer.put_values)
            self.layers.append(layer)
        self.parts = nn.ModuleList(self.layers)

    def save(self, folder: Path) -> None:
        """In PEFT's layout."""
        states = torch.stack([rows for layer in self.layers for rows in (layer.keys, layer.values)], 1)
        width, head = states.shape[-1], self.layers[0].turns.shape[-1]
        config = {
            "peft_type": "PREFIX_TUNING",
            "task_type": "CAUSAL_LM",
            "num_virtual_tokens": self.virtual_tokens,
            "num_layers": len(self.layers),
            "num_attention_heads": width // head,
            "token_dim": width,
            "num_transformer_submodules": 1,
            "prefix_projection": False,
        }
        write_adapter(folder, config, {"prompt_embeddings": states.flatten(1)})


@dataclass(frozen=True)
class PrefixTuning:
    name: ClassVar[str] = "prefix-tuning"
    family: ClassVar[str] = "fine-tuning"
    k: int = 16
    """Virtual tokens; the paper's 10 (tables to text) to 200 (summaries)."""
    lr: float = 1e-1
    """Peak learning rate of AdamW: far above full fine-tuning's."""
    batch_size: int = 8
    """Examples an optimiser step: many small steps, as the prefix has a long way to go."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        freeze(model)
        model.adapter = Prefix(model, self.start(model, first_tokens(model, data.problems, self.k, run.seed("words"))))
        fine_tune(model, worked_examples(data), run, self.lr, self.batch_size)

    @torch.no_grad()
    def start(self, model: Model, ids: list[int]) -> torch.Tensor:
        """(k, 2 L, K E): keys and values that the frozen model has of real words."""
        read = model.module(input_ids=torch.tensor([ids], device=model.device.name), use_cache=True)
        cached = [states for layer in read.past_key_values.layers for states in (layer.keys, layer.values)]
        return torch.stack([states[0].transpose(0, 1).flatten(1) for states in cached], 1)

    def attach(self, model: Model, folder: Path) -> None:
        config, tensors = read_adapter(folder, "PREFIX_TUNING")
        states = tensors["prompt_embeddings"]  # (k, 2 L K E)
        model.adapter = Prefix(model, states.view(len(states), 2 * config["num_layers"], -1))


@hookimpl
def harness_methods() -> list[type]:
    return [PrefixTuning]
