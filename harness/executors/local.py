"""Jobs in worker processes of this machine: kept warm, watched, and replaced when they die or are no longer clean.

There is no thread: everything here happens inside `as_completed`, and nothing while the caller handles an outcome. So
the parent's own work never disturbs an exclusive job, and the caller's loop body should be short: time-outs and the
memory cap are late by as long as it takes, and a job that prints much waits for it.
"""

from __future__ import annotations

import selectors
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.executors import Job, Outcome, Status
from harness.executors.capture import Log, log_name, one_line
from harness.executors.environment import cores, worker_environment
from harness.executors.schedule import Schedule
from harness.executors.worker_handle import ProtocolError, WorkerHandle, describe_end

POLL_S = 0.25
"""How often deadlines and memory are looked at."""
TERM_GRACE_S = 5.0
"""From SIGTERM to SIGKILL for a job that is out of time."""
CANCEL_GRACE_S = 2.0
"""The same when the user waits."""
START_S = 300.0
"""Longest start of a worker: importing torch from a cold disk."""
_DYING_S = 1.0  # from the end of a worker's replies to its own

Verdict = tuple[Status, str]


@dataclass
class _Task:
    """A job in a worker, from the moment it is sent."""

    job: Job
    log: Log
    deadline: float
    started: float | None = None
    verdict: Verdict | None = None
    """Why it is being stopped."""
    kill_at: float = 0.0


