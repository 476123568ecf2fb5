"""Boards: records in, leaderboards out. Nothing is run and nothing is remembered, so any board can be made again.

A row is one pipeline with one config on one model and dataset; its seeds are averaged. A row is compared with what is
comparable only: ranks within one model and dataset, on the problem ids that most rows share; the difference to its
start row on the same problems and the same seeds. A row that lost a seed has no rank: its survivors flatter it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.contracts import Metric
from harness.entries import Cell, Entry, Row, answer_cells, entries_of, grouped, status_of, timing_cells
from harness.statistics import accuracy_interval, holm, paired, percentile, rank_ranges
from harness.store import Store
from harness.tables import ACCURACY, COST, CURVES, FIGURES, LATENCY, VERDICTS, VERIFIERS, render, write_boards

__all__ = ["make_boards", "render", "write_boards"]


@contextlib.contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Records are trees without rings, and there are many: looking for rings in them takes longer than the boards."""
    working = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if working:
            gc.enable()


@_collector_at_rest()
def make_boards(
    store_folder: str | Path, metrics: Sequence[Metric], keys: Container[str] | None = None
) -> dict[str, list[Row]]:
    """Rows of boards `accuracy`, `latency`, `verifiers` and `curves`, from all records of a folder or those in `keys`.

    Raises:
        StoreError: a record is torn, foreign, or lacks what a board needs.
    """
    store = Store(store_folder)
    all_answers, timings = answer_cells(store, metrics, keys), timing_cells(store, keys)
    answers = [cell for cell in all_answers if not cell.spec.get("curve")]
    columns = [column for metric in metrics for column in metric.columns if column not in ACCURACY]
    entries = [entry for cells in grouped(answers, lambda cell: cell.arena) for entry in _ranked(cells, columns)]
    tested = [entry.row for entry in entries if entry.row["p_adjusted"] is not None]
    for row, p in zip(tested, holm([row["p_adjusted"] for row in tested]), strict=True):
        row["p_adjusted"] = p
    return {
        "accuracy": [entry.row for entry in entries],
        "latency": _latency_rows(entries, timings),
        "verifiers": _verifier_rows(entries, timings),
        "curves": _curve_rows(all_answers),
    }


def _ranked(cells: Sequence[Cell], columns: Sequence[str]) -> list[Entry]:
    """Entries of one arena with their rows, sorted; p-values are not adjusted yet."""
    entries = entries_of(cells)
    votes = Counter(entry.ids for entry in entries if entry.cells)
    usual = max(votes, key=lambda ids: (votes[ids], len(ids), ids), default=())
    expected = {cell.spec["seed"] for cell in cells}
    starts = defaultdict(list)
    for entry in entries:
        starts[entry.any.spec["pipeline"]].append(entry)
    for entry in entries:
        entry.row = _row(entry, usual, len(expected), columns)
        if entry.cells:
            entry.row |= _accuracy(entry) | _delta(entry, starts[entry.any.spec.get("start")])
    able = [e for e in entries if e.cells and not e.lost and e.ids == usual and not e.row["upper_bound"]]
    ranges = rank_ranges([(entry.row["ci_low"], entry.row["ci_high"]) for entry in able])
    for entry, (low, high) in zip(able, ranges, strict=True):
        entry.row |= {"rank_low": low, "rank_high": high}
    return sorted(entries, key=lambda e: (not e.cells, -(e.row["accuracy"] or 0.0), *e.any.identity, e.any.key))


def _row(entry: Entry, usual: tuple[str, ...], expected: int, columns: Sequence[str]) -> Row:
    spec = entry.any.spec
    status, reason = status_of(entry, expected)
    if entry.cells and entry.ids != usual:
        status, reason = "other problems", f"{len(entry.ids)} problems, not the {len(usual)} of most rows"
    told = {name: spec.get(name) for name in ("pipeline", "method", "family", "model", "dataset", "start", "config")}
    return {
        **dict.fromkeys(ACCURACY),
        **told,
        **{name: entry.figure(name) for name in (*FIGURES, *columns)},
        **_described(entry, status, reason),
    }


def _described(entry: Entry, status: str, reason: str | None) -> Row:
    """What every row says of its seeds, problems, state and machine."""
    spec = entry.any.spec
    return {
        "seeds": [cell.spec["seed"] for cell in entry.cells],
        "n": len(entry.ids),
        "status": status,
        "reason": reason,
        "control": bool(spec.get("control")),
        "upper_bound": bool(spec.get("upper_bound")),
        "machine": "; ".join(sorted({cell.machine for cell in entry.cells if cell.machine})),
    }


