"""Batches of sequences: prompt and completion side by side, padded on the right, and split by length.

Most of a padded batch is padding. `length_groups` splits it into a few groups of like length; as every loss of a group
is divided by the count of the whole batch, the gradients added up over the groups are those of the whole batch.
Shapes: R rows, T tokens of the longest row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from harness.contracts import Model, Prompt
from harness.paying import book_rows

TokenPair = tuple[Sequence[int], Sequence[int]]
"""(prompt ids, completion ids with their `eos`)"""
MaskedRow = tuple[Sequence[int], Sequence[bool]]
"""(ids, whether each is learnt)"""
GROUP_TOKENS = {"cpu": 1024}
"""Tokens a group. Of more the batch is padded further and no longer fits into a processor's cache, and of fewer, calls
cost more than work (training on 128,000 tokens: 8.7 s in groups of 512, 8.2 of 1,024, 8.1 to 8.5 of more)."""
READ_TOKENS = {"cpu": 3072}
"""Tokens that are read at once without a gradient, padding among them, and what is known from before."""


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


def fit(
    prompt: Sequence[int], completion: Sequence[int], context: int, virtual: int = 0
) -> tuple[list[int], list[int]]:
    """Cut a prompt on its left, but for its virtual tokens and its first word, so that the completion stays whole.

    A completion that leaves no room for two words of the prompt comes back empty, as a cut one would lose its answer.
    """
    room, head = context - len(completion), virtual + 1  # the first word may be `bos`
    if len(prompt) <= room:
        return list(prompt), list(completion)
    if room <= head:  # no word to go on from
        return list(prompt[:context]), []
    return [*prompt[:head], *prompt[len(prompt) - room + head :]], list(completion)


def collate(model: Model, pairs: Sequence[TokenPair]) -> Sequences:
    """Pad token ids to one batch of `len(pairs)` rows, in their order. Rows that do not fit are booked on who pays.

    Raises:
        ValueError: there is no pair, or a prompt has no token (the first completion token could not be predicted).
    """
    if not pairs:
        msg = "there is no sequence to put in a batch"
        raise ValueError(msg)
    if not all(len(prompt) for prompt, _ in pairs):
        msg = "a prompt has no token"
        raise ValueError(msg)
    virtual = model.adapter.virtual_tokens if model.adapter else 0
    fitted = [fit(prompt, completion, model.context, virtual) for prompt, completion in pairs]
    rows = [([*p, *c], [False] * len(p) + [True] * len(c)) for p, c in fitted]
    shortened = sum(len(p) != len(q[0]) and bool(c) for (p, c), q in zip(fitted, pairs, strict=True))
    dropped = sum(not c and bool(len(q[1])) for (_, c), q in zip(fitted, pairs, strict=True))
    book_rows(shortened, dropped)
    return replace(collate_masked(model, rows), shortened=shortened, dropped=dropped)


def collate_masked(model: Model, rows: Sequence[MaskedRow]) -> Sequences:
    """Pad rows of ids, with any of them learnt but the first, to one batch, in their order.

    Raises:
        ValueError: there is no row, or the first token of one is to be learnt: nothing stands before it.
    """
    if not rows or any(mask[0] for _, mask in rows):
        msg = "there is no sequence to put in a batch" if not rows else "the first token of a row cannot be learnt"
        raise ValueError(msg)
    width = max(len(ids) for ids, _ in rows)
    lengths_R = torch.tensor([len(ids) for ids, _ in rows])
    columns_RT = torch.arange(width).expand(len(rows), width)
    target = torch.device(model.device.name)
    return Sequences(
        input_ids=torch.tensor([[*ids, *[model.pad] * (width - len(ids))] for ids, _ in rows]).to(target),
        attention_mask=(columns_RT < lengths_R[:, None]).long().to(target),
        completion_mask=torch.tensor([[*mask, *[False] * (width - len(mask))] for _, mask in rows]).to(target),
        position_ids=columns_RT.contiguous().to(target),
        index=torch.arange(len(rows), device=target),
    )


def encode_pairs(model: Model, pairs: Sequence[tuple[Prompt, str]]) -> Sequences:
    """Batch of (prompt, completion text): the model's template in front, its `eos` behind.

    Raises:
        ValueError: as `collate`.
    """
    return collate(model, [(model.encode_prompt(p), model.encode_completion(text)) for p, text in pairs])


def whole_pairs(sequences: Sequences) -> Sequences | None:
    """Of 2B rows, B chosen before B rejected, the pairs of which both completions fit; None where no pair does.

    One completion alone cannot be compared, and a mean over its no tokens is no number.
    """
    whole_B = torch.stack(sequences.completion_mask.any(-1).chunk(2)).all(0)
    if bool(whole_B.all()):
        return sequences
    [kept] = whole_B.nonzero(as_tuple=True)
    return sequences.select(torch.cat([kept, kept + len(whole_B)])) if len(kept) else None


def group_tokens(device: torch.device) -> int:
    """Tokens that suit one pass with a gradient on a device."""
    return GROUP_TOKENS.get(device.type, 16_384)


def read_tokens(device: torch.device) -> int:
    """Tokens that suit one pass without a gradient on a device."""
    return READ_TOKENS.get(device.type, 65_536)


def length_groups(sequences: Sequences, groups: int | None = None) -> list[Sequences]:
    """The rows in at most `groups` groups of like length, the longest first; `index` tells where a row stood.

    groups: by default as many as give each about the tokens that suit the device (`GROUP_TOKENS`).

    The longest come first so that a batch that does not fit into memory says so at once.

    Raises:
        ValueError: `groups` is below 1.
    """
    if groups is None:
        groups = max(1, round(int(sequences.lengths.sum()) / group_tokens(sequences.input_ids.device)))
    if groups < 1:
        msg = f"groups must be at least 1, not {groups}"
        raise ValueError(msg)
    order = sequences.lengths.argsort(descending=True, stable=True)
    return [sequences.select(rows) for rows in order.tensor_split(min(groups, len(sequences)))]
