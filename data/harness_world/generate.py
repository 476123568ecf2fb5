"""Replies of a model of the world, a batch at a time.

Prompts of one length go together, so nothing is padded. Sampling is seeded anew for each group, in
an order that depends on the prompts alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

NEW_TOKENS = 120
"""Longer than any rationale of seven steps."""
ROWS = 512
"""Most samples drawn side by side."""


def load(folder: Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """A model of the world, ready to reply, and its tokenizer."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return model.eval(), tokenizer


def prompt_ids(tokenizer: PreTrainedTokenizerBase, content: str) -> list[int]:
    """The ids of a user turn, ready for a reply."""
    text = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def chunks(encoded: Sequence[list[int]], n: int) -> Iterator[list[int]]:
    """Indices of prompts of one length, at most `ROWS // n` at a time, shortest first."""
    lengths: dict[int, list[int]] = defaultdict(list)
    for index, ids in enumerate(encoded):
        lengths[len(ids)].append(index)
    most = max(1, ROWS // n)
    for length in sorted(lengths):
        group = lengths[length]
        yield from (group[i : i + most] for i in range(0, len(group), most))


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
    encoded = [prompt_ids(tokenizer, content) for content in contents]
    said: list[list[str]] = [[] for _ in contents]
    how: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    for group in chunks(encoded, n):
        torch.manual_seed(seed * 1_000_003 + group[0])
        rows = torch.tensor([encoded[index] for index in group]).repeat_interleave(n, dim=0)
        with torch.inference_mode():
            out = model.generate(rows, attention_mask=torch.ones_like(rows), max_new_tokens=NEW_TOKENS, **how)
        texts = tokenizer.batch_decode(out[:, rows.shape[1] :], skip_special_tokens=True)
        for place, index in enumerate(group):
            said[index] = texts[place * n : (place + 1) * n]
    return said
