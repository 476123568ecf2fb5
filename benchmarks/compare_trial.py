"""Trials of the speed gate: whether it catches what is slower, and keeps quiet where nothing is.

    python -m benchmarks.compare_trial [RUNS]

Half of the trials compare the last commit with a copy of itself in which one function does its work twice, the other
half with a plain copy. They alternate, so that both meet the same noise. Only benchmarks that need no torch take part:
20 and 20 trials last a quarter of an hour on one core.

Exit codes: 0 at least 95 % were caught and at most 5 % were false alarms, 1 otherwise.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks.compare import ROOT, ROUNDS, checked_out, compare

TARGETS = {"verify": ("data/harness_world/verifier.py", "verify"), "boards": ("harness/boards.py", "make_boards")}
"""Benchmark to the file and the function in it that most of its time is spent in."""
TWICE = """

_once = {name}


def {name}(*args, **kwargs):
    _once(*args, **kwargs)
    return _once(*args, **kwargs)
"""
CAUGHT, ALARMS = 0.95, 0.05


@contextlib.contextmanager
def doubled(tree: Path, file: str, name: str) -> Iterator[None]:
    """Inside, the function of that name in a file of `tree` does its work twice whenever it is called."""
    path = tree / file
    source = path.read_text(encoding="utf-8")
    path.write_text(source + TWICE.format(name=name), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(source, encoding="utf-8")


def flagged(base: Path, head: Path, told: str) -> list[str]:
    """Names of the benchmarks that the gate calls slower; what it measured is printed."""
    verdicts = compare(base, head, ROUNDS, tuple(TARGETS))
    click.echo(f"{told}: " + ", ".join(f"{v.name} {v.ratio or 0:.2f} {v.word}" for v in verdicts))
    return [verdict.name for verdict in verdicts if verdict.word == "slower"]


@click.command()
@click.argument("runs", type=click.IntRange(min=1), default=20)
def main(runs: int) -> None:
    """Count what is caught of RUNS slowdowns, and the alarms in as many trials without one."""
    caught = alarms = 0
    with checked_out("HEAD", ROOT) as base, checked_out("HEAD", ROOT) as head:
        for run in range(runs):
            slowed = list(TARGETS)[run % len(TARGETS)]
            with doubled(head, *TARGETS[slowed]):
                caught += slowed in flagged(base, head, f"{run + 1} {slowed} twice as slow")
            alarms += bool(flagged(base, head, f"{run + 1} no change"))
    click.echo(f"caught {caught} of {runs} slowdowns, {alarms} false alarms in {runs} trials without one")
    sys.exit(caught < CAUGHT * runs or alarms > ALARMS * runs)


if __name__ == "__main__":
    main()