class Local:
    """An executor on this machine's cores.

    target: `module:function`, imported by each worker.
    memory_bytes: most resident memory of a worker and all that it starts.
    log_cap_bytes, log_dir: one file a job is written to this folder, each at most this long.
    threads_per_worker: default is the cores shared among the workers; an exclusive job has all cores.
    on_progress: called with a job's key and each event it reports.
    env: what workers see beside this process's environment.
    """

    def __init__(
        self,
        target: str = "harness.cell:execute",
        *,
        workers: int = 2,
        memory_bytes: int | None = None,
        log_cap_bytes: int = 10_000_000,
        threads_per_worker: int | None = None,
        on_progress: Callable[[str, dict[str, Any]], None] | None = None,
        log_dir: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._target = target
        self._size = max(1, workers)
        self._memory_bytes = memory_bytes
        self._log_cap_bytes = log_cap_bytes
        self._threads = threads_per_worker or max(1, cores() // self._size)
        self._on_progress = on_progress
        self._log_dir = log_dir
        self._environment = worker_environment(self._threads, env or {})
        self._schedule = Schedule()
        self._outcomes: deque[Outcome] = deque()
        self._workers: dict[WorkerHandle, _Task | None] = {}  # None: warm and idle
        self._selector = selectors.DefaultSelector()
        self._next_look = 0.0

    def submit(self, job: Job) -> None:
        """See `Executor`."""
        self._schedule.add(job)

    def as_completed(self) -> Iterator[Outcome]:
        """See `Executor`. A KeyboardInterrupt cancels everything before it is passed on."""
        try:
            while True:
                self._skip_hopeless()
                # What the caller does with an outcome must not overlap with a timed job.
                self._dispatch(exclusive=not self._outcomes)
                if self._outcomes:
                    yield self._outcomes.popleft()
                elif self._schedule.unfinished:
                    self._turn()
                else:
                    return
        except KeyboardInterrupt:
            self.cancel()
            raise

    def cancel(self) -> None:
        """See `Executor`. It takes little more than CANCEL_GRACE_S; a second Ctrl-C kills at once."""
        try:
            for worker in self._workers:
                worker.terminate()
            deadline = time.monotonic() + CANCEL_GRACE_S
            while not all(worker.dead for worker in self._workers) and time.monotonic() < deadline:
                time.sleep(0.02)
        finally:
            for worker, task in list(self._workers.items()):
                if task is not None:
                    task.verdict = task.verdict or ("cancelled", "cancelled while it ran")
                self._bury(worker)
            for job in self._schedule.drop():
                self._outcomes.append(Outcome(job.key, "cancelled", None, "cancelled before it began", 0.0, ""))

    def close(self) -> None:
        """See `Executor`."""
        for worker in list(self._workers):
            self._bury(worker)
        self._schedule.drop()
        self._outcomes.clear()
        self._selector.close()

    # -- starting jobs

    def _dispatch(self, *, exclusive: bool) -> None:
        while sum(task is not None for task in self._workers.values()) < self._size:
            job = self._schedule.next(exclusive=exclusive)
            if job is None:
                return
            worker = next((worker for worker, task in self._workers.items() if task is None), None) or self._hire()
            path = self._log_dir / log_name(job.key) if self._log_dir is not None else None
            log = Log(self._log_cap_bytes, path)
            self._workers[worker] = _Task(job, log, deadline=time.monotonic() + START_S)
            threads = max(cores(), self._threads) if job.exclusive else self._threads
            if worker.send({"spec": job.spec, "threads": threads, "timeout_s": job.timeout_s}):
                self._selector.register(worker.jobs, selectors.EVENT_WRITE, (worker, self._flush))

    def _hire(self) -> WorkerHandle:
        worker = WorkerHandle(self._target, self._environment)
        self._workers[worker] = None
        self._selector.register(worker.replies, selectors.EVENT_READ, (worker, self._hear))
        self._selector.register(worker.output, selectors.EVENT_READ, (worker, self._drain))
        return worker

    def _skip_hopeless(self) -> None:
        for job, reason in self._schedule.hopeless():
            self._outcomes.append(Outcome(job.key, "skipped", None, reason, 0.0, ""))

    # -- one turn of the loop

    def _turn(self) -> None:
        """Wait for something to happen, at most POLL_S, and react to it."""
        for key, _ in self._selector.select(POLL_S):
            worker, react = key.data
            if worker in self._workers:  # an earlier reaction of this turn may have buried it
                react(worker)
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + POLL_S
            for worker in list(self._workers):
                self._look_after(worker)

    def _flush(self, worker: WorkerHandle) -> None:
        if not worker.flush():
            self._selector.unregister(worker.jobs)

    def _drain(self, worker: WorkerHandle) -> None:
        chunk, task = worker.read_output(), self._workers[worker]
        if chunk == b"":  # closed by the job: the loop must not wake for it again
            self._selector.unregister(worker.output)
        elif chunk and task is not None:  # what an idle worker prints belongs to nobody
            task.log.feed(chunk)

    def _hear(self, worker: WorkerHandle) -> bool:
        """React to a chunk of replies; whether there may be more."""
        try:
            received = worker.read_replies()
        except ProtocolError as error:
            self._stop(worker, ("crashed", str(error)), at_once=True)
            return False
        if received is None:
            return False
        replies, ended = received
        for reply in replies:
            task = self._workers.get(worker)
            if task is not None and task.verdict is None:
                self._obey(worker, task, reply)
        if ended and worker in self._workers:
            self._bury(worker, wait_s=_DYING_S)
        return worker in self._workers

    def _obey(self, worker: WorkerHandle, task: _Task, reply: dict[str, Any]) -> None:
        if reply["event"] == "started":
            task.started = time.monotonic()
            task.deadline = task.started + task.job.timeout_s
        elif reply["event"] == "progress" and self._on_progress is not None:
            self._on_progress(task.job.key, reply["data"])
        elif reply["event"] == "result":
            self._settle(worker, task, (reply["status"], reply["reason"] or ""), reply["result"], reply["seconds"])
            if reply["retire"] or self._is_bloated(worker):
                self._bury(worker)

    # -- watching and ending

    def _look_after(self, worker: WorkerHandle) -> None:
        task, now = self._workers[worker], time.monotonic()
        if worker.dead:
            while self._hear(worker):  # its last reply may be unread
                pass
            if worker in self._workers:
                self._bury(worker)
            return
        if task is None:
            return
        used = worker.memory_bytes()
        if task.verdict is not None:
            if now >= task.kill_at:
                self._bury(worker)
        elif self._memory_bytes is not None and used > self._memory_bytes:
            reason = f"{used / 1e9:.2f} GB in memory, the cap is {self._memory_bytes / 1e9:.2f} GB"
            self._stop(worker, ("oom", reason), at_once=True)
        elif now >= task.deadline:
            began = task.started is not None
            reason = (
                f"no result after {task.job.timeout_s:g} s" if began else f"the worker took over {START_S:g} s to start"
            )
            self._stop(worker, ("timeout", reason))

    def _is_bloated(self, worker: WorkerHandle) -> bool:
        """Whether what a job left in memory would count against the next one."""
        return self._memory_bytes is not None and worker.memory_bytes() > self._memory_bytes / 2

    def _stop(self, worker: WorkerHandle, verdict: Verdict, *, at_once: bool = False) -> None:
        """End a worker for a reason: by SIGTERM, and by SIGKILL if it is still there TERM_GRACE_S later."""
        task = self._workers[worker]
        if task is not None:
            task.verdict = task.verdict or verdict
            task.kill_at = time.monotonic() + (0.0 if at_once else TERM_GRACE_S)
        if at_once:
            self._bury(worker)
        else:
            worker.terminate()

    def _bury(self, worker: WorkerHandle, wait_s: float = 0.0) -> None:
        """End a worker and everything it started, and settle the job it had."""
        code = worker.end(wait_s)
        task = self._workers[worker]
        if task is not None:
            self._settle(worker, task, task.verdict or ("crashed", describe_end(code)))
        del self._workers[worker]
        for descriptor in (worker.jobs, worker.replies, worker.output):
            if descriptor in self._selector.get_map():
                self._selector.unregister(descriptor)
        worker.close()

    def _settle(
        self,
        worker: WorkerHandle,
        task: _Task,
        verdict: Verdict,
        result: dict[str, Any] | None = None,
        seconds: float | None = None,
    ) -> None:
        task.log.feed(worker.last_output())
        status, reason = verdict
        if seconds is None:
            seconds = 0.0 if task.started is None else time.monotonic() - task.started
        self._workers[worker] = None
        self._schedule.finish(task.job.key, status)
        told = None if status == "ok" else one_line(reason)
        self._outcomes.append(Outcome(task.job.key, status, result, told, seconds, task.log.close()))
