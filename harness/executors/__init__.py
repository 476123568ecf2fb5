"""Executors: where JSON jobs run. One interface, whether the work is done in this process, in workers or elsewhere.

A job holds no object, no closure and no path that only one machine has, so that an executor may carry it anywhere. This
package imports no torch and none of its own executors: `python -m harness.executors.worker` passes through here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Status = Literal["ok", "failed", "crashed", "timeout", "oom", "diverged", "skipped", "cancelled", "poisoned"]
"""How a job ended.

`failed`: it raised. `crashed`: it left by `sys.exit`, `os._exit` or a signal. `timeout`: it was stopped. `oom`: memory
ran out or passed the cap. `diverged`: it raised DivergedError. `skipped`: a job it comes after did not succeed.
`poisoned`: it failed so often before that it was not tried again.
"""


@dataclass(frozen=True)
class Job:
    """One call of the executor's target, named by a key that is unique within the executor."""

    key: str
    spec: dict[str, Any]
    """The target's only argument: JSON."""
    exclusive: bool = False
    """Timed work: it has the machine, and all of its threads, to itself."""
    group: str = ""
    """Jobs of one group share work that is done once: side by side they would do it twice."""
    after: tuple[str, ...] = ()
    """Keys of jobs that must have succeeded first."""
    timeout_s: float = 3600.0
    """Seconds from the moment the job begins; starting a worker is not counted."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended: a result exactly when `status` is `ok`, a one-line reason exactly when it is not."""

    key: str
    status: Status
    result: dict[str, Any] | None
    reason: str | None
    seconds: float
    """Time of the job itself, 0 where it never began."""
    log: str
    """The last 4 kB it printed, traceback included, free of control characters."""


class Executor(Protocol):
    """Runs jobs. `contextlib.closing(executor)` ends it, whatever happens."""

    def submit(self, job: Job) -> None:
        """Queue a job. It may come after a job that is submitted later.

        Raises:
            ValueError: the key is taken.
            TypeError: the spec is not JSON.
        """

    def as_completed(self) -> Iterator[Outcome]:
        """Run what was submitted and give one outcome a job, as they come. Jobs may be submitted in between."""

    def cancel(self) -> None:
        """Stop everything now; the next `as_completed` gives the `cancelled` outcomes of what had not ended."""

    def close(self) -> None:
        """End every process. No outcome follows."""
