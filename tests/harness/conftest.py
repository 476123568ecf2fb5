"""Results folders that are written by hand."""

import json

import pytest

from harness.boards import make_boards
from harness.builtin.metrics import harness_metrics
from harness.store import Store

METRICS = harness_metrics()


class World:
    """A results folder that is filled line by line."""

    def __init__(self, folder):
        self.folder, self.store, self.made = folder, Store(folder), 0

    def key(self):
        self.made += 1
        return f"{self.made:016x}"

    @staticmethod
    def spec(pipeline, seed=0, **more):
        told = {
            "pipeline": pipeline,
            "method": pipeline.split(" ")[-1],
            "family": "test-time",
            "model": "m",
            "dataset": "d",
            "seed": seed,
            "start": None if pipeline == "greedy" else "greedy",
            "limit": None,
            "config": {},
            "control": False,
            "upper_bound": False,
        }
        return {**told, **more}

    def answers(self, pipeline, right, n=100, seed=0, *, ids=None, train_s=0.0, tokens=20, drawn=(), **spec):
        """`right` is how many of the first problems are right, or one boolean a problem; `drawn` is (right, score)s."""
        marks = [i < right for i in range(n)] if isinstance(right, int) else list(right)
        names = ids or [f"p{i:05d}" for i in range(len(marks))]
        answers = [
            {
                "id": name,
                "correct": bool(mark),
                "extracted": "1",
                "finish": "eos",
                "sampled_correct": None,
                "sampled_tokens": tokens,
                "flops": 1e6,
                "samples": [{"correct": good, "answer": "ny"[good], "score": score} for good, score in drawn],
            }
            for name, mark in zip(names, marks, strict=True)
        ]
        ledger = {"trained_tokens": 1000, "flops": 5e9}
        stage = {"method": "sft", "role": "policy", "seconds": train_s, "ledger": ledger, "curve": []}
        key = self.key()
        record = {
            "spec": self.spec(pipeline, seed, **spec),
            "status": "ok",
            "reason": None,
            "answers": answers,
            "training": [stage] if train_s else [],
            "machine": {"name": "cpu", "threads": 2},
        }
        self.store.publish("answers", pipeline, key, record)
        return key

    def point(self, samples, right, **more):
        """A vote of so many samples; 16 are the row itself, and any other number a point of its curve."""
        config = {"vote": {"samples": samples, "temperature": more.pop("temperature", 0.7)}}
        told = {"method": "vote", "scales": "samples", "curve": samples != 16, "config": config}
        name = "greedy + vote" if samples == 16 else f"greedy + vote(samples={samples})"
        return self.answers(name, right, tokens=10 * samples, **{**told, **more})

    def timing(self, pipeline, latency, seed=0, greedy=(0.1,), *, scored=(0, 0.0), **spec):
        record = {
            "scored": scored[0],
            "score_s": scored[1],
            "spec": self.spec(pipeline, seed, **spec),
            "status": "ok",
            "reason": None,
            "latency_s": list(latency),
            "greedy_latency_s": list(greedy),
            "throughput_s": 2.0,
            "throughput_questions": 50,
            "peak_memory_bytes": 2**20 * (1 + seed),
            "machine": {"name": "cpu", "threads": 2},
        }
        self.store.publish("timing", pipeline, self.key(), record)

    def failure(self, pipeline, status="crashed", reason="it raised", *, seed=0, kind="answers", key=None, **spec):
        spec = self.spec(pipeline, seed, **spec)
        record = {"kind": kind, "key": key or self.key(), "spec": spec, "status": status, "reason": reason}
        self.store.attempt(record)
        return record["key"]

    def register(self):
        """Name all that is there as what the boards are made of."""
        keys = sorted(key for kind in ("answers", "timing") for key in self.store.keys(kind))
        (self.folder / "board.json").write_text(json.dumps({"cells": {key: key for key in keys}}), encoding="utf-8")
        return self.folder

    def boards(self):
        return make_boards(self.folder, METRICS)

    def rows(self, board="accuracy"):
        return {row["pipeline"]: row for row in self.boards()[board]}


@pytest.fixture
def make_world(tmp_path):
    """Results folders by name."""
    return lambda name: World(tmp_path / name)


@pytest.fixture
def world(make_world):
    return make_world("results")
