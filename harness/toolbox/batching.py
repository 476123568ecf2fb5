"""Batches of sequences: prompt and completion side by side, padded on the right, and split by length.

Most of a padded batch is padding. `length_groups` splits it into a few groups of like length; as every loss of a group
is divided by the count of the whole batch, the gradients added up over the groups are those of the whole batch.
Shapes: R rows, T tokens of the longest row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from harness.contracts import Model, Prompt

TokenPair = tuple[Sequence[int], Sequence[int]]
"""(prompt ids, completion ids with their `eos`)"""


@dataclass(frozen=True)
class Sequences:
    """R prompts with their completions, each row padded on the right to T tokens, on the model's device."""

    input_ids: torch.Tensor
    """(R, T) int64."""
    attention_mask: torch.Tensor
    """(R, T) int64, 1 on tokens, 0 on padding."""
    completion_mask: torch.Tensor
    """(R, T) bool, true on the tokens of the completion, `eos` included."""
    position_ids: torch.Tensor
    """(R, T) int64."""
    index: torch.Tensor
    """(R,) int64: where each row stood in the batch that was split."""
    shortened: int = 0
    """Prompts cut on the left because they did not fit."""
    dropped: int = 0
    """Rows whose completion alone does not fit: they stay, without any completion token, so that rows keep their
    places."""

    def __len__(self) -> int:
        """R."""
        return len(self.input_ids)

    @property
    def tokens(self) -> int:
        """Completion tokens of all rows: what a token-mean loss is divided by."""
        return int(self.completion_mask.sum())

    @property
    def lengths(self) -> torch.Tensor:
        """(R,) int64: tokens of each row."""
        return self.attention_mask.sum(-1)

    def select(self, rows: torch.Tensor) -> Sequences:
        """Some rows (an index tensor), padded no further than the longest of them needs."""
        width = int(self.lengths[rows].max())
        return Sequences(
            input_ids=self.input_ids[rows, :width],
            attention_mask=self.attention_mask[rows, :width],
            completion_mask=self.completion_mask[rows, :width],
            position_ids=self.position_ids[rows, :width],
            index=self.index[rows],
        )


def fit(prompt: Sequence[int], completion: Sequence[int], context: int) -> tuple[list[int], list[int]]:
    """Cut a prompt on its left, its first token kept, so that the completion and its `eos` stay whole.

    A completion that leaves no room for two prompt tokens comes back empty, as a cut one would lose its answer.
    """
    room = context - len(completion)
    if len(prompt) <= room:
        return list(prompt), list(completion)
    if room < 2:  # noqa: PLR2004 - the first token, which may be `bos`, and one more to go on from
        return list(prompt[:context]), []
    return [prompt[0], *prompt[len(prompt) - room + 1 :]], list(completion)


def collate(model: Model, pairs: Sequence[TokenPair]) -> Sequences:
    """Pad token ids to one batch of `len(pairs)` rows, in their order.

    Raises:
        ValueError: there is no pair, or a prompt has no token (the first completion token could not be predicted).
    """
    if not pairs:
        msg = "there is no sequence to put in a batch"
        raise ValueError(msg)
    if not all(len(prompt) for prompt, _ in pairs):
        msg = "a prompt has no token"
        raise ValueError(msg)
    fitted = [fit(prompt, completion, model.context) for prompt, completion in pairs]
    width = max(len(prompt) + len(completion) for prompt, completion in fitted)
    ids = [[*p, *c, *[model.pad] * (width - len(p) - len(c))] for p, c in fitted]
    begins = torch.tensor([len(p) for p, _ in fitted])[:, None]
    ends = begins + torch.tensor([len(c) for _, c in fitted])[:, None]
    columns = torch.arange(width).expand(len(pairs), width)
    target = torch.device(model.device.name)
    return Sequences(
        input_ids=torch.tensor(ids).to(target),
        attention_mask=(columns < ends).long().to(target),
        completion_mask=((columns >= begins) & (columns < ends)).to(target),
        position_ids=columns.contiguous().to(target),
        index=torch.arange(len(pairs), device=target),
        shortened=sum(len(p) != len(q[0]) and bool(c) for (p, c), q in zip(fitted, pairs, strict=True)),
        dropped=sum(not c and bool(len(q[1])) for (_, c), q in zip(fitted, pairs, strict=True)),
    )


def encode_pairs(model: Model, pairs: Sequence[tuple[Prompt, str]]) -> Sequences:
    """Batch of (prompt, completion text): the model's template in front, its `eos` behind.

    Raises:
        ValueError: as `collate`.
    """
    return collate(model, [(model.encode_prompt(p), model.encode_completion(text)) for p, text in pairs])


def length_groups(sequences: Sequences, groups: int) -> list[Sequences]:
    """The rows in at most `groups` groups of like length, the longest first; `index` tells where a row stood.

    The longest come first so that a batch that does not fit into memory says so at once.

    Raises:
        ValueError: `groups` is below 1.
    """
    if groups < 1:
        msg = f"groups must be at least 1, not {groups}"
        raise ValueError(msg)
    order = sequences.lengths.argsort(descending=True, stable=True)
    return [sequences.select(rows) for rows in order.tensor_split(min(groups, len(sequences)))]
