"""What a worker is started with: its share of the cores, and the environment that makes its jobs reproducible."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from harness.executors.process_state import THREAD_VARIABLES

KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(256 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
"""Bytes, for glibc, which others do not hear: memory of tensors is kept for the next ones. To have pages given anew
takes a thirtieth of a search's time."""


def cores() -> int:
    """Cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_environment(threads: int, extra: Mapping[str, str]) -> dict[str, str]:
    """Extend this process's environment by its import path and by settings that make jobs reproducible."""
    environment = dict(os.environ)
    environment.setdefault("PYTHONHASHSEED", "0")  # the order of a set of strings is the same in every worker
    environment = KEPT_MEMORY | environment  # who has set it themselves knows why
    environment.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    environment["PYTHONUNBUFFERED"] = "1"  # what was printed before a crash is not lost with it
    environment["PYTHONIOENCODING"] = "utf-8:backslashreplace"  # no locale makes a print fail
    environment.update(extra)
    path = [extra["PYTHONPATH"]] if extra.get("PYTHONPATH") else []
    path += [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109 - '' means here
    environment["PYTHONPATH"] = os.pathsep.join(path)
    return environment
