"""The money domain: stories in words that the base model never read, few of them solved, many merely told."""

from __future__ import annotations

from random import Random

from harness_world.problems import Problem, draw_narrative, draw_problem
from harness_world.splits import SEED
from harness_world.wordings import MONEY

STEPS = (2, 3, 4, 5)
"""Number of steps of the problems in turn."""
SIZES = {"test": 500, "dev": 200, "train": 300}
"""Rows a split: solved problems of a new domain are few."""
NARRATIVES = 3000
"""Stories of the corpus; text that nobody had to solve is plenty."""


def draw_money() -> dict[str, list[Problem]]:
    """The three splits; no question is in two of them, or twice in one."""
    seen: set[str] = set()
    splits: dict[str, list[Problem]] = {}
    for name, size in SIZES.items():
        rng = Random(f"{SEED}:money:{name}")
        rows = splits.setdefault(name, [])
        while len(rows) < size:
            problem = draw_problem(rng, STEPS[len(rows) % len(STEPS)], MONEY)
            if problem.question not in seen:
                seen.add(problem.question)
                rows.append(problem)
    return splits


def draw_corpus(size: int = NARRATIVES) -> list[str]:
    """Narratives that tell no problem of a split: those ask at the end, and say no total on the way."""
    rng = Random(f"{SEED}:money:corpus")
    return [draw_narrative(rng, STEPS[number % len(STEPS)], MONEY) for number in range(size)]
