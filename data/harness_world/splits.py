"""The four splits, disjoint by question text, and the set that the pretraining stream avoids."""

from __future__ import annotations

from random import Random

from harness_world.problems import Problem, draw_problem

SEED = "harness-world-1"
"""The version of the world: another string is another world."""
SPLITS: dict[str, tuple[int, tuple[int, ...]]] = {
    "test": (1000, (3, 4, 5, 6, 7)),
    "easy": (500, (1, 2, 3, 4, 5)),
    "dev": (600, (3, 4, 5, 6, 7)),
    "train": (6000, (1, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7)),
}
"""Split to (size, number of steps in turn). Made in this order; a later split skips what an
earlier one holds."""


def draw_splits(sizes: dict[str, int] | None = None) -> dict[str, list[Problem]]:
    """All problems of all splits; `sizes` makes smaller ones for a quick check."""
    seen: set[str] = set()
    splits: dict[str, list[Problem]] = {}
    for name, (size, turns) in SPLITS.items():
        rng = Random(f"{SEED}:{name}")
        rows: list[Problem] = []
        while len(rows) < (sizes or {}).get(name, size):
            problem = draw_problem(rng, turns[len(rows) % len(turns)])
            if problem.question not in seen:
                seen.add(problem.question)
                rows.append(problem)
        splits[name] = rows
    return splits


def held_out() -> frozenset[str]:
    """Every question of every split: none of them may be pretrained on."""
    return frozenset(row.question for rows in draw_splits().values() for row in rows)
