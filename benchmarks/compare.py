"""The speed gate: whether the working tree is slower than an earlier revision.

    python -m benchmarks.compare BASE [--rounds N] [--only NAME]

BASE is checked out into a temporary worktree, and the benchmarks of the working tree (`tests/benchmarks`) measure both
in turn, base, head, base, head, each time in a fresh process of one thread. A shared machine disturbs single
measurements by a factor of two, but only ever upwards, so minima are compared; each is divided by the minimum of a
fixed loop that ran beside it, so that a machine that slows down slows nobody; and what looks slower is measured again.

Exit codes: 0 nothing is slower, 1 something is slower or no longer runs, 2 there is nothing to compare.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from tabulate import tabulate

from benchmarks.timings import BENCHMARKS, Timing, measure

ROOT = Path(__file__).parents[1]
FACTOR = 1.3
"""Slower by more than this is a regression."""
ROUNDS = 4
"""Processes a tree; as many again where something looks slower."""
FAILING = ("slower", "broken")


class NothingToCompareError(click.ClickException):
    """The revision or the benchmark does not exist, or nothing ran on both sides."""

    exit_code = 2


@dataclass(frozen=True)
class Verdict:
    """What is said of one benchmark."""

    name: str
    base_s: float | None
    head_s: float | None
    ratio: float | None
    """Head over base, each by the pace of its machine."""
    word: str
    """`ok`, `slower`, `faster`, `new` (base cannot run it) or `broken` (head cannot)."""


def judge(name: str, base: Sequence[Timing], head: Sequence[Timing]) -> Verdict:
    """Compare the minima of one benchmark's rounds."""
    base_s, head_s = (min((timing.seconds for timing in side), default=None) for side in (base, head))
    if not base or not head:
        return Verdict(name, base_s, head_s, None, "new" if head else "broken")
    ratio = min(timing.pace for timing in head) / min(timing.pace for timing in base)
    word = "slower" if ratio > FACTOR else "faster" if ratio < 1 / FACTOR else "ok"
    return Verdict(name, base_s, head_s, ratio, word)


def compare(base: Path, head: Path, rounds: int, names: Sequence[str]) -> list[Verdict]:
    """Measure two trees in turn, and judge each benchmark. What looks slower is measured as often again before it is.

    Raises:
        NothingToCompareError: no benchmark ran on both sides.
    """
    sides: list[list[Mapping[str, Timing]]] = [[], []]

    def measured(names: Sequence[str]) -> list[Verdict]:
        for _ in range(rounds):
            for side, tree in zip(sides, (base, head), strict=True):
                side.append(measure(tree, Path(scratch), names))
        return [judge(name, *([of[name] for of in side if name in of] for side in sides)) for name in names]

    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        verdicts = measured(names)
        if suspects := [verdict.name for verdict in verdicts if verdict.word == "slower"]:
            again = {verdict.name: verdict for verdict in measured(suspects)}
            verdicts = [again.get(verdict.name, verdict) for verdict in verdicts]
    if all(verdict.ratio is None for verdict in verdicts):
        msg = f"no benchmark ran on both sides: {', '.join(f'{v.name} is {v.word}' for v in verdicts)}"
        raise NothingToCompareError(msg)
    return verdicts


def git(repository: Path, *arguments: str) -> str:
    """What git says.

    Raises:
        subprocess.CalledProcessError: it fails.
    """
    done = subprocess.run(["git", "-C", str(repository), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@contextlib.contextmanager
def checked_out(revision: str, repository: Path) -> Iterator[Path]:
    """The tree of a revision in a temporary worktree, which is gone afterwards, whatever happens.

    Raises:
        NothingToCompareError: there is no such revision.
    """
    try:
        commit = git(repository, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    except subprocess.CalledProcessError as error:
        msg = f"{revision!r} is no revision of {repository}"
        raise NothingToCompareError(msg) from error
    # By itself SIGTERM would unwind nothing.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            tree = Path(folder) / "tree"
            git(repository, "worktree", "add", "--detach", str(tree), commit)
            yield tree
    finally:
        signal.signal(signal.SIGTERM, before)
        git(repository, "worktree", "prune")  # what git remembers of a folder that is gone


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts for people; the times are minima in milliseconds."""

    def ms(seconds: float | None) -> str:
        return "" if seconds is None else f"{1000 * seconds:.1f}"

    rows = [(v.name, ms(v.base_s), ms(v.head_s), "" if v.ratio is None else f"{v.ratio:.2f}", v.word) for v in verdicts]
    heads = ("benchmark", "base ms", "head ms", "ratio", "verdict")
    return tabulate(
        rows, heads, tablefmt="github", colalign=("left", "right", "right", "right", "left"), disable_numparse=True
    )


def known(_context: click.Context, _parameter: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    """The benchmarks asked for, or all there are."""
    every = tuple(sorted(path.stem.removeprefix("bench_") for path in BENCHMARKS.glob("bench_*.py")))
    if unknown := sorted(set(names) - set(every)):
        msg = f"no benchmark is called {unknown[0]!r}: there are {', '.join(every)}"
        raise NothingToCompareError(msg)
    return names or every


@click.command()
@click.argument("base")
@click.option("--rounds", type=click.IntRange(min=1), default=ROUNDS, show_default=True, help="Processes a tree.")
@click.option("--only", "names", multiple=True, metavar="NAME", callback=known, help="A benchmark; may be repeated.")
def main(base: str, rounds: int, names: tuple[str, ...]) -> None:
    """Compare the speed of the working tree with that of revision BASE."""
    with checked_out(base, ROOT) as tree:
        verdicts = compare(tree, ROOT, rounds, names)
    click.echo(table(verdicts))
    failed = [verdict for verdict in verdicts if verdict.word in FAILING]
    for verdict in failed:
        click.echo(f"{verdict.name} is {verdict.word} (limit: {FACTOR} times base)", err=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
