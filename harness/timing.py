"""Timing: latency one question at a time, throughput of many at once, and what a scorer takes. Nothing else runs."""

from __future__ import annotations

from functools import partial
from typing import Any

from harness.bench import Bench, Desk, Progress, timed
from harness.builtin.devices import arithmetic_for
from harness.records import heading

TIMED_QUESTIONS = 16
THROUGHPUT_QUESTIONS = 32
WARM_UP_QUESTIONS = 2


def time_answers(bench: Bench, progress: Progress) -> dict[str, Any]:
    """Latency one question at a time, greedy beside it in turns, then throughput; no sample is shared."""
    desk = Desk.open(bench, bench.spec["method"])
    with arithmetic_for(desk.model.size):
        if not desk.recall():
            desk.prepare()
        latency, baseline = time_alone(desk, bench.method(bench.spec["baseline"]), progress)
        many = bench.problems()[:THROUGHPUT_QUESTIONS]
        work = [(desk.method, problem) for problem in many]
        desk.score_s, desk.scored = 0.0, 0  # until now everything was done for the first time
        throughput = timed(bench.device, lambda: desk.answer_all(work, lambda _: None))
        head = heading(bench, "timing")
    record = {
        **head,
        "latency_s": latency,
        "greedy_latency_s": baseline,
        "throughput_s": throughput,
        "throughput_questions": len(many),
        "score_s": desk.score_s,
        "scored": desk.scored,
        "peak_memory_bytes": bench.device.peak_memory_bytes(),
    }
    row = bench.spec["row"]
    bench.store.publish("timing", f"{row['pipeline']}-seed{bench.spec['seed']}", bench.spec["key"], record)
    return {"p50_s": sorted(latency)[len(latency) // 2]}


def time_alone(desk: Desk, greedy: Any, progress: Progress) -> tuple[list[float], list[float]]:
    """Seconds a question, by the method and by greedy decoding in turns, after a warm-up of both.

    A method that is greedy decoding is timed once.
    """
    device, problems = desk.bench.device, desk.bench.problems()
    methods = [desk.method] if desk.method == greedy else [desk.method, greedy]
    for problem in problems[:WARM_UP_QUESTIONS]:
        for method in methods:
            desk.answer_alone(method, problem)
    device.reset_peak_memory()
    seconds: list[list[float]] = [[] for _ in methods]
    for number, problem in enumerate(problems[:TIMED_QUESTIONS]):
        for of_method, method in zip(seconds, methods, strict=True):
            of_method.append(timed(device, partial(desk.answer_alone, method, problem)))
        progress({"progress": 0.7 * (number + 1) / TIMED_QUESTIONS})
    return seconds[0], seconds[-1]