def _accuracy(entry: Entry) -> Row:
    correct_PS = entry.correct([cell.spec["seed"] for cell in entry.cells])
    low, high = accuracy_interval(correct_PS)
    return {"accuracy": float(correct_PS.mean()), "ci_low": low, "ci_high": high}


def _delta(entry: Entry, starts: Sequence[Entry]) -> Row:
    seeds = {cell.spec["seed"] for cell in entry.cells}
    rivals = [
        (sorted(seeds & {cell.spec["seed"] for cell in start.cells}), start)
        for start in starts
        if start is not entry and start.ids == entry.ids
    ]
    shared, start = max(rivals, key=lambda rival: len(rival[0]), default=([], entry))
    if not shared:
        return {}
    right_PS, before_PS = entry.correct(shared), start.correct(shared)
    found = paired(right_PS, before_PS)
    p = None if entry.row["upper_bound"] else found.p  # an upper bound is no claim that needs a test
    return {
        "delta": found.delta,
        "delta_low": found.low,
        "delta_high": found.high,
        "p_adjusted": p,
        "fixed": float((right_PS & ~before_PS).mean()),
        "broken": float((~right_PS & before_PS).mean()),
    }


# -- latency


def _latency_rows(entries: Sequence[Entry], timings: Sequence[Cell]) -> list[Row]:
    answered: dict[tuple[str, ...], Entry] = {}
    for entry in entries:
        answered.setdefault(entry.any.identity, entry)
    timed: defaultdict[tuple[str, ...], list[Cell]] = defaultdict(list)
    expected: defaultdict[tuple[str, ...], set[int]] = defaultdict(set)
    for cell in timings:
        timed[cell.identity].append(cell)
        expected[cell.arena].add(cell.spec["seed"])
    made = []
    for identity in sorted(answered.keys() | timed.keys()):
        found = answered.get(identity)
        row = _latency_row(timed[identity], found, len(expected[identity[:2]]))
        made.append((row, found.ids if found else ()))
    for same in grouped(made, lambda pair: (pair[0]["model"], pair[0]["dataset"], pair[1])):
        _add_break_even([row for row, _ in same])
    rows = [row for row, _ in made]
    return sorted(rows, key=lambda r: (r["model"], r["dataset"], r["p50_s"] is None, r["p50_s"] or 0.0, r["pipeline"]))


def _latency_row(cells: Sequence[Cell], entry: Entry | None, expected: int) -> Row:
    good = sorted((cell for cell in cells if cell.ok), key=lambda cell: (cell.spec["seed"], cell.key))
    seen = {cell.spec["seed"] for cell in good}
    timing = Entry(good, [cell for cell in cells if not cell.ok and cell.spec["seed"] not in seen])
    spec = (cells[0] if cells or entry is None else entry.any).spec
    if good or timing.lost:
        status, reason = status_of(timing, expected)
    elif entry is not None and entry.cells:
        status, reason = "not timed", None
    else:
        status, reason = (entry.row["status"], entry.row["reason"]) if entry else ("not timed", None)
    told = {name: spec.get(name) for name in ("pipeline", "model", "dataset", "method", "family", "config")}
    return {
        **dict.fromkeys(LATENCY),
        **told,
        **(_times([cell.timing for cell in good]) if good else {}),
        **{name: entry.figure(name) if entry else None for name in COST},
        "accuracy": entry.row["accuracy"] if entry else None,
        "seeds": sorted(seen),
        "status": status,
        "reason": reason,
        "control": bool(spec.get("control")),
        "upper_bound": bool(spec.get("upper_bound")),
        "machine": "; ".join(sorted({cell.machine for cell in good if cell.machine})),
    }


def _times(timings: Sequence[Mapping[str, Any]]) -> Row:
    """Latencies of all seeds together; the ratio to greedy within each process, then averaged."""
    seconds = [value for timing in timings for value in timing["latency_s"]]
    ratios = [
        percentile(timing["latency_s"], 50) / greedy
        for timing in timings
        if timing["latency_s"] and timing.get("greedy_latency_s")
        if (greedy := percentile(timing["greedy_latency_s"], 50)) > 0
    ]
    busy = math.fsum(timing.get("throughput_s") or 0.0 for timing in timings)
    peaks = [timing["peak_memory_bytes"] for timing in timings if timing.get("peak_memory_bytes") is not None]
    return {
        "p50_s": percentile(seconds, 50) if seconds else None,
        "p95_s": percentile(seconds, 95) if seconds else None,
        "ratio_to_greedy": math.fsum(ratios) / len(ratios) if ratios else None,
        "throughput_qps": sum(t.get("throughput_questions") or 0 for t in timings) / busy if busy > 0 else None,
        "peak_memory_bytes": max(peaks, default=None),
    }


