"""Which job is next: submission order, dependencies, groups and exclusive jobs. Pure bookkeeping, no processes."""

from __future__ import annotations

import json
from collections.abc import Iterator

from harness.executors import Job, Status


class Schedule:
    """Jobs on their way from waiting over running to done.

    Shared jobs go first, exclusive ones when no shared job runs or could run. Neither starves: a shared job that
    becomes ready delays the exclusive ones by its own length only, and there are finitely many.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, Job] = {}
        self._running: dict[str, Job] = {}
        self._done: dict[str, Status] = {}

    def add(self, job: Job) -> None:
        """Queue a job.

        Raises:
            ValueError: the key is taken, or the time-out is no positive number of seconds.
            TypeError: the spec is not JSON.
        """
        if job.key in self._waiting or job.key in self._running or job.key in self._done:
            msg = f"job {job.key!r} was submitted before"
            raise ValueError(msg)
        if not job.timeout_s > 0:
            msg = f"job {job.key!r} has a time-out of {job.timeout_s} s"
            raise ValueError(msg)
        json.dumps(job.spec, allow_nan=False)  # the error belongs to whoever submits, not to a worker
        self._waiting[job.key] = job

    @property
    def unfinished(self) -> bool:
        """Whether a job waits or runs."""
        return bool(self._waiting or self._running)

    def next(self, *, exclusive: bool = True) -> Job | None:
        """Take the job that should start now, or None. `exclusive=False` holds exclusive jobs back."""
        if any(job.exclusive for job in self._running.values()):
            return None
        ready = [job for job in self._waiting.values() if all(self._done.get(key) == "ok" for key in job.after)]
        shared = [job for job in ready if not job.exclusive]
        busy = {job.group for job in self._running.values()} - {""}
        if shared:
            # A group that runs elsewhere is second choice: its common work may be there when the other job ends.
            chosen = next((job for job in shared if job.group not in busy), shared[0])
        elif ready and exclusive and not self._running:
            chosen = ready[0]
        else:
            return None
        self._running[chosen.key] = self._waiting.pop(chosen.key)
        return chosen

    def finish(self, key: str, status: Status) -> None:
        """Book how a running or waiting job ended."""
        self._running.pop(key, None)
        self._waiting.pop(key, None)
        self._done[key] = status

    def hopeless(self) -> Iterator[tuple[Job, str]]:
        """Jobs that can never run, each with the reason; they are booked as skipped."""
        while found := self._find_hopeless():
            job, reason = found
            self.finish(job.key, "skipped")
            yield job, reason

    def _find_hopeless(self) -> tuple[Job, str] | None:
        stuck = not self._running
        for job in self._waiting.values():
            missing = [key for key in job.after if self._done.get(key) != "ok"]
            for key in missing:
                if key in self._done:
                    return job, f"comes after {key!r}, which is {self._done[key]}"
            stuck = stuck and bool(missing)
        if not stuck or not self._waiting:
            return None
        # Nothing runs and nothing is ready: somebody names a job that never came, or jobs wait for one another.
        for job in self._waiting.values():
            for key in job.after:
                if key not in self._done and key not in self._waiting:
                    return job, f"comes after {key!r}, which was never submitted"
        job = next(iter(self._waiting.values()))
        return job, f"comes after {next(k for k in job.after if k in self._waiting)!r}, which waits for it in turn"

    def drop(self) -> list[Job]:
        """Book everything that waits as cancelled, and give it back."""
        dropped = list(self._waiting.values())
        for job in dropped:
            self.finish(job.key, "cancelled")
        return dropped
