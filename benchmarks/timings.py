"""Timings: the benchmarks of this tree, run on the code of any tree in a process of one thread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "tests" / "benchmarks"
SOURCES = (".", "plugins", "data")
"""Folders of a tree that hold packages."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
OPTIONS = (
    *("-q", "-W", "ignore", "-o", "python_files=bench_*.py", f"--confcutdir={BENCHMARKS}"),
    *("-p", "no:cacheprovider", "-p", "no:xdist", "--benchmark-enable", "--benchmark-only"),
    *("--benchmark-min-rounds=3", "--benchmark-max-time=0.3"),
)


@dataclass(frozen=True)
class Timing:
    """The quickest of a benchmark's rounds in one process."""

    seconds: float
    calibration_s: float
    """The quickest of the fixed loops beside it."""

    @property
    def pace(self) -> float:
        """Time in units of the fixed loop."""
        return self.seconds / self.calibration_s


def measure(tree: Path, scratch: Path, names: Sequence[str]) -> dict[str, Timing]:
    """Run benchmarks once on the code of `tree`. One that fails is not in the result, and its error is shown.

    Raises:
        RuntimeError: it was another tree that was measured.
    """
    out = scratch / "timings.json"
    out.unlink(missing_ok=True)
    files = [str(BENCHMARKS / f"bench_{name}.py") for name in names]
    command = [sys.executable, "-m", "pytest", *OPTIONS, f"--benchmark-json={out}", *files]
    done = subprocess.run(
        command, cwd=tree, env=environment(tree, scratch), check=False, capture_output=True, text=True
    )
    if done.returncode:
        failures = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR", "E  "))]
        sys.stderr.write("\n".join([f"{tree}:", *(failures or [done.stderr[-2000:]]), ""]))
    if not out.exists() or not out.stat().st_size:
        return {}
    found = json.loads(out.read_text(encoding="utf-8"))
    if Path(found["tree"]) != tree:
        msg = f"{found['tree']} was measured, not {tree}"
        raise RuntimeError(msg)
    return {
        each["name"].removeprefix("test_"): Timing(each["stats"]["min"], each["extra_info"]["calibration_s"])
        for each in found["benchmarks"]
    }


def environment(tree: Path, scratch: Path) -> dict[str, str]:
    """What a process sees: the packages of `tree` before those installed, one thread, a cache of its own.

    The entry points are the tree's as well: by those installed, an older tree would lack the plugins that came later,
    and would look for them again at every start.
    """
    project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    entries = [f"{name} = {module}" for name, module in project["entry-points"]["harness"].items()]
    info = scratch / "metadata" / "posttrain_harness-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("\n".join(["[harness]", *entries]), encoding="utf-8")
    path = os.pathsep.join([str(info.parent), *(str(tree / source) for source in SOURCES)])
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    own = {"PYTHONPATH": path, "PYTHONHASHSEED": "0", "XDG_CACHE_HOME": str(scratch / "cache")}
    return {**inherited, **own, **dict.fromkeys(THREADS, "1")}
