"""Who pays for a forward pass: a hook on a watched module books it on the run that pays, else on the one that watches.

A pass that many questions share is paid by each for its own rows, so nobody's ledger tells who else was there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from harness.contracts import Model, ModelSize

if TYPE_CHECKING:
    import torch
    from torch.utils.hooks import RemovableHandle


class Payer(Protocol):
    """Who books passes: a run, or several that share them."""

    def book_pass(self, size: ModelSize, lengths: Sequence[int], trainable: int | None, *, other: bool = False) -> None:
        """Book a forward pass over rows of so many tokens."""

    def book_rows(self, shortened: int, dropped: int) -> None:
        """Book rows of a batch that did not fit the context."""


_UNCOUNTED: ContextVar[bool] = ContextVar("uncounted", default=False)
_PAYER: ContextVar[Payer | None] = ContextVar("payer", default=None)


@contextlib.contextmanager
def uncounted() -> Iterator[None]:
    """Inside, no run counts forward passes: for the sampler, which serves many runs at once and charges by itself."""
    token = _UNCOUNTED.set(True)
    try:
        yield
    finally:
        _UNCOUNTED.reset(token)


@contextlib.contextmanager
def paying(payer: Payer) -> Iterator[None]:
    """Inside, `payer` pays."""
    token = _PAYER.set(payer)
    try:
        yield
    finally:
        _PAYER.reset(token)


def who_pays() -> Payer | None:
    """Who pays now, if anyone said so."""
    return _PAYER.get()


def book_rows(shortened: int, dropped: int) -> None:
    """Book rows of a batch that did not fit the context on who pays, if anyone does."""
    if (payer := _PAYER.get()) is not None:
        payer.book_rows(shortened, dropped)


@dataclass(frozen=True)
class Shares:
    """Payers of one pass, each with how many of its rows are theirs, in the order of the rows."""

    parts: Sequence[tuple[Payer, int]]

    def book_pass(self, size: ModelSize, lengths: Sequence[int], trainable: int | None, *, other: bool = False) -> None:
        """Book on each payer a pass over the rows that are theirs."""
        start = 0
        for payer, rows in self.parts:
            payer.book_pass(size, lengths[start : start + rows], trainable, other=other)
            start += rows

    def book_rows(self, shortened: int, dropped: int) -> None:
        """Rows were fitted before they were shared."""


def watch_passes(model: Model, watcher: Payer, *, other: bool) -> RemovableHandle:
    """Have every forward pass of `model` booked from now on, copies of it included, on who pays, else on `watcher`.

    other: whether the model is one beside the pipeline's own: a teacher, a judge.
    """

    def book(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not _UNCOUNTED.get():
            found = output[0] if isinstance(output, tuple | list) else next(iter(output.values()))
            trainable = _trainable(model, module) if found.requires_grad else None
            (_PAYER.get() or watcher).book_pass(model.size, _lengths(args, kwargs), trainable, other=other)

    return model.module.register_forward_hook(book, with_kwargs=True)


def _trainable(model: Model, module: torch.nn.Module) -> int:
    adapter = () if model.adapter is None else model.adapter.parameters()
    return sum(p.numel() for part in (module.parameters(), adapter) for p in part if p.requires_grad)


def _lengths(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int]:
    """Tokens of each row that a module was called with, padding left out."""
    if (mask := kwargs.get("attention_mask")) is not None:
        lengths: list[int] = mask.sum(-1).tolist()
        return lengths
    ids = kwargs.get("input_ids", args[0] if args else None)
    rows, width = (kwargs["inputs_embeds"] if ids is None else ids).shape[:2]
    return [width] * rows
