"""A worker process: `python -m harness.executors.worker module:function FD` runs one JSON job a line from its stdin.

Whoever starts it gives it file descriptor FD for its replies, and descriptors 1 and 2 that capture what is printed:
from the first instruction on, no print can reach the replies. It leads a session of its own. When its stdin closes,
the parent is gone, and so are, a moment later, the worker and all that it started.

In:  {"spec": {...}, "threads": 2, "timeout_s": 60.0}
Out: {"event": "started"}, {"event": "progress", "data": {...}}, and last
     {"event": "result", "status": ..., "result": ..., "reason": ..., "seconds": ..., "retire": ...}
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import json
import os
import queue
import select
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import psutil

from harness.executors.attempt import Report, attempt, load
from harness.executors.process_state import changes, reseed, seeded_imports, set_threads, snapshot

PARENT_CHECK_S = 1.0
ORPHAN_GRACE_S = 60.0

Send = Callable[[dict[str, Any]], None]


def main(arguments: list[str]) -> NoReturn:
    """Serve until the parent is gone or the state of this process is no longer clean."""
    target, replies = arguments[0], int(arguments[1])
    os.set_inheritable(replies, False)
    jobs = os.dup(0)  # the job that reads stdin must not eat the next job
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    faulthandler.enable(file=2)
    # A job that is stopped says where it hung; the signal then does what it does.
    faulthandler.register(signal.SIGTERM, file=2, chain=True)
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs, os.getppid(), inbox), daemon=True).start()
    with seeded_imports():
        _serve(target, _sender(replies), inbox)


def _serve(target: str, send: Send, inbox: queue.SimpleQueue[bytes]) -> NoReturn:
    while True:
        reply = _run(target, json.loads(inbox.get()), send)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # a job may have closed or replaced it
                stream.flush()
        send(reply)
        if reply["retire"]:
            # Not sys.exit: threads and exit handlers that a job left behind have no say.
            os._exit(0)


def _run(target: str, message: dict[str, Any], send: Send) -> dict[str, Any]:
    """One job: seeded, timed from the inside, its traces looked for."""
    own = os.getpid()
    set_threads(message["threads"])
    reseed()
    loaded = attempt(partial(_import, target))  # before the snapshot: what imports change is nobody's doing
    if loaded.status != "ok":
        _print(loaded.trace)
        return _reply(loaded, retire=True)
    function = load(target)

    def progress(event: dict[str, Any]) -> None:
        send({"event": "progress", "data": event})

    before = snapshot()
    reseed()  # again: the import may have drawn
    faulthandler.dump_traceback_later(message["timeout_s"] + ORPHAN_GRACE_S, exit=True, file=2)
    send({"event": "started"})
    report = attempt(lambda: function(message["spec"], progress))
    if os.getpid() != own:
        os._exit(0)  # a child that the job forked and that came back through our call: it has no reply to give
    faulthandler.cancel_dump_traceback_later()
    if report.trace:
        _print(report.trace)
    left_behind = changes(before, snapshot())
    if left_behind:
        _print(f"[worker replaced, this job changed: {', '.join(left_behind)}]\n")
    return _reply(report, retire=bool(left_behind) or report.status in {"crashed", "oom"})


def _import(target: str) -> dict[str, Any]:
    load(target)
    return {}


def _reply(report: Report, *, retire: bool) -> dict[str, Any]:
    fields = dataclasses.asdict(report)
    del fields["trace"]  # it is in the captured output
    return {"event": "result", "retire": retire, **fields}


def _print(text: str) -> None:
    """Write to the captured output itself: `sys.stderr` may be anything by now."""
    with contextlib.suppress(OSError):
        data = text.encode(errors="backslashreplace")
        while data:
            data = data[os.write(2, data) :]


def _sender(replies: int) -> Send:
    own, lock = os.getpid(), threading.Lock()

    def send(message: dict[str, Any]) -> None:
        data = json.dumps(message, allow_nan=False).encode() + b"\n"
        if os.getpid() != own:
            return  # in a child that a job forked: two writers would tear each other's lines
        with lock:
            while data:
                data = data[os.write(replies, data) :]

    return send


def _listen(jobs: int, parent: int, inbox: queue.SimpleQueue[bytes]) -> None:
    """Pass job lines on; end everything when the parent is gone.

    A closed stdin says so at once. The parent's id is looked at as well: a process that the parent forked may hold the
    other end open. While a job sits in native code without releasing the interpreter this thread does not run, and only
    the fault handler's own clock is left (see `ORPHAN_GRACE_S`).
    """
    buffer = b""
    while True:
        readable, _, _ = select.select([jobs], [], [], PARENT_CHECK_S)
        chunk = os.read(jobs, 1 << 16) if readable else None
        if chunk == b"" or os.getppid() != parent:
            _end_family()
        *lines, buffer = (buffer + (chunk or b"")).split(b"\n")
        for line in lines:
            inbox.put(line)


def _end_family() -> NoReturn:
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    if os.getpgrp() == os.getpid():  # only where the group is ours
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
