"""What the benchmarks share: a calibration beside each, and the embedded world's model, opened late.

Nothing here imports torch before a benchmark asks for a model: those that need none start in a second.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

import harness

REPEATS = 10
"""Of the fixed loop, on either side of a benchmark."""
QUEUE = Path("/proc/thread-self/schedstat")
"""Where Linux says how long this thread was ready to run and stood in the queue for a processor, in nanoseconds."""
WORDS = {f"key {number}": [number, str(number), number / 3] for number in range(400)}
SQUARE = np.ones((160, 160), dtype=np.float32)
LONG = np.ones(1_000_000, dtype=np.float32)


def queued_s() -> float:
    """Seconds that this thread has waited for a processor that others had; 0 where the system does not say."""
    try:
        return int(QUEUE.read_text(encoding="ascii").split()[1]) / 1e9
    except OSError:
        return 0.0


def own_time() -> float:
    """`perf_counter`, less the time in the queue: a clock that others on the machine cannot stop, but a sleep can."""
    while True:
        queued = queued_s()
        now = time.perf_counter()
        if queued_s() == queued:  # otherwise the thread stood in the queue between the two readings
            return now - queued


def calibration_s() -> float:
    """Seconds of a fixed loop at its quickest: Python objects, matrix products and long arrays, the machine's pace."""

    def seconds() -> float:
        started = own_time()
        json.loads(json.dumps(WORDS))
        for _ in range(8):
            SQUARE @ SQUARE
        LONG + LONG
        return own_time() - started

    return min(seconds() for _ in range(REPEATS))


def pytest_collection_modifyitems(items):
    for item in items:
        if "benchmark" in item.fixturenames:
            item.add_marker(pytest.mark.benchmark(timer=own_time))


@pytest.fixture
def benchmark(benchmark):
    """pytest-benchmark's fixture, with the pace of the machine measured just before and just after."""
    if benchmark.disabled:
        yield benchmark
        return
    before = calibration_s()
    yield benchmark
    benchmark.extra_info["calibration_s"] = min(before, calibration_s())


def pytest_benchmark_update_json(output_json):
    """Say which tree was measured, so that nobody compares one with itself."""
    output_json["tree"] = str(Path(harness.__file__).parents[1])


@pytest.fixture
def tiny():
    """The embedded world's base model, on one thread."""
    import torch

    from harness.builtin.devices import Cpu
    from harness_world import HERE, load_model

    torch.set_num_threads(1)
    return load_model("tiny", HERE / "base", Cpu())


@pytest.fixture
def world():
    """The embedded world: the data of its train split with their views."""
    from harness_world import load_world

    return load_world("tiny-world", "test", "")


@pytest.fixture
def one_step(tiny):
    """`one_step(method, data)`: train a fresh copy of the model for one optimiser step, the same in every round."""
    from harness import Run

    def go(method, data):
        model, run = tiny.clone(), Run(7, budget=1, max_new_tokens=32)
        run.watch(model)  # so that the first batch spends the budget
        with run.pays():
            method.train(model, data, run)
        run.close()
        return run

    return go
