"""What a run shows while it goes: live bars on a terminal, one plain line an event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.executors import Outcome
from harness.plan import PlannedJob


class Reporter(Protocol):
    """Hears what happens in a run."""

    def begin(self, jobs: Sequence[PlannedJob], kept: int) -> None:
        """The run begins: `jobs` are to be done, `kept` results are in the store already."""

    def event(self, key: str, event: Mapping[str, Any]) -> None:
        """A job says how far it is."""

    def end(self, job: PlannedJob, outcome: Outcome) -> None:
        """A job ended."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def title(job: PlannedJob) -> str:
    """A job in words."""
    if job.kind == "stage":
        return f"train {job.spec['method']['name']} (seed {job.spec['seed']})"
    verb = "answer" if job.kind == "answers" else "time"
    return f"{verb} {job.spec['row']['pipeline']} (seed {job.spec['seed']})"


def result_text(outcome: Outcome) -> str:
    """The end of a job in words."""
    if outcome.status != "ok":
        return f"{outcome.status}: {outcome.reason}"
    note = outcome.result or {}
    if "accuracy" in note:
        return f"accuracy {note['accuracy']:.3f}"
    if "p50_s" in note:
        return f"p50 {1000 * note['p50_s']:.1f} ms"
    if "tokens" in note:
        return f"{note['tokens']:,} tokens"
    return "done"


class PlainReporter:
    """One line for the start and one for each job that ended; nothing that moves."""

    def __init__(self, console: Console) -> None:
        self.console, self.total, self.done = console, 0, 0

    def begin(self, jobs: Sequence[PlannedJob], kept: int) -> None:
        """Say how much there is to do."""
        self.total = len(jobs)
        self.console.print(f"{len(jobs)} jobs to do, {kept} results already in the store", highlight=False)

    def event(self, key: str, event: Mapping[str, Any]) -> None:
        """Stay silent: logs want no moving parts."""

    def end(self, job: PlannedJob, outcome: Outcome) -> None:
        """One line."""
        self.done += 1
        text = f"[{self.done}/{self.total}] {title(job)}: {result_text(outcome)} ({outcome.seconds:.1f} s)"
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to undo."""


class LiveReporter:
    """A bar for the whole run, one for each job at work, and a line for each that ended."""

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=30))
        self.progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
        self.tasks: dict[str, TaskID] = {}
        self.jobs: dict[str, PlannedJob] = {}
        self.overall: TaskID | None = None
        self.started = time.monotonic()

    def begin(self, jobs: Sequence[PlannedJob], kept: int) -> None:
        """Start the overall bar."""
        self.jobs = {job.key: job for job in jobs}
        self.console.print(f"{len(jobs)} jobs to do, {kept} results already in the store", highlight=False)
        self.overall = self.progress.add_task("all jobs", total=max(1, len(jobs)))

    def event(self, key: str, event: Mapping[str, Any]) -> None:
        """Move the bar of a job, which appears with its first event."""
        if key not in self.tasks and key in self.jobs:
            self.tasks[key] = self.progress.add_task(f"  {title(self.jobs[key])}", total=1.0)
        if key in self.tasks and "progress" in event:
            so_far = f": accuracy {event['accuracy']:.3f} so far" if "accuracy" in event else ""
            description = f"  {title(self.jobs[key])}{so_far}"
            self.progress.update(self.tasks[key], description=description, completed=float(event["progress"]))

    def end(self, job: PlannedJob, outcome: Outcome) -> None:
        """Replace the bar of a job by a line."""
        if job.key in self.tasks:
            self.progress.remove_task(self.tasks.pop(job.key))
        style = "green" if outcome.status == "ok" else "red"
        text = f"{title(job)}: {result_text(outcome)} ({outcome.seconds:.1f} s)"
        self.progress.console.print(text, style=style, markup=False, highlight=False)
        if self.overall is not None:
            self.progress.advance(self.overall)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the terminal back."""
        self.progress.stop()


def make_reporter(console: Console) -> Reporter:
    """Live bars where a person looks on, plain lines elsewhere."""
    return LiveReporter(console) if console.is_terminal else PlainReporter(console)
