"""What both sides of a training work go through: the same items in the same batches, and the same rate at each step."""

from __future__ import annotations

import dataclasses
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from benchmarks.models import SEED, Setting
from harness import Model, Problem, Run, TrainingData
from harness.toolbox import cosine_with_warmup
from harness_world import World, load_world
from harness_world.wordings import THINK

Item = TypeVar("Item")
SHORTEST, LONGEST = 32, 128
"""Tokens of an example, prompt and completion together."""
DIGITS = 5e-5
"""Largest relative difference of numbers that are equal to four digits."""


@dataclass(frozen=True)
class Course(Generic[Item]):
    """Batches in the order in which a method of ours asks for them, of one epoch."""

    items: Sequence[Item]
    """As the method is given them."""
    batches: Sequence[Sequence[Item]]
    budget: int
    """Tokens after which the run ends: those of the epoch."""
    padding: float
    """Share of padding where each batch is padded to its longest row."""
    factors: tuple[float, ...]
    """Of the learning rate, a step."""

    @classmethod
    def of(
        cls, items: Sequence[Item], size: int, lengths: Callable[[Item], Sequence[int]], passes: int = 1
    ) -> Course[Item]:
        """`lengths`: tokens of the rows that an item becomes; `passes`: how often each is read."""
        batches = list(Run(SEED).batches(items, size, epochs=1))
        rows = [[length for item in batch for length in lengths(item)] for batch in batches]
        run = Run(SEED, budget=passes * sum(map(sum, rows)))
        factors = []
        for of_batch in rows:
            run.ledger.trained_tokens += passes * sum(of_batch)
            factors.append(cosine_with_warmup(run))
        padded = sum(max(of_batch) * len(of_batch) for of_batch in rows)
        return cls(items, batches, int(run.budget or 0), 1 - sum(map(sum, rows)) / padded, tuple(factors))

    @property
    def in_order(self) -> list[Item]:
        """The items one after the other, as they are trained on."""
        return [item for batch in self.batches for item in batch]


def world() -> World:
    """The problems that everything is measured on."""
    return load_world("tiny-world", "test", "")


def worked(data: TrainingData) -> TrainingData:
    """The same data, but that the worked solution is learnt by whatever method."""
    return dataclasses.replace(data, render_target=lambda problem, _: data.render_target(problem, True))


def lengths_of(model: Model, prompt: str, *completions: str) -> list[int]:
    """Tokens of the prompt with each completion, its end token included."""
    before = len(model.encode_prompt(prompt))
    return [before + len(model.encode_completion(text)) for text in completions]


def examples(setting: Setting, data: TrainingData, count: int) -> list[Problem]:
    """Problems whose lengths are as evenly spread from `SHORTEST` to `LONGEST` as there are some of each."""
    by_length: dict[int, list[Problem]] = defaultdict(list)
    for problem in data.problems:
        [length] = lengths_of(setting.model, problem.prompt, data.render_target(problem, True))
        if SHORTEST <= length <= LONGEST:
            by_length[length].append(problem)
    draw, chosen = random.Random(SEED), list[Problem]()  # noqa: S311 - data, not secrets
    while len(chosen) < count:
        left = by_length[draw.choice([length for length in sorted(by_length) if by_length[length]])]
        chosen.append(left.pop(draw.randrange(len(left))))
    return chosen


def questions(count: int) -> list[Problem]:
    """Some problems, with the cue at which the embedded world's base model shows its work: a third of it is right."""
    chosen = random.Random(SEED).sample(list(world().training().problems), count)  # noqa: S311 - data, not secrets
    return [dataclasses.replace(problem, prompt=problem.prompt + THINK) for problem in chosen]


def train(method: Any, model: Model, data: TrainingData, run: Run) -> Run:
    """Train as a stage does, watched by the meter, until the run ends."""
    run.watch(model)
    with run.pays():
        method.train(model, data, run)
    run.close()
    return run


def compare(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Whether the losses of both sides are the same, in a sentence."""
    if len(ours) != len(theirs):
        return f"{len(ours)} steps here, {len(theirs)} there"
    worst = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))
    verdict = "equal to 4 digits" if worst <= DIGITS else "NOT equal to 4 digits"
    return f"losses {verdict} over {len(ours)} steps, {ours[0]:.4f} to {ours[-1]:.4f}: apart by at most {worst:.0e}"


def losses(curve: Sequence[Mapping[str, float]]) -> list[float]:
    """The losses of a curve of ours, or of TRL's log."""
    return [float(point["loss"]) for point in curve if "loss" in point]
