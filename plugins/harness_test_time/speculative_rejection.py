"""Speculative rejection: best-of-n that gives up, step after step, the solutions that a scorer likes least so far.

Paper: Sun et al. 2024, arXiv:2410.20290: all solutions grow side by side; at each check those are rejected that score
far below the rest, here S(x, y_i) < alpha max_j S(x, y_j); finished and unfinished ones are one pool. y* = argmax S of
the finished. With alpha = 0 nothing is rejected, and this is best-of-n, sample by sample.
Data: none; the scorer before it in the pipeline was trained, and must make sense of partial solutions. Cost: the first
step of n completions, fewer and fewer of the steps to come, and a judgement of each different partial solution.
Deviations: the paper rejects the share alpha of a pool, whatever it scores: good ones of an easy question as well, and
too few of a hard one. It checks where memory is full; here it is after each step. A finished solution that is rejected
leaves the pool, but may still be the answer: dropping it would save nothing.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness import Answer, BudgetSpentError, Completion, Model, Prompt, Run, hookimpl
from harness.toolbox import ROOT, carry, check_fields, ended, goes_on, grow, sample


@dataclass(frozen=True)
class SpeculativeRejection:
    name: ClassVar[str] = "speculative-rejection"
    family: ClassVar[str] = "test-time"
    after: ClassVar[tuple[str, ...]] = ("cot-sft", "process-reward-model")
    needs: ClassVar[tuple[str, ...]] = ("scorer",)
    scales: ClassVar[str] = "samples"
    samples: int = 16
    """Solutions that are begun."""
    alpha: float = 0.65
    """Share of the best score that is needed to go on. At 0 this is best-of-n."""
    temperature: float = 1.0
    """Sampling temperature; at 0 all would be the same."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("samples", self.samples >= 1, "at least 1"),
            ("alpha", 0 <= self.alpha < 1, "0 or above, and below 1"),
            ("temperature", 0 <= self.temperature < math.inf, "0 or above, and finite"),
        )

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        heat, scores = self.temperature, dict[Completion, float]()
        pool, finished = list[Completion](), list[Completion]()
        with contextlib.suppress(BudgetSpentError):
            if self.alpha == 0:
                pool = sample(model, prompt, run, self.samples, heat)
            else:
                [pool] = grow(model, prompt, run, [ROOT], self.samples, heat, found=())
            finished = [branch for branch in pool if not goes_on(branch)]
            while True:
                if unknown := [branch for branch in dict.fromkeys(pool) if branch not in scores]:
                    judged = run.score(prompt, unknown)
                    scores.update((branch, said.total) for branch, said in zip(unknown, judged, strict=True))
                if not any(map(goes_on, pool)):
                    break
                pool = self.survivors(pool, scores)
                grown = grow(model, prompt, run, pool, 1, heat, whole=len(pool) == 1, found=finished)
                finished += [new for old, [new] in zip(pool, grown, strict=True) if goes_on(old) and not goes_on(new)]
                pool = [branch for [branch] in grown]
        if carried := carry(model, prompt, run, [(scores[branch], branch) for branch in (*finished, *pool)], heat):
            return Answer(carried.text, (carried,))
        rivals = [branch for branch in finished if ended(branch, run)] or finished or pool
        return Answer(max(rivals, key=scores.__getitem__).text, tuple(rivals))  # a tie goes to the first

    def survivors(self, pool: Sequence[Completion], scores: Mapping[Completion, float]) -> list[Completion]:
        """Those that score near enough to the best, which is always among them."""
        best = max(scores[branch] for branch in pool)
        enough = min(self.alpha * best, best)  # below 0, the share of the best is above it
        return [branch for branch in pool if scores[branch] >= enough]


@hookimpl
def harness_methods() -> list[type]:
    return [SpeculativeRejection]
