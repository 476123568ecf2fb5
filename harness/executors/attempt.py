"""One guarded call of a job's function: whatever it raises becomes a status, a one-line reason and a traceback."""

from __future__ import annotations

import importlib
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.executors import Status
from harness.executors.capture import one_line

Progress = Callable[[dict[str, Any]], None]
Target = Callable[[dict[str, Any], Progress], dict[str, Any]]

# CPU and MPS allocators of torch raise a bare RuntimeError: only its text tells.
_OUT_OF_MEMORY_TEXTS = ("can't allocate memory", "out of memory")


@dataclass(frozen=True)
class Report:
    """What became of a call. The fields have the meaning they have in `Outcome`; `trace` is the traceback or empty."""

    status: Status
    result: dict[str, Any] | None
    reason: str | None
    seconds: float
    trace: str = ""


def load(target: str) -> Target:
    """Import the function named `module:function`."""
    module, _, name = target.partition(":")
    function: Target = getattr(importlib.import_module(module), name)
    return function


def attempt(call: Callable[[], Any]) -> Report:
    """Call it. Nothing is raised, not even by `sys.exit`: an exit nobody asked for must never look like success."""
    started = time.perf_counter()
    try:
        result = _as_json(call())
    except BaseException as error:  # noqa: BLE001 - a job may raise anything, and nothing of it may end the worker
        seconds = time.perf_counter() - started
        return Report(classify(error), None, _describe(error), seconds, _trace(error))
    return Report("ok", result, None, time.perf_counter() - started)


def classify(error: BaseException) -> Status:
    """Status of a job that raised `error`.

    Exceptions of other packages are known by the name of their class: asking for the class would import torch.
    """
    names = {cls.__name__ for cls in type(error).__mro__}
    if not isinstance(error, Exception):
        return "crashed"
    if "DivergedError" in names:
        return "diverged"
    if names & {"MemoryError", "OutOfMemoryError"}:
        return "oom"
    if isinstance(error, RuntimeError) and any(text in _text(error) for text in _OUT_OF_MEMORY_TEXTS):
        return "oom"
    return "failed"


def _as_json(result: Any) -> dict[str, Any]:
    if not isinstance(result, dict):
        msg = f"the job returned {type(result).__name__}, not a dict"
        raise TypeError(msg)
    # There and back, so that the caller sees the same thing wherever the job ran.
    copy: dict[str, Any] = json.loads(json.dumps(result, allow_nan=False))
    return copy


def _describe(error: BaseException) -> str:
    return one_line(f"{type(error).__name__}: {_text(error)}").removesuffix(":")


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - __str__ is foreign code too
        return "<no text>"


def _trace(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001 - the same
        return f"{type(error).__name__}: no traceback could be made\n"
