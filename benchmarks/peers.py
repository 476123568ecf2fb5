"""`python -m benchmarks.peers`: how fast we are beside the tuned peers, side by side in one run.

The goals are those for one core: the same model, data, batches and steps on both sides, whole runs with their set-up.
Left out: a whole `harness run --all`, which takes minutes and has no peer.
A report and no test: it ends with 0 where a goal is missed, with 2 where it was called wrongly, and with 4 where the
model cannot be had.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from tabulate import tabulate

from benchmarks.pairs import Figures

if TYPE_CHECKING:
    from benchmarks.models import Setting

HEADER = (
    "work",
    "ratio (worst to best pair)",
    "ours s",
    "peer s",
    "% of limit",
    "padding %",
    "zero adv. %",
    "goal",
    "met",
)


@dataclass(frozen=True)
class Work:
    """One line of the table: the module that measures it, and the peers without which it says nothing."""

    module: str
    peers: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """Peers that are not installed."""
        return [name for name in self.peers if importlib.util.find_spec(name) is None]

    def measure(self, setting: Setting) -> dict[str, Figures]:
        """Figures by work. The module is imported now: its peers are slow to import."""
        measured: dict[str, Figures] = importlib.import_module(self.module).measure(setting)
        return measured


WORKS = {
    "sft": Work("benchmarks.sft", ("trl",)),
    "lora": Work("benchmarks.lora", ("trl", "peft")),
    "dpo": Work("benchmarks.dpo", ("trl",)),
    "grpo": Work("benchmarks.grpo", ("trl",)),
    "sampling": Work("benchmarks.sampling"),
    "sampling-long": Work("benchmarks.sampling_long"),
    "self-consistency": Work("benchmarks.self_consistency", ("its_hub",)),
    "overhead": Work("benchmarks.overhead"),
    "start-up": Work("benchmarks.start_up"),
}


def run_works(works: Mapping[str, Work], setting: Setting, say: Callable[[str], object]) -> dict[str, Figures | str]:
    """Figures by work, or why a work was skipped. What the peers print is lost: stdout is the report's alone."""
    found: dict[str, Figures | str] = {}
    for name, work in works.items():
        if missing := work.missing():
            found[name] = f"skipped: {' and '.join(missing)} not installed (pip install -e '.[dev]')"
            continue
        say(f"{name} ...")
        with contextlib.redirect_stdout(io.StringIO()):
            measured = work.measure(setting)
        for line, figures in measured.items():  # said now: what is measured is not lost where the rest is not awaited
            say(f"{line}: " + ", ".join(filter(None, [*row(line, figures)[1:4], *figures.notes])))
        found |= measured
    return found


def table(found: Mapping[str, Figures | str]) -> str:
    """The report for a terminal, notes below the table."""
    lines = [row(name, figures) for name, figures in found.items() if isinstance(figures, Figures)]
    notes = [
        f"{name}: {note}"
        for name, figures in found.items()
        for note in ([figures] if isinstance(figures, str) else [f"seconds of a {figures.unit}", *figures.notes])
    ]
    return "\n".join([tabulate(lines, HEADER, disable_numparse=True), "", *notes])


def row(name: str, figures: Figures) -> list[str]:
    """One line of the table; what does not apply is empty."""
    goal = ""
    if figures.at_least is not None:
        goal = f">= {figures.at_least:g}"
    elif figures.most_overhead is not None:
        goal = f"<= {figures.most_overhead:.0%}"
    elif figures.most_seconds is not None:
        goal = f"<= {figures.most_seconds:g} s"
    overhead = figures.overhead
    spread = str(figures.ratio or "")
    if overhead is not None:
        spread = f"{overhead.median:+.1%} ({overhead.low:+.1%} to {overhead.high:+.1%})"
    shares = (figures.limit_share, figures.padding, figures.zero_advantage)
    return [
        name,
        spread,
        f"{figures.ours:.3g}",
        "" if figures.peer is None else f"{figures.peer:.3g}",
        *("" if share is None else f"{100 * share:.0f}" for share in shares),
        goal,
        {True: "yes", False: "no", None: ""}[figures.met],
    ]


def as_json(found: Mapping[str, Figures | str]) -> dict[str, Any]:
    """By work its figures, or `skipped` with the reason."""
    return {
        name: {"skipped": figures} if isinstance(figures, str) else figures.to_json() for name, figures in found.items()
    }


def chosen(only: str) -> dict[str, Work]:
    """The works that are named, or all.

    Raises:
        click.BadParameter: one is unknown.
    """
    names = [name.strip() for name in only.split(",")] if only else list(WORKS)
    if unknown := [name for name in names if name not in WORKS]:
        msg = f"{', '.join(map(repr, unknown))}: there are {', '.join(WORKS)}"
        raise click.BadParameter(msg, param_hint="--only")
    return {name: WORKS[name] for name in WORKS if name in names}


@click.command()
@click.option("--quick", is_flag=True, help="One pair of next to no work: whether it works, not how fast.")
@click.option("--json", "in_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--only", default="", help=f"Works to measure, with commas between: {', '.join(WORKS)}.")
@click.option("--model", type=click.Choice(["tiny", "smollm2"]), default="tiny", show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def main(quick: bool, in_json: bool, only: str, model: str, device: str) -> None:
    """How fast we are beside TRL, transformers, its_hub and optillm, tuned, side by side in one run."""
    works = chosen(only)
    # Nothing is fetched, TRL tells nobody of its trainers, and no bar is drawn over the report.
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    from benchmarks import models  # noqa: PLC0415 - torch and transformers, which `--help` does not need
    from harness.builtin.devices import Cpu, Cuda  # noqa: PLC0415 - beside them

    chip = Cpu() if device == "cpu" else Cuda()
    if not chip.available():
        msg = f"torch finds no {device} device"
        raise click.BadParameter(msg, param_hint="--device")
    try:
        setting = models.open_setting(model, chip, quick=quick)
    except models.ModelAbsentError as error:
        click.echo(error, err=True)
        sys.exit(4)
    found = run_works(works, setting, lambda line: click.echo(line, err=True))
    click.echo(json.dumps(as_json(found), indent=1) if in_json else table(found))


if __name__ == "__main__":
    main()
