"""Interleaved pairs (A B A B ...): machines are shared, so only a ratio of neighbours in one run says anything."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from harness.contracts import Device

T = TypeVar("T")
Work = Callable[[], float]
"""Does the work that is timed; returns how many units of it were done, 1 where it is a whole run."""
Side = Callable[[], Work]
"""Makes ready what is not timed: a copy of the model, say."""
OURS = "ours"


def whole_run(ready: Callable[[], T], work: Callable[[T], object], units: float = 1) -> Side:
    """A side that does `work` on what was made `ready`: so many units of it each time, one run by default."""

    def side() -> Work:
        given = ready()

        def run() -> float:
            work(given)
            return units

        return run

    return side


def clock_of(device: Device) -> Callable[[], float]:
    """Seconds of the processor, which neighbours do not lengthen; elsewhere of the wall, what is queued waited for."""

    def wall() -> float:
        device.synchronize()
        return time.perf_counter()

    return time.process_time if device.name == "cpu" else wall


def interleave(sides: Mapping[str, Side], pairs: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds a unit of each side, round after round, after one round that warms up and is not counted.

    Raises:
        ValueError: `pairs` is below 1.
    """
    if pairs < 1:
        msg = f"pairs must be at least 1, not {pairs}"
        raise ValueError(msg)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(pairs + 1):
        for name, side in sides.items():
            work = side()
            gc.collect()  # nobody pays for the garbage of the other
            started = clock()
            units = work()
            took = clock() - started
            if number:
                seconds[name].append(took / units)
    return seconds


@dataclass(frozen=True)
class Ratio:
    """The median of the ratios of pairs, and the lowest and highest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, peer: Sequence[float], ours: Sequence[float]) -> Ratio:
        """How many times longer the peer takes, pair by pair."""
        ratios = [theirs / own for theirs, own in zip(peer, ours, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Figures:
    """One line of the report. What does not apply is None; shares are 0 to 1."""

    unit: str
    """What `ours` and `peer` are seconds of."""
    ours: float
    """Median seconds a unit."""
    peer: float | None = None
    ratio: Ratio | None = None
    limit_share: float | None = None
    """Of the time that the work takes at the rate of the bare matrix products, or at that of memory."""
    padding: float | None = None
    """Share of the peer's batches that is padding."""
    zero_advantage: float | None = None
    """Share of groups whose rewards are all equal."""
    at_least: float | None = None
    """The goal: for the ratio."""
    most_overhead: float | None = None
    """The goal: for how much longer ours takes than the peer, as a share."""
    most_seconds: float | None = None
    """The goal: for `ours`."""
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, unit: str, seconds: Mapping[str, Sequence[float]], peer: str, **facts: Any) -> Figures:
        """Of what `interleave` returned."""
        ratio = Ratio.of(seconds[peer], seconds[OURS])
        return cls(unit, statistics.median(seconds[OURS]), statistics.median(seconds[peer]), ratio, **facts)

    @property
    def overhead(self) -> Ratio | None:
        """How much longer ours takes than the peer, as a share, where that is what the goal is about."""
        if self.ratio is None or self.most_overhead is None:
            return None
        return Ratio(1 / self.ratio.median - 1, 1 / self.ratio.high - 1, 1 / self.ratio.low - 1)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        if self.most_seconds is not None:
            return self.ours <= self.most_seconds
        if self.ratio is None or (self.at_least is None and self.most_overhead is None):
            return None
        if self.at_least is not None:
            return self.ratio.median >= self.at_least
        return self.overhead is not None and self.overhead.median <= (self.most_overhead or 0.0)

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        ratio, overhead = self.ratio, self.overhead
        return {
            "ratio": ratio and ratio.median,
            "low": ratio and ratio.low,
            "high": ratio and ratio.high,
            "ours": self.ours,
            "peer": self.peer,
            "unit": self.unit,
            "limit_share": self.limit_share,
            "padding": self.padding,
            "zero_advantage": self.zero_advantage,
            "overhead": overhead and overhead.median,
            "goal": {"ratio": self.at_least, "overhead": self.most_overhead, "seconds": self.most_seconds},
            "met": self.met,
            "notes": list(self.notes),
        }
