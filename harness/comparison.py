"""Comparisons: two results folders, or two pipelines of one, on the problems and seeds that both answered.

Accuracies are compared problem by problem, costs as ratios of the second to the first. What only one side has is named
and never averaged in. p-values are adjusted by Holm's method for the number of comparisons.
Shapes: P problems that both sides answered, S seeds that both have.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.boards import make_boards
from harness.config import ConfigError
from harness.contracts import Metric
from harness.entries import Entry, answer_cells, entries_of
from harness.runner import board_keys
from harness.statistics import holm, paired
from harness.store import Store

RATIOS = {"p50": "p50_s", "tokens": "tokens_per_question", "train": "train_s"}
"""Costs by the names that limits use, and what the latency board calls them."""


@dataclass(frozen=True)
class Comparison:
    """The second side beside the first: accuracies are shares, costs ratios (None where a side has no such figure)."""

    name: str
    problems: int
    left_out: int
    """Problems that one side alone answered."""
    seeds: tuple[int, ...]
    before: float
    after: float
    delta: float
    low: float
    high: float
    p: float
    fixed: tuple[str, ...]
    """Problems that more seeds got right than before."""
    broken: tuple[str, ...]
    costs: Mapping[str, float | None]


@dataclass(frozen=True)
class Side:
    """What a results folder holds: its entries, and its latency rows, by pipeline and config."""

    folder: Path
    entries: Mapping[tuple[str, str, str], Entry]
    """By dataset, pipeline and config."""
    costs: Mapping[tuple[str, str, str], Mapping[str, Any]]

    @classmethod
    def of(cls, folder: Path, metrics: Sequence[Metric]) -> Side:
        """Read a results folder.

        Raises:
            ConfigError: it is none, or holds rows of several models, or no answers.
            StoreError: a record is torn, foreign, or lacks what a board needs.
        """
        if not (folder / "board.json").is_file():
            msg = f"{folder} is no results folder: it has no board.json"
            raise ConfigError(msg)
        keys = board_keys(folder)
        entries = [e for e in entries_of(answer_cells(Store(folder), metrics, keys)) if e.cells]
        entries.sort(key=lambda entry: len(entry.ids))  # of rows that differ in their problems alone, the largest
        models = sorted({entry.any.arena[0] for entry in entries})
        if len(models) != 1:
            msg = f"{folder} holds answers of {len(models)} models ({', '.join(models)}): compare folders of one model"
            raise ConfigError(msg)
        rows = make_boards(folder, metrics, keys)["latency"]
        return cls(folder, {_name(entry.any.spec): entry for entry in entries}, {_name(row): row for row in rows})

    def find(self, pipeline: str) -> tuple[str, str, str]:
        """The name of the one entry with this pipeline.

        Raises:
            ConfigError: there is none, or there are several.
        """
        found = [name for name in self.entries if name[1] == pipeline]
        if len(found) != 1:
            like = difflib.get_close_matches(pipeline, sorted({name[1] for name in self.entries}), 3, 0.0)
            what = "no answers" if not found else f"{len(found)} rows"
            msg = f"{self.folder} has {what} of {pipeline!r}; most like it: {', '.join(map(repr, like))}"
            raise ConfigError(msg)
        return found[0]


def _name(facts: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(facts["dataset"]), str(facts["pipeline"]), json.dumps(facts.get("config"), sort_keys=True)


def compare_folders(first: Path, second: Path, metrics: Sequence[Metric]) -> tuple[list[Comparison], list[str]]:
    """Every row that both folders have, what changed most surely first, and a line for each that can't be compared.

    Raises:
        ConfigError, StoreError: as `Side.of`; or there is nothing that both have.
    """
    one, other = Side.of(first, metrics), Side.of(second, metrics)
    found, notes = [], []
    for name in sorted(one.entries.keys() | other.entries.keys()):
        if name in one.entries and name in other.entries:
            made = _compare(name[1], (one, name), (other, name))
            found += [made] if made else []
            notes += [] if made else [f"{name[1]}: no problem and seed that both answered"]
        else:
            notes.append(f"{name[1]}: only in {first if name in one.entries else second}")
    if not found:
        msg = f"{first} and {second} have no row in common: " + "; ".join(notes[:3])
        raise ConfigError(msg)
    adjusted = holm([each.p for each in found])
    found = [replace(each, p=p) for each, p in zip(found, adjusted, strict=True)]
    return sorted(found, key=lambda each: (each.p, -abs(each.delta), each.name)), notes


def compare_pipelines(folder: Path, first: str, second: str, metrics: Sequence[Metric]) -> Comparison:
    """Two rows of one folder.

    Raises:
        ConfigError, StoreError: as `Side.of` and `Side.find`; or they share no problem and seed.
    """
    side = Side.of(folder, metrics)
    made = _compare(f"{second} beside {first}", (side, side.find(first)), (side, side.find(second)))
    if made is None:
        msg = f"{first} and {second} have no problem and seed that both answered"
        raise ConfigError(msg)
    return made


def _compare(title: str, *sides: tuple[Side, tuple[str, str, str]]) -> Comparison | None:
    entries = [side.entries[name] for side, name in sides]
    seeds = sorted(set.intersection(*({cell.spec["seed"] for cell in entry.cells} for entry in entries)))
    ids = sorted(set.intersection(*(set(entry.ids) for entry in entries)))
    if not seeds or not ids:
        return None
    before_PS, after_PS = (_answers(entry, ids, seeds) for entry in entries)
    found, moved_P = paired(after_PS, before_PS), after_PS.sum(1) - before_PS.sum(1)
    costs = [side.costs.get(name, {}) for side, name in sides]
    return Comparison(
        name=title,
        problems=len(ids),
        left_out=len(set.union(*(set(entry.ids) for entry in entries))) - len(ids),
        seeds=tuple(seeds),
        before=float(before_PS.mean()),
        after=float(after_PS.mean()),
        **asdict(found),
        fixed=tuple(ids[place] for place in np.flatnonzero(moved_P > 0)),
        broken=tuple(ids[place] for place in np.flatnonzero(moved_P < 0)),
        costs={short: _ratio(*(cost.get(figure) for cost in costs)) for short, figure in RATIOS.items()},
    )


def _answers(entry: Entry, ids: Sequence[str], seeds: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """(P, S) whether each was right."""
    place = {name: number for number, name in enumerate(entry.ids)}
    return entry.correct(seeds)[[place[name] for name in ids]].astype(np.int64)


def _ratio(before: float | None, after: float | None) -> float | None:
    return after / before if before and after is not None else None


def described(each: Comparison) -> dict[str, str]:
    """A comparison as people read it, in percent and points."""
    apart = f" of {each.problems + each.left_out}" if each.left_out else ""
    return {
        "pipeline": each.name,
        "accuracy %": f"{100 * each.before:.1f} to {100 * each.after:.1f}",
        "points (95 %)": f"{100 * each.delta:+.1f} ({100 * each.low:+.1f} to {100 * each.high:+.1f})",
        "p": f"{each.p:.3f}",
        "fixed, broken": f"{len(each.fixed)}, {len(each.broken)}",
        **{f"x {short}": "" if ratio is None else f"{ratio:.2f}" for short, ratio in each.costs.items()},
        "problems": f"{each.problems}{apart}" + (f" x {len(each.seeds)} seeds" if len(each.seeds) > 1 else ""),
    }


def parse_limits(text: str) -> dict[str, float]:
    """Limits as they are typed: `accuracy:-0.02,p50:1.2`.

    Raises:
        ConfigError: a part is no name and number, or no such figure is compared.
    """
    limits = {}
    for part in text.split(","):
        name, _, number = part.strip().partition(":")
        try:
            limits[name] = float(number)
        except ValueError:
            limits[name] = math.nan
        if not math.isfinite(limits[name]):  # nothing would ever be beyond it
            msg = f"--fail-on {part.strip()!r}: expected NAME:NUMBER, like accuracy:-0.02 or p50:1.2"
            raise ConfigError(msg)
        if name != "accuracy" and name not in RATIOS:
            msg = f"--fail-on knows no {name!r}, but accuracy, {', '.join(RATIOS)}"
            raise ConfigError(msg)
    return limits


def shortfalls(found: Sequence[Comparison], limits: Mapping[str, float]) -> list[str]:
    """A line for each limit that a comparison does not keep, by its estimate; a figure that is missing keeps none.

    limits: the least difference of accuracies, and the largest ratio of each cost.
    """
    lines = []
    for each in found:
        for name, limit in limits.items():
            if name == "accuracy":
                if each.delta < limit:
                    lines.append(f"{each.name}: accuracy changed by {each.delta:+.3f}, below {limit:+g}")
            elif (ratio := each.costs[name]) is None:
                lines.append(f"{each.name}: {name} was not measured on both sides")
            elif ratio > limit:
                lines.append(f"{each.name}: {name} is {ratio:.2f} times as much, above {limit:g}")
    return lines
