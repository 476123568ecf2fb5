"""The parent's end of one worker process: its pipes, its memory, and its end together with everything it started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, get_args

import psutil

from harness.executors import Status

MAX_REPLY_BYTES = 64 << 20
_CHUNK = 1 << 16
_LAST_WORDS = 1 << 20  # most that a pipe holds: what was printed before the end, not what a survivor goes on to print
_KILL_ROUNDS = 5  # for those that start others while they are being killed
_REAP_WAIT_S = 5.0


class ProtocolError(Exception):
    """A worker's replies are not what a worker writes."""


class WorkerHandle:
    """Starts a worker in a session of its own and never blocks on it."""

    def __init__(self, target: str, environment: Mapping[str, str]) -> None:
        self.replies, replies_write = os.pipe()
        self.output, output_write = os.pipe()
        # -P: the folder a run is started in must not shadow modules; the parent's path comes in the environment.
        command = [sys.executable, "-P", "-m", "harness.executors.worker", target, str(replies_write)]
        try:
            self._popen = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                command,
                stdin=subprocess.PIPE,
                stdout=output_write,
                stderr=output_write,
                pass_fds=(replies_write,),
                start_new_session=True,
                env=dict(environment),
                bufsize=0,
            )
        except BaseException:
            os.close(self.replies)
            os.close(self.output)
            raise
        finally:
            os.close(replies_write)
            os.close(output_write)
        assert self._popen.stdin is not None  # noqa: S101 - asked for above
        self.jobs = self._popen.stdin.fileno()
        for descriptor in (self.jobs, self.replies, self.output):
            os.set_blocking(descriptor, False)
        self._process = psutil.Process(self._popen.pid)
        self._family: set[psutil.Process] = set()
        self._outgoing = b""
        self._incoming = bytearray()

    def send(self, message: dict[str, Any]) -> bool:
        """Queue a job for the worker; True if a part of it is left to `flush`."""
        self._outgoing += json.dumps(message).encode() + b"\n"
        return self.flush()

    def flush(self) -> bool:
        """Write what the pipe takes now; True if a part is left."""
        try:
            while self._outgoing:
                self._outgoing = self._outgoing[os.write(self.jobs, self._outgoing) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:
            self._outgoing = b""  # it is dead: whoever waits for its replies will see
        return False

    def read_output(self) -> bytes | None:
        """Read a chunk of what the worker printed; None: there is nothing now, empty: there never will be."""
        try:
            return os.read(self.output, _CHUNK)
        except BlockingIOError:
            return None

    def last_output(self) -> bytes:
        """Read what was printed so far and is still in the pipe."""
        words = bytearray()
        while len(words) < _LAST_WORDS and (chunk := self.read_output()):
            words += chunk
        return bytes(words)

    def read_replies(self) -> tuple[list[dict[str, Any]], bool] | None:
        """Complete replies that have come, and whether no more can come; None: there is nothing now.

        Raises:
            ProtocolError: something else was written there, or a reply is too large to be held.
        """
        try:
            chunk = os.read(self.replies, _CHUNK)
        except BlockingIOError:
            return None
        self._incoming += chunk
        if b"\n" not in chunk:
            if len(self._incoming) > MAX_REPLY_BYTES:
                msg = f"its reply is larger than {MAX_REPLY_BYTES >> 20} MB"
                raise ProtocolError(msg)
            return [], not chunk
        *lines, self._incoming = self._incoming.split(b"\n")
        return [_parse(line) for line in lines], False

    def memory_bytes(self) -> int:
        """Resident memory of the worker and all that it started."""
        self._look_for_family(self._process)
        total = 0
        for process in (self._process, *self._family):
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    @property
    def dead(self) -> bool:
        """Whether it has ended. It is not reaped here, so that its process group cannot be somebody else's yet."""
        if self._popen.returncode is not None:
            return True
        try:
            return bool(self._process.status() == psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return True

    def terminate(self) -> None:
        """Ask the whole family to end."""
        self._look_for_family(self._process)
        self._signal(signal.SIGTERM)

    def end(self, wait_s: float = 0.0) -> int:
        """Kill the whole family, reap the worker and return how it ended, as `subprocess` numbers it.

        `wait_s` gives a worker that is about to end the time to do so, so that the way it ends is its own.
        """
        deadline = time.monotonic() + wait_s
        while not self.dead and time.monotonic() < deadline:
            time.sleep(0.005)
        for _ in range(_KILL_ROUNDS):
            known = len(self._family)
            self._look_for_family(self._process, *self._family)
            self._signal(signal.SIGKILL)
            if len(self._family) <= known:
                break
        try:
            return self._popen.wait(_REAP_WAIT_S)
        except subprocess.TimeoutExpired:  # it sits in the kernel; it dies when that lets go, and we need not wait
            return -signal.SIGKILL

    def close(self) -> None:
        """Close the pipes."""
        if self._popen.stdin is not None:
            self._popen.stdin.close()
        os.close(self.replies)
        os.close(self.output)

    def _look_for_family(self, *parents: psutil.Process) -> None:
        """Remember who was started, also those that lead a group of their own: an orphan has no trace of its origin."""
        self._family = {member for member in self._family if member.is_running()}
        for parent in parents:
            with contextlib.suppress(psutil.Error):
                self._family.update(parent.children(recursive=True))

    def _signal(self, number: signal.Signals) -> None:
        if self._popen.returncode is None:
            # macOS says PermissionError of a group in which all are zombies.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, number)
        for member in self._family:
            with contextlib.suppress(psutil.Error):
                member.send_signal(number)


def _parse(line: bytes | bytearray) -> dict[str, Any]:
    """Read a reply. The job shares a process with the code that writes replies, so nothing is taken for granted."""
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError):
        reply = None
    if not (isinstance(reply, dict) and _is_well_formed(reply)):
        msg = "its replies are garbled"
        raise ProtocolError(msg)
    return reply


def _is_well_formed(reply: dict[str, Any]) -> bool:
    match reply:
        case {"event": "started"} | {"event": "progress", "data": dict()}:
            return True
        case {"event": "result", "status": "ok", "result": dict(), "seconds": float(), "retire": bool()}:
            return True
        case {"event": "result", "status": str(status), "reason": str(), "seconds": float(), "retire": bool()}:
            return status in get_args(Status)
    return False


def describe_end(code: int) -> str:
    """Say how a worker ended, from its exit code as `subprocess` numbers it."""
    if code >= 0:
        return f"the process exited with code {code} before the job had ended"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = "; the system may have been out of memory" if code == -signal.SIGKILL else ""
    return f"the process was killed by {name}{hint}"
