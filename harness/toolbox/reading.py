"""Reading: forward passes whose results are wanted at chosen tokens only, those of many questions in one.

A scorer judges the completions of one question in plain code, and is asked in handfuls: alone, most of its time goes
into calls. Inside `together` each question has a thread, and what they want read without a gradient meets in one pass.
Shapes: R rows, T tokens of the longest, C tokens chosen, D width, V words.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

from harness.contracts import Model
from harness.paying import Payer, Shares, paying, who_pays
from harness.toolbox import llama
from harness.toolbox.batching import Sequences, read_tokens
from harness.toolbox.exchange import Exchange
from harness.toolbox.prefixes import state_of

Item = TypeVar("Item")
Value = TypeVar("Value")

WIDTH = 64
"""Questions read for side by side."""


@dataclass(frozen=True)
class Request:
    """Rows to read, and for whom."""

    payer: Payer
    model: Model
    rows: Sequences
    chosen: torch.Tensor
    """(R, T) which of their tokens are wanted."""
    words: bool


@dataclass(frozen=True)
class Meeting:
    """Where requests of one `together` go."""

    exchange: Exchange
    states: dict[int, object] = field(default_factory=dict)
    """By model, what its weights were when it was first met."""

    def is_lent(self, model: Model) -> bool:
        """Whether it has other weights for a moment, which the others do not mean: who lent them reads alone."""
        state = state_of(model.parameters())
        return self.states.setdefault(id(model), state) != state


_MEETING: ContextVar[Meeting | None] = ContextVar("meeting", default=None)


def together(function: Callable[[Item], Value], items: Sequence[Item]) -> list[Value]:
    """`function` of each item; what they read without a gradient, they read together.

    Raises:
        Exception: what the function, or a pass, raised.
    """
    if len(items) == 1:
        return [function(items[0])]
    meeting = Meeting(Exchange({"read": _serve}))

    def task(item: Item) -> Value:
        _MEETING.set(meeting)  # the thread's own context
        return function(item)

    return [result.unwrap() for result in meeting.exchange.map(task, items, width=WIDTH)]


def read(model: Model, rows: Sequences, chosen_RT: torch.Tensor, *, words: bool) -> torch.Tensor:
    """(C, V) logits, or without `words` (C, D) normed output of the last layer, at the chosen tokens, row after row."""
    meeting, payer = _MEETING.get(), who_pays()
    if meeting is None or payer is None or torch.is_grad_enabled() or meeting.is_lent(model):
        return _pass(model, rows, chosen_RT, words=words)
    found: torch.Tensor = meeting.exchange.submit("read", Request(payer, model, rows, chosen_RT, words))
    return found


def _serve(requests: list[Request]) -> list[torch.Tensor]:
    found: dict[int, torch.Tensor] = {}
    kinds: dict[tuple[int, bool], list[int]] = {}
    for place, request in enumerate(requests):
        kinds.setdefault((id(request.model), request.words), []).append(place)
    for places in kinds.values():
        for some in _batches(requests, places):
            found.update(zip(some, _read_as_one([requests[place] for place in some]), strict=True))
    return [found[place] for place in range(len(requests))]


def _batches(requests: Sequence[Request], places: Sequence[int]) -> Iterator[list[int]]:
    """Those of like length side by side, about as many tokens each."""
    some: list[int] = []
    rows = 0
    for place in sorted(places, key=lambda place: requests[place].rows.input_ids.shape[1]):
        count, width = requests[place].rows.input_ids.shape
        if some and (rows + count) * width > read_tokens(requests[place].chosen.device):
            yield some
            some, rows = [], 0
        some.append(place)
        rows += count
    yield some


@torch.no_grad()
def _read_as_one(requests: Sequence[Request]) -> Iterable[torch.Tensor]:
    first, parts = requests[0], [request.rows for request in requests]
    width = max(rows.input_ids.shape[1] for rows in parts)

    def joined(tensors: Iterable[torch.Tensor], fill: int = 0) -> torch.Tensor:
        return torch.cat([F.pad(x, (0, width - x.shape[1]), value=fill) for x in tensors])

    count = sum(map(len, parts))
    rows = Sequences(
        joined((rows.input_ids for rows in parts), first.model.pad),
        joined(rows.attention_mask for rows in parts),
        joined(rows.completion_mask for rows in parts),
        torch.arange(width, device=parts[0].index.device).expand(count, width),
        torch.arange(count, device=parts[0].index.device),
    )
    with paying(Shares([(request.payer, len(request.rows)) for request in requests])):
        found = _pass(first.model, rows, joined(request.chosen for request in requests), words=first.words)
    return torch.split(found, [int(request.chosen.sum()) for request in requests])


def _pass(model: Model, rows: Sequences, chosen_RT: torch.Tensor, *, words: bool) -> torch.Tensor:
    inputs = {
        "input_ids": rows.input_ids,
        "attention_mask": rows.attention_mask,
        "position_ids": rows.position_ids,
    }
    if llama.supports(model.module) and next(model.parameters()).dtype is torch.float32:
        return llama.read(model.module, inputs, chosen_RT, words=words)
    if not words:
        states = model.module(**inputs, output_hidden_states=True, use_cache=False).hidden_states
        chosen_KD: torch.Tensor = states[-1][chosen_RT]
        return chosen_KD
    # Logits are asked for only from the first chosen column on, where the model knows how to leave the others out.
    first = int(chosen_RT.any(0).long().argmax())
    knows = "logits_to_keep" in inspect.signature(model.module.forward).parameters
    keep = chosen_RT.shape[1] - first
    logits_RTV = model.module(**inputs, use_cache=False, **({"logits_to_keep": keep} if knows else {})).logits
    chosen_KV: torch.Tensor = logits_RTV[:, -keep:][chosen_RT[:, first:]]
    return chosen_KV
