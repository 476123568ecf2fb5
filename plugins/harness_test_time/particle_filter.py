"""Particle filter: partial solutions multiply or die by chance, in proportion to the odds that they are right.

Paper: Puri et al. 2025, arXiv:2502.01618, "A probabilistic inference approach to inference-time scaling of LLMs using
particle-based Monte Carlo methods", sec. 3.1 and algorithm 1. The language model moves N particles a step on,
y_t ~ p(y_t | x, y_<t); a scorer weighs them; then N are drawn with replacement, P(j = i) = exp(w_i) / sum_k exp(w_k).
w_i = logit S(x, y_1..t), as in the authors' its_hub, so P is in proportion to S / (1 - S). The score is that of the
whole prefix: it takes the place of the last one and is not multiplied with it, or early steps would count again.
A particle that has ended keeps its weight and may still multiply: where scores fall with depth, early ends gain. The
last set, which nothing was drawn from, votes: a* = argmax_a sum_{i: a_i = a} exp(w_i).
Data: none; the scorer before it was trained, says chances, and must be able to judge a part of a solution. Cost: N
solutions and a judgement of every branch at every step; a batch a step, one after another.
Left out: particle Gibbs and parallel tempering; an outcome reward model's choice in the end; its_hub's draw from the
last set before the choice, which may lose the best.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import ClassVar

from harness import Answer, BudgetSpentError, Completion, Model, Prompt, Run, hookimpl
from harness.toolbox import CHOICES, ROOT, carry, check_fields, elect, goes_on, grow, judge

Weighed = tuple[float, Completion]
LEAST = 1e-7
"""How far scores are kept from 0 and 1, where the logit has no end; its_hub's."""


def odds(chance: float) -> float:
    """exp(w), the weight of a particle."""
    chance = min(max(chance, LEAST), 1 - LEAST)
    return chance / (1 - chance)


def resample(weighed: Sequence[Weighed], seed: int) -> list[Completion]:
    """As many particles, drawn with replacement in proportion to their weights."""
    chance = random.Random(seed)  # noqa: S311 - a search, not a secret
    return chance.choices([particle for _, particle in weighed], [weight for weight, _ in weighed], k=len(weighed))


@dataclass(frozen=True)
class ParticleFilter:
    name: ClassVar[str] = "particle-filter"
    family: ClassVar[str] = "test-time"
    after: ClassVar[tuple[str, ...]] = ("cot-sft", "process-reward-model")
    needs: ClassVar[tuple[str, ...]] = ("scorer",)
    scales: ClassVar[str] = "particles"
    particles: int = 16
    """N: partial solutions side by side; 1 is plain sampling."""
    temperature: float = 1.0
    """Sampling temperature; at 1 the steps are the model's own, at 0 all would be the same."""
    choose: str = "vote"
    """Which particle answers: `vote`, by the sums of weights, or `best`, the highest weight."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("particles", self.particles >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < float("inf"), "0 or above"),
            ("choose", self.choose in CHOICES, " or ".join(CHOICES)),
        )

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        weighed, known = list[Weighed](), dict[tuple[int, ...], Weighed]()
        with contextlib.suppress(BudgetSpentError):
            [grown] = grow(model, prompt, run, [ROOT], self.particles, self.temperature, found=())
            for step in count(1):
                weighed = [(odds(score), particle) for score, particle in judge(run, prompt, grown, known)]
                if not any(goes_on(particle) for _, particle in weighed):
                    break
                drawn = resample(weighed, run.seed("resample", run.problem_id, step))
                grown = [one for [one] in grow(model, prompt, run, drawn, 1, self.temperature, found=drawn)]
        carried = carry(model, prompt, run, weighed, self.temperature)
        return Answer(carried.text, (carried,)) if carried else elect(weighed, self.choose)


@hookimpl
def harness_methods() -> list[type]:
    return [ParticleFilter]
