"""The pretraining stream as padded tensors. Shapes: B texts a batch, T tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from transformers import PreTrainedTokenizerFast

from harness_world.corpus import Segments, pool
from harness_world.rationales import IN_FULL, STYLE_WEIGHTS

Row = tuple[list[int], list[float]]
"""Ids and loss weights of one text."""


@dataclass(frozen=True)
class Stream:
    """What decides every batch."""

    seed: str = "base-1"
    batch: int = 32
    """Texts a step."""
    pool_steps: int = 50
    """Steps whose texts are drawn together and sorted into batches of like length."""
    full_from: int | None = None
    """Step from which on rationales write every step in full, a multiple of `pool_steps`; None: never."""

    def styles(self, step: int) -> Sequence[int]:
        """Shares of the styles of rationales at a step."""
        return STYLE_WEIGHTS if self.full_from is None or step < self.full_from else IN_FULL


def encode(texts: list[Segments], tokenizer: PreTrainedTokenizerFast) -> list[Row]:
    """Each text with `<bos>` (weight 0) before it and `<eos>` (weight 1) after it."""
    parts = [part for text in texts for part, _ in text]
    ids = iter(tokenizer(parts, add_special_tokens=False)["input_ids"])
    rows: list[Row] = []
    for text in texts:
        row, weights = [tokenizer.bos_token_id], [0.0]
        for _, weight in text:  # segments end where tokens do, so they can be encoded apart
            new = next(ids)
            row += new
            weights += [weight] * len(new)
        rows.append(([*row, tokenizer.eos_token_id], [*weights, 1.0]))
    return rows


def padded(group: list[Row], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids_BT, weights_BT), padded on the right with weight 0."""
    longest = max(len(ids) for ids, _ in group)
    ids = [row + [pad] * (longest - len(row)) for row, _ in group]
    weights = [row + [0.0] * (longest - len(row)) for _, row in group]
    return torch.tensor(ids, dtype=torch.long), torch.tensor(weights)


def batches(
    stream: Stream, tokenizer: PreTrainedTokenizerFast, avoid: frozenset[str], first: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(ids_BT, weights_BT) of the steps from `first` on, without end."""
    while True:
        number, skip = divmod(first, stream.pool_steps)
        styles = stream.styles(number * stream.pool_steps)
        texts = pool(stream.seed, number, stream.batch * stream.pool_steps, avoid, styles)
        rows = sorted(encode(texts, tokenizer), key=lambda row: len(row[0]))
        groups = [rows[i : i + stream.batch] for i in range(0, len(rows), stream.batch)]
        Random(f"{stream.seed}:order:{number}").shuffle(groups)
        for group in groups[skip:]:
            yield padded(group, tokenizer.pad_token_id)
        first = (number + 1) * stream.pool_steps
