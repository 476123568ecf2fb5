"""Jobs in this process, one after the other: for a debugger, with no guard against what a method may do."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from harness.executors import Job, Outcome
from harness.executors.attempt import attempt, load
from harness.executors.capture import TAIL_BYTES, plain
from harness.executors.process_state import reseed, seeded_imports
from harness.executors.schedule import Schedule


class Inline:
    """An executor without workers: no time-out, no memory cap, no capture; prints go where they go.

    An exception is an outcome, a KeyboardInterrupt ends the run. Order, seeds and results are those of `Local`.
    """

    def __init__(
        self, target: str = "harness.cell:execute", *, on_progress: Callable[[str, dict[str, Any]], None] | None = None
    ) -> None:
        self._target = target
        self._on_progress = on_progress
        self._schedule = Schedule()
        self._outcomes: deque[Outcome] = deque()

    def submit(self, job: Job) -> None:
        """See `Executor`."""
        self._schedule.add(job)

    def as_completed(self) -> Iterator[Outcome]:
        """See `Executor`."""
        while self._outcomes or self._schedule.unfinished:
            while self._outcomes:
                yield self._outcomes.popleft()
            for job, reason in self._schedule.hopeless():
                self._outcomes.append(Outcome(job.key, "skipped", None, reason, 0.0, ""))
            if not self._outcomes and (job_now := self._schedule.next()) is not None:
                self._outcomes.append(self._run(job_now))

    def cancel(self) -> None:
        """See `Executor`."""
        for job in self._schedule.drop():
            self._outcomes.append(Outcome(job.key, "cancelled", None, "cancelled before it began", 0.0, ""))

    def close(self) -> None:
        """See `Executor`."""
        self._schedule.drop()
        self._outcomes.clear()

    def _run(self, job: Job) -> Outcome:
        def progress(event: dict[str, Any]) -> None:
            copy = json.loads(json.dumps(event, allow_nan=False))
            if self._on_progress is not None:
                self._on_progress(job.key, copy)

        spec = json.loads(json.dumps(job.spec))
        interrupts: list[KeyboardInterrupt] = []

        def call() -> dict[str, Any]:
            try:
                return load(self._target)(spec, progress)
            except KeyboardInterrupt as interrupt:
                interrupts.append(interrupt)
                raise

        reseed()
        with seeded_imports():
            report = attempt(call)
        self._schedule.finish(job.key, "cancelled" if interrupts else report.status)
        if interrupts:
            self._outcomes.append(Outcome(job.key, "cancelled", None, "interrupted", report.seconds, ""))
            self.cancel()
            raise interrupts[0]
        return Outcome(
            job.key, report.status, report.result, report.reason, report.seconds, plain(report.trace)[-TAIL_BYTES:]
        )
