"""A run on disk: its state while it goes on, and the finished model. safetensors only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast


@dataclass
class Progress:
    """How far a run is and what it has spent."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


Optimizers = Sequence[torch.optim.Optimizer]


def save_state(path: Path, model: LlamaForCausalLM, optimizers: Optimizers, progress: Progress) -> None:
    """Weights, optimiser moments and progress."""
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{index}.{key}": value for key, value in state.items()}
    save_file(tensors, path, {key: str(value) for key, value in vars(progress).items()})


def load_state(path: Path, model: LlamaForCausalLM, optimizers: Optimizers) -> Progress:
    """The inverse of `save_state`."""
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    states = [optimizer.state_dict() for optimizer in optimizers]
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, index, key = name.split(".")
            states[int(number)]["state"].setdefault(int(index), {})[key] = value
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(state)
    with safe_open(path, framework="pt") as file:
        said = file.metadata()
    return Progress(int(said["step"]), int(said["tokens"]), float(said["seconds"]))


def publish(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """The Hugging Face layout: config, weights, tokenizer, generation defaults."""
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=160,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
