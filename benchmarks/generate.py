"""Sampling as people do it with transformers: prompts padded on the left, one row a sample, `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from harness.contracts import Model


def generate(
    model: Model, prompts: Sequence[Sequence[int]], n: int, temperature: float, max_new_tokens: int
) -> list[list[tuple[int, ...]]]:
    """`n` samples of each prompt, up to and with the end token; from the whole distribution, none of it cut off."""
    width = max(map(len, prompts))
    ids = [[*[model.pad] * (width - len(prompt)), *prompt] for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    chance = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max_new_tokens,
        num_return_sequences=n,
        eos_token_id=model.eos,
        pad_token_id=model.pad,
        **(chance if temperature > 0 else {"do_sample": False}),
    )
    module: Any = model.module
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    found = module.generate(**{k: v.to(model.device.name) for k, v in inputs.items()}, generation_config=config)
    rows = [ended(row, model.eos) for row in found[:, width:].tolist()]
    return [rows[first : first + n] for first in range(0, len(rows), n)]


def ended(row: list[int], eos: int) -> tuple[int, ...]:
    """The row up to its end token; what `generate` fills up with afterwards is no token of it."""
    return tuple(row[: row.index(eos) + 1] if eos in row else row)
