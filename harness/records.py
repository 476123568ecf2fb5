"""What the records of a cell say: facts only, plain JSON, so that any board can be made from them again."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from harness import prepared
from harness.bench import Bench, Desk
from harness.contracts import Answer, Completion, Dataset, Problem, Scores, StepChecker
from harness.meter import Run
from harness.plan import SCHEMA
from harness.statistics import mean

OF_A_STAGE = (
    *("method", "key", "seconds", "ledger", "peak_memory_bytes"),
    *("trainable_parameters", "general_loss", "stopped"),
)
DIGITS = 6
"""Significant ones of a score that is kept."""


def heading(bench: Bench, kind: str) -> dict[str, Any]:
    """The part that every record of a cell begins with."""
    spec = bench.spec
    return {
        "schema": SCHEMA,
        "kind": kind,
        "key": spec["key"],
        "spec": row_spec(spec),
        "status": "ok",
        "reason": None,
        "machine": dict(bench.device.describe()),
    }


def row_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies a cell on a board."""
    scorer = spec["scorer"]
    config = {part["name"]: part["config"] for part in [spec["method"], *([scorer["method"]] if scorer else [])]}
    return {
        **spec["row"],
        "scorer": scorer["method"]["name"] if scorer else None,
        "model": spec["model"]["name"],
        "dataset": spec["dataset"]["name"],
        "seed": spec["seed"],
        "limit": spec["limit"],
        "config": config,
    }


def training_facts(bench: Bench) -> list[dict[str, Any]]:
    """What the stages behind this cell cost, the scorer's included, without their curves."""
    scorer = bench.spec["scorer"]
    roles = dict.fromkeys(bench.spec["policy"], "policy")
    if scorer and scorer["stage"]:
        roles.setdefault(scorer["stage"], "scorer")
    found = [(role, stage[1]) for key, role in roles.items() if (stage := bench.store.stage(key))]
    return [
        {"role": role, **{name: facts.get(name) for name in OF_A_STAGE}, "wasted": wasted(facts)}
        for role, facts in found
    ]


def preparation_facts(desk: Desk, seconds: float, run: Run) -> dict[str, Any]:
    """What a method spent before the first question, as a stage of training, and what it found."""
    return {
        "role": "preparation",
        "method": desk.bench.spec["method"]["name"],
        "seconds": seconds,
        "ledger": dataclasses.asdict(run.ledger),
        "found": repr(desk.method),
        "kept": prepared.to_json(desk.method),
    }


def wasted(facts: Mapping[str, Any]) -> float | None:
    """Mean share of a stage's rollouts that taught nothing, of the batches that say so."""
    return mean(point["wasted"] for point in facts.get("curve") or () if "wasted" in point)


def is_right(dataset: Dataset, problem: Problem, answer: Answer, *, upper_bound: bool) -> bool:
    """Whether the answer is right, or for an upper bound any of its completions."""
    texts = [completion.text for completion in answer.completions] if upper_bound else [answer.text]
    return any(dataset.verify(problem, text)[0] for text in texts)


def fact(
    dataset: Dataset, problem: Problem, answered: tuple[Answer, Run], single: str | None, *, upper_bound: bool
) -> dict[str, Any]:
    """What is recorded of one question."""
    answer, run = answered
    finishes = [c.finish for c in answer.completions if c.text == answer.text] or ["eos"]
    ledger = run.ledger
    return {
        "id": problem.id,
        "correct": is_right(dataset, problem, answer, upper_bound=upper_bound),
        "extracted": dataset.verify(problem, answer.text)[1],
        "text": answer.text,
        "finish": finishes[0],
        "sampled_correct": None if single is None else dataset.verify(problem, single)[0],
        "prompt_tokens": ledger.prompt_tokens,
        "sampled_tokens": ledger.sampled_tokens,
        "scored_tokens": ledger.scored_tokens,
        "flops": ledger.flops,
        "samples": [
            sample_fact(dataset, problem, completion, scores)
            for completion, scores in zip(answer.completions, scores_of(answer.completions, run), strict=True)
        ],
    }


def scores_of(completions: Sequence[Completion], run: Run) -> list[Scores | None]:
    """What the scorer said of each: equal ones take what was said of them in turns, and share the last of it."""
    seen: Counter[Completion] = Counter()
    found: list[Scores | None] = []
    for completion in completions:
        said = run.judged.get(completion)
        found.append(said[min(seen[completion], len(said) - 1)] if said else None)
        seen[completion] += 1
    return found


def sample_fact(dataset: Dataset, problem: Problem, completion: Completion, scores: Scores | None) -> dict[str, Any]:
    """What is recorded of one sample: its verdict, and where a scorer judged it, what can be held against that."""
    correct, extracted = dataset.verify(problem, completion.text)
    if scores is None:
        return {"correct": correct, "answer": extracted}
    right = dataset.check_steps(problem, completion.text) if isinstance(dataset, StepChecker) else ()
    return {
        "correct": correct,
        "answer": extracted,
        "score": _rounded(scores.total),
        "steps": [_rounded(chance) for chance in scores.steps],
        "right_steps": list(right),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
