"""Pieces: what each token alone is decoded to. Searches and stop strings ask for the same few tokens all the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from harness.contracts import Model

_KNOWN: WeakKeyDictionary[Any, dict[int, str]] = WeakKeyDictionary()
"""By tokenizer."""


@dataclass(frozen=True)
class Pieces:
    """A tokenizer's decoder, and what it makes of single tokens."""

    decode: Callable[[Sequence[int]], str]
    known: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model) -> Pieces:
        """Those of a model's tokenizer."""
        return cls(model.decode, _KNOWN.setdefault(model.tokenizer, {}))

    def __getitem__(self, token: int) -> str:
        """The text of one token."""
        piece = self.known.get(token)
        if piece is None:
            piece = self.known[token] = self.decode([token])
        return piece
