"""How long a command takes until it has answered: seconds of the wall, in processes of their own. There is no peer."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.models import Setting
from benchmarks.pairs import OURS, Figures, interleave, whole_run

COMMANDS = {"start-up --help": (("--help",), 0.3), "start-up ls": (("ls", "methods"), 1.0)}
"""Arguments, and the goal in seconds."""


def measure(setting: Setting) -> dict[str, Figures]:
    """Each command a few times."""
    return {name: time_command(arguments, goal, setting.pairs) for name, (arguments, goal) in COMMANDS.items()}


def time_command(arguments: Sequence[str], goal: float, times: int) -> Figures:
    """Run `harness` with `arguments`."""
    line = [str(Path(sys.executable).with_name("harness")), *arguments]

    def command(called: Sequence[str]) -> None:
        subprocess.run(called, check=True, capture_output=True)

    seconds = interleave({OURS: whole_run(lambda: line, command)}, times, time.perf_counter)[OURS]
    spread = f"{min(seconds):.2f} to {max(seconds):.2f} s"
    return Figures("call", statistics.median(seconds), most_seconds=goal, notes=(spread,))
