"""The state of a process that a job may leave behind: seeded before each job, compared after it.

A worker whose state has changed is replaced, so that a job in a warm worker gives, bit for bit, what it gives alone.
Generators of random numbers are the exception: every job draws from them, so they are seeded again, never compared.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import psutil

SEED = 0
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
)

# Set by importing torch's compiler, at any time: where compiled code is kept, not what it computes.
_HARMLESS_VARIABLES = frozenset({"TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"})

# How torch is when it has just been imported: what a job is compared with that imported it itself.
_FRESH_TORCH: Mapping[str, object] = {
    "torch default dtype": "torch.float32",
    "torch default device": "cpu",
    "torch grad mode": True,
    "torch inference mode": False,
    "torch deterministic algorithms": (False, False),
    "torch matmul precision": "highest",
    "cudnn flags": (False, False),
}

_SEEDERS: Mapping[str, Callable[[Any], object]] = {
    "numpy.random": lambda module: module.seed(SEED),
    "torch": lambda module: module.manual_seed(SEED),  # every device's generator
}


def reseed() -> None:
    """Seed the global generators of Python, and of numpy and torch where they are imported."""
    random.seed(SEED)
    for name, seed in _SEEDERS.items():
        if (module := sys.modules.get(name)) is not None:
            seed(module)


@contextlib.contextmanager
def seeded_imports() -> Iterator[None]:
    """Seed numpy and torch when a job imports them: they start from entropy, and `reseed` came too early."""
    finder = _SeedOnImport()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # a job may have removed it
            sys.meta_path.remove(finder)


def set_threads(threads: int) -> None:
    """Let numerical libraries use `threads` threads: through the environment, and in torch where it is imported."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)


def snapshot() -> dict[str, object]:
    """Everything global that is compared, under the names that are shown to people."""
    umask = os.umask(0o077)
    os.umask(umask)
    return {
        "environment": dict(os.environ),
        "working directory": _working_directory(),
        "umask": umask,
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "sys.path": list(sys.path),
        "recursion limit": sys.getrecursionlimit(),
        "standard streams": (id(sys.stdin), id(sys.stdout), id(sys.stderr)),
        "threads": sum(not thread.daemon for thread in threading.enumerate()),
        "processes": _children(),
        **_torch_state(),
    }


def changes(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """Names of what differs. Environment variables are named and their values are not: they may be secrets."""
    names = []
    for name in before.keys() | after.keys():
        old = before.get(name, _FRESH_TORCH.get(name, after.get(name)))
        new = after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            keys = sorted(str(key) for key in old.keys() | new.keys() if old.get(key) != new.get(key))
            names += [f"{name} ({key})" for key in keys if key not in _HARMLESS_VARIABLES]
        elif old != new:
            names.append(name)
    return sorted(names)


def _working_directory() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - nothing else is asked of it
    except OSError:
        return None  # it was removed


def _children() -> int:
    """Living processes that were started from here. A zombie is only an entry in a table."""
    living = 0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            living += child.status() != psutil.STATUS_ZOMBIE
    return living


def _torch_state() -> dict[str, object]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    return {
        "torch default dtype": str(torch.get_default_dtype()),
        "torch default device": str(torch.get_default_device()),
        "torch grad mode": torch.is_grad_enabled(),
        "torch inference mode": torch.is_inference_mode_enabled(),
        "torch deterministic algorithms": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "torch matmul precision": torch.get_float32_matmul_precision(),
        "torch threads": torch.get_num_threads(),
        "cudnn flags": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
    }


class _SeedOnImport(importlib.abc.MetaPathFinder):
    """Finds what the usual path finder finds, and seeds it once it is loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        seed = _SEEDERS.get(fullname)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target) if seed else None
        if seed is None or spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_seed(module: ModuleType) -> None:
            execute(module)
            seed(module)

        spec.loader.exec_module = execute_and_seed  # type: ignore[method-assign]
        return spec