def _add_break_even(rows: Sequence[Row]) -> None:
    """Questions after which training is repaid by cheaper answers, against the quickest row as good that trained less.

    rows: of one model and dataset, on the same problems. An upper bound cannot be deployed: it is no rival.
    """
    real = [r for r in rows if None not in (r["p50_s"], r["accuracy"], r["train_s"]) and not r["upper_bound"]]
    p50, accuracy, train = (np.array([row[name] for row in real]) for name in ("p50_s", "accuracy", "train_s"))
    for row in real:
        rivals = np.flatnonzero((train < row["train_s"]) & (accuracy >= row["accuracy"]))
        if rivals.size:
            rival = rivals[np.argmin(p50[rivals])]
            saved = float(p50[rival]) - row["p50_s"]
            if saved > 0:
                questions = (row["train_s"] - float(train[rival])) / saved
                row["break_even_questions"] = math.ceil(questions * (1 - 1e-12))  # 100.00000000000001 is 100


# -- verifiers


def _verifier_rows(entries: Sequence[Entry], timings: Sequence[Cell]) -> list[Row]:
    """One row for each pipeline whose answers show what a scorer is worth, those that rank best within a problem first.

    A search answers by a scorer as well, but its solutions are chosen ones: no curve over plain samples, no AUC.
    """
    timed: defaultdict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for cell in timings:
        timed[cell.identity].append(cell.timing)
    rows = [_verifier_row(entry, timed[entry.any.identity]) for entry in entries if entry.any.spec.get("shows_scorer")]
    return sorted(rows, key=lambda r: (r["model"], r["dataset"], -(r["within_problem_auc"] or 0.0), r["pipeline"]))


def _verifier_row(entry: Entry, timings: Sequence[Mapping[str, Any]]) -> Row:
    scored = math.fsum(timing.get("scored") or 0 for timing in timings)
    seconds = math.fsum(timing.get("score_s") or 0.0 for timing in timings)
    spec = entry.any.spec
    return {
        **dict.fromkeys(VERIFIERS),
        **{name: entry.row[name] for name in VERIFIERS if name in entry.row},
        **{name: entry.figure(name) for name in (*VERDICTS, "train_s", "train_tokens")},
        "scorer": spec["scorer"],
        "policy": spec.get("start"),
        "s_per_1000": 1000 * seconds / scored if scored else None,
    }


# -- curves


def _curve_rows(cells: Sequence[Cell]) -> list[Row]:
    """Points of accuracy over tokens: answers that differ in nothing but the width that their method scales by.

    A width alone is no curve. Widths of one seed share their samples: the first four of sixteen are those of four.
    """
    rows = []
    for same in grouped([cell for cell in cells if cell.spec.get("scales")], lambda cell: cell.arena):
        expected = len({cell.spec["seed"] for cell in same})
        curves: defaultdict[tuple[str, ...], list[Row]] = defaultdict(list)
        for entry in entries_of(same):
            if entry.cells:
                curves[_curve_of(entry)].append(_point(entry, expected))
        rows += [row for curve in curves.values() if len(curve) > 1 for row in curve]
    return sorted(rows, key=lambda r: (r["model"], r["dataset"], r["curve"], r["width"], r["pipeline"]))


def _curve_of(entry: Entry) -> tuple[str, ...]:
    """What all points of a curve have in common."""
    spec = entry.any.spec
    fixed = {name: {k: v for k, v in config.items() if (name, k) != (spec["method"], spec["scales"])}
             for name, config in spec["config"].items()}  # fmt: skip
    return spec["method"], str(spec.get("start")), json.dumps(fixed, sort_keys=True), *entry.ids


def _without(label: str, option: str) -> str:
    """A pipeline as it is written without an option of its answering method."""
    if not label.endswith(")"):
        return label
    head, _, options = label.removesuffix(")").rpartition("(")
    left = [other for other in options.split(", ") if other != option]
    return f"{head}({', '.join(left)})" if left else head


def _point(entry: Entry, expected: int) -> Row:
    spec = entry.any.spec
    status, reason = status_of(entry, expected)
    width = spec["config"][spec["method"]][spec["scales"]]
    return {
        **dict.fromkeys(CURVES),
        **{name: spec.get(name) for name in ("pipeline", "method", "family", "model", "dataset", "config")},
        "curve": _without(spec["pipeline"], f"{spec['scales']}={width}"),
        "scales": spec["scales"],
        "width": width,
        **_accuracy(entry),
        "tokens_per_question": entry.figure("tokens_per_question"),
        **_described(entry, status, reason),
    }
