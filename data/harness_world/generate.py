"""Replies of a model of the world, drawn with the harness's own sampler."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from harness.builtin.causal_lm import CausalLM
from harness.builtin.devices import Cpu
from harness.meter import derive_seed
from harness.toolbox import SampleRequest, draw

NEW_TOKENS = 120
"""Longer than any rationale of seven steps."""


def load(folder: Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """A model of the world, ready to reply, and its tokenizer."""
    model = CausalLM.load(folder, Cpu())
    return model.module, model.tokenizer


def replies(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    contents: Sequence[str],
    *,
    n: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[list[str]]:
    """`n` replies to each user turn; greedy at temperature 0."""
    policy = CausalLM("tiny", model, tokenizer, Cpu())
    requests = [
        SampleRequest(
            prompt_ids=tuple(policy.encode_prompt(content)),
            seeds=tuple(derive_seed(seed, content, i) for i in range(n)),
            temperature=temperature,
            max_new_tokens=NEW_TOKENS,
        )
        for content in contents
    ]
    return [[completion.text for completion in drawn] for drawn in draw(policy, requests)]
