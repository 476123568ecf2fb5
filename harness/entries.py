"""Entries: records read once, made small, and put together as the rows-to-be of a board.

A cell is one seed: what its record says, less the texts. An entry is one pipeline with one config on one model and
dataset: its answered seeds and its lost ones. Answers to different problems never meet in one entry, and neither do two
records of one seed.
Shapes: P problems in the order of their sorted ids, S seeds.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.contracts import Metric
from harness.statistics import mean
from harness.store import FOLDERS, Store, StoreError

T = TypeVar("T")
Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One seed of a row: what its record says, less the answers' text."""

    spec: Mapping[str, Any]
    key: str
    status: str
    reason: str | None
    machine: str = ""
    ids: tuple[str, ...] = ()
    correct: NDArray[np.bool_] | None = None
    """(P,), in the order of `ids`."""
    figures: Mapping[str, float | None] = field(default_factory=dict)
    timing: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there are facts to make figures of."""
        return self.status == "ok"

    @cached_property
    def arena(self) -> tuple[str, str]:
        """Only rows of one arena meet."""
        return str(self.spec["model"]), str(self.spec["dataset"])

    @cached_property
    def identity(self) -> tuple[str, ...]:
        """What the seeds of one row have in common."""
        config = json.dumps(self.spec.get("config"), sort_keys=True)
        return (*self.arena, str(self.spec["pipeline"]), config, str(self.spec.get("limit")))


@dataclass
class Entry:
    """One row in the making: its answered seeds and its lost ones."""

    cells: list[Cell]
    lost: list[Cell]
    note: str | None = None
    row: Row = field(default_factory=dict)

    @property
    def any(self) -> Cell:
        """A cell whose spec speaks for all, seed aside."""
        return (self.cells or self.lost)[0]

    @property
    def ids(self) -> tuple[str, ...]:
        """Problems that all its seeds answered, sorted; none where every seed is lost."""
        return self.cells[0].ids if self.cells else ()

    def correct(self, seeds: Sequence[int]) -> NDArray[np.bool_]:
        """Whether each problem was answered right, (P, S), for seeds that were answered."""
        columns = {cell.spec["seed"]: cell.correct for cell in self.cells}
        return np.stack([column for seed in seeds if (column := columns[seed]) is not None], axis=1)

    def figure(self, name: str) -> float | None:
        """Return the mean over seeds of what a metric said, where it said something."""
        return mean(value for cell in self.cells if (value := cell.figures.get(name)) is not None)


def answer_cells(store: Store, metrics: Sequence[Metric], keys: Container[str] | None = None) -> list[Cell]:
    """Cells of all answers, or of those in `keys`, and of the jobs that failed to give any.

    Raises:
        StoreError: a record is torn, foreign, or lacks what a board needs.
    """
    known: dict[tuple[str, ...], tuple[tuple[str, ...], NDArray[np.intp]]] = {}
    failures = list(_failures(store, keys))
    cells = [_answers_cell(record, metrics, known) for record in store.each("answers") if _wanted(record, keys)]
    cells += [_failed_cell(record) for record in failures if record["kind"] == "answers"]
    # A stage that failed is a failed row of its own pipeline, unless that pipeline's cell speaks for itself.
    spoken = {(cell.identity, cell.spec["seed"]) for cell in cells}
    stages = [_failed_cell(record) for record in failures if record["kind"] == "stage" and "pipeline" in record["spec"]]
    return cells + [cell for cell in stages if (cell.identity, cell.spec["seed"]) not in spoken]


def timing_cells(store: Store, keys: Container[str] | None = None) -> list[Cell]:
    """Cells of all timings, or of those in `keys`, and of the jobs that failed to give any.

    Raises:
        StoreError: a record is torn, foreign, or lacks what a board needs.
    """
    cells = [_timing_cell(record) for record in store.each("timing") if _wanted(record, keys)]
    return cells + [_failed_cell(record) for record in _failures(store, keys) if record["kind"] == "timing"]


def _wanted(record: Mapping[str, Any], keys: Container[str] | None) -> bool:
    return keys is None or record["key"] in keys


def _failures(store: Store, keys: Container[str] | None) -> Iterator[Mapping[str, Any]]:
    """Last attempts of the keys that have no record."""
    done = {kind: store.keys(kind) for kind in FOLDERS}
    for key in store.attempted():
        attempts = store.attempts(key)
        if attempts and _wanted(attempts[-1], keys) and key not in done.get(attempts[-1]["kind"], ()):
            yield attempts[-1]


def _whole(make: Callable[[], Cell], record: Mapping[str, Any]) -> Cell:
    try:
        cell = make()
        _ = (cell.identity, int(cell.spec["seed"]))
    except (KeyError, TypeError, ValueError) as error:
        msg = f"record {record.get('key')} ({record.get('kind')}) lacks what a board needs: {error!r}"
        raise StoreError(msg) from error
    return cell


def _failed_cell(record: Mapping[str, Any]) -> Cell:
    return _whole(lambda: Cell(record["spec"], record["key"], record["status"], record.get("reason")), record)


def _timing_cell(record: Mapping[str, Any]) -> Cell:
    if record.get("status") != "ok":
        return _failed_cell(record)
    machine = _spoken(record.get("machine"))
    return _whole(lambda: Cell(record["spec"], record["key"], "ok", None, machine, timing=record), record)


def _answers_cell(
    record: Mapping[str, Any],
    metrics: Sequence[Metric],
    known: dict[tuple[str, ...], tuple[tuple[str, ...], NDArray[np.intp]]],
) -> Cell:
    if record.get("status") != "ok":
        return _failed_cell(record)

    def make() -> Cell:
        names = tuple(answer["id"] for answer in record["answers"])
        if not names or len(set(names)) < len(names):
            reason = "two answers to one problem" if names else "no answers"
            return Cell(record["spec"], record["key"], "failed", reason)
        if names not in known:
            order = sorted(range(len(names)), key=names.__getitem__)
            known[names] = tuple(names[i] for i in order), np.array(order)
        ids, order_P = known[names]
        correct_P = np.array([bool(answer["correct"]) for answer in record["answers"]])[order_P]
        figures, broken = _figures(record, metrics)
        machine = _spoken(record.get("machine"))
        return Cell(record["spec"], record["key"], "ok", broken, machine, ids, correct_P, figures)

    return _whole(make, record)


def _figures(record: Mapping[str, Any], metrics: Sequence[Metric]) -> tuple[dict[str, float | None], str | None]:
    figures: dict[str, float | None] = {}
    broken = []
    for metric in metrics:
        try:
            for name, value in metric.figures(record).items():
                figures[name] = float(value) if value is not None and math.isfinite(value) else None
        except Exception as error:  # noqa: BLE001 - a plugin's metric costs its own columns, not the board
            broken.append(f"metric {metric.name}: {type(error).__name__}: {error}")
    return figures, "; ".join(broken) or None


def _spoken(machine: Any) -> str:
    if not isinstance(machine, Mapping):
        return str(machine or "")
    return ", ".join(f"{name} {_spoken(machine[name])}" for name in sorted(machine))


def grouped(items: Iterable[T], by: Callable[[T], Hashable]) -> list[list[T]]:
    """Return the items in groups, the groups sorted by what `by` says of them."""
    groups: defaultdict[Any, list[T]] = defaultdict(list)
    for item in items:
        groups[by(item)].append(item)
    return [groups[name] for name in sorted(groups)]


def entries_of(cells: Sequence[Cell]) -> list[Entry]:
    """Rows of one arena: answers to different problems are never averaged, nor two records of one seed."""
    entries: list[Entry] = []
    for same in grouped(cells, lambda cell: cell.identity):
        answered: defaultdict[Any, list[Cell]] = defaultdict(list)
        times: Counter[Any] = Counter()
        for cell in sorted((cell for cell in same if cell.ok), key=lambda cell: (cell.spec["seed"], cell.key)):
            seed = (cell.ids, cell.spec["seed"])
            answered[cell.ids, times[seed]].append(cell)
            times[seed] += 1
        seen = {cell.spec["seed"] for rows in answered.values() for cell in rows}
        lost = sorted((c for c in same if not c.ok and c.spec["seed"] not in seen), key=lambda c: c.spec["seed"])
        found = [Entry(rows, []) for rows in answered.values()] or [Entry([], [])]
        found[0].lost = lost
        for entry in found:
            if any(count > 1 for (ids, _), count in times.items() if ids == entry.ids):
                entry.note = f"one of several records of a seed, key {entry.cells[0].key[:12]}"
        entries += [entry for entry in found if entry.cells or entry.lost]
    return entries


def status_of(entry: Entry, expected: int) -> tuple[str, str | None]:
    """Return the status of a row that should have `expected` seeds, and its reason in one line."""
    if not entry.cells:
        kinds = {cell.status for cell in entry.lost}
        return kinds.pop() if len(kinds) == 1 else "failed", _line(entry.lost[-1].reason)
    notes = [entry.note, *dict.fromkeys(cell.reason for cell in entry.cells)]
    notes += [f"seed {cell.spec['seed']} {cell.status}: {cell.reason}" for cell in entry.lost]
    done = len(entry.cells)
    return "ok" if done == expected else f"partial ({done} of {expected} seeds)", _line("; ".join(filter(None, notes)))


def _line(text: str | None) -> str | None:
    return " ".join(str(text or "").split()) or None
