"""Boards from 10,000 facts: 20 pipelines with 5 seeds, 100 answers each."""

import random

from harness.boards import make_boards
from harness.builtin.metrics import harness_metrics
from harness.store import Store

PIPELINES, SEEDS, PROBLEMS = 20, 5, 100


def record(pipeline, seed):
    toss = random.Random(f"{pipeline} {seed}")
    told = {"method": pipeline, "family": "test-time", "model": "m", "dataset": "d", "start": "m0", "config": {}}
    answers = [
        {
            "id": f"p{problem:03d}",
            "correct": toss.random() < 0.5,
            "extracted": "1",
            "finish": "eos",
            "sampled_tokens": 20,
            "flops": 1e6,
            "samples": [],
        }
        for problem in range(PROBLEMS)
    ]
    return {"spec": {"pipeline": pipeline, "seed": seed, **told}, "status": "ok", "answers": answers}


def test_boards(benchmark, tmp_path):
    store, metrics = Store(tmp_path), harness_metrics()
    for number in range(PIPELINES * SEEDS):
        pipeline = f"m{number // SEEDS}"
        store.publish("answers", pipeline, f"{number:08x}", record(pipeline, number % SEEDS))

    boards = benchmark(make_boards, tmp_path, metrics)
    assert [row["status"] for row in boards["accuracy"]] == ["ok"] * PIPELINES
