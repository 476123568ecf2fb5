"""Beam search over steps: draw several next steps of each partial solution, keep those that a scorer likes best.

Paper: Snell et al. 2024, arXiv:2408.03314, sec. 5.2. N first steps are drawn; of the prefixes of one depth the N/M with
the highest S(x, y_1..t) are kept and grown by M next steps each, until all have ended. Then "best-of-N weighted":
a* = argmax_a sum_{i: a_i = a} S(x, y_i).
Places: an ended branch keeps its score and its place among the N and is not grown again. With E of them the best
max(1, (N - E) // M) open ones go on. So only branches of equal depth compete: the score of a prefix falls with depth.
Equal branches are judged once. Open ones go on as one, or copies would fill the beam; solutions are a vote each, as
equal samples are. What a limit cut off is chosen only where nothing was finished.
Data: none; the scorer before it was trained, and must be able to judge a part of a solution. Cost: at most N solutions
and a judgement of every branch at every step; a batch a step, one after another.
Left out: lookahead search; the paper's end after 40 rounds, as `max_new_tokens` ends every branch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness import Answer, BudgetSpentError, Completion, Model, Prompt, Run, hookimpl
from harness.toolbox import CHOICES, ROOT, carry, check_fields, elect, goes_on, grow, judge

Judged = tuple[float, Completion]


def best_open(judged: Sequence[Judged], count: int) -> list[Judged]:
    """The `count` best of those that go on, each once; a tie goes to the first."""
    distinct = {branch.tokens: (score, branch) for score, branch in judged if goes_on(branch)}
    return sorted(distinct.values(), key=lambda item: -item[0])[:count]


@dataclass(frozen=True)
class BeamSearch:
    name: ClassVar[str] = "beam-search"
    family: ClassVar[str] = "test-time"
    after: ClassVar[tuple[str, ...]] = ("cot-sft", "process-reward-model")
    needs: ClassVar[tuple[str, ...]] = ("scorer",)
    scales: ClassVar[str] = "beams"
    beams: int = 16
    """N: branches in all, ended ones among them."""
    expand: int = 4
    """M: next steps drawn of each branch that is kept; divides `beams`. The paper's 4; 1 prunes nothing."""
    temperature: float = 1.0
    """Sampling temperature; at 0 all steps of a branch would be the same."""
    choose: str = "vote"
    """Which solution answers: `vote`, weighted by scores, or `best`, the highest score."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("beams", self.beams >= 1, "at least 1"),
            (
                "expand",
                self.expand >= 1 and self.beams % self.expand == 0,
                f"a divisor of beams, which is {self.beams}",
            ),
            ("temperature", 0 <= self.temperature < float("inf"), "0 or above"),
            ("choose", self.choose in CHOICES, " or ".join(CHOICES)),
        )

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        kept, ended, count = [(0.0, ROOT)], list[Judged](), self.beams
        known: dict[tuple[int, ...], Judged] = {}
        with contextlib.suppress(BudgetSpentError):
            while kept:
                branches, found = [branch for _, branch in kept], [solution for _, solution in ended]
                grown = grow(model, prompt, run, branches, count, self.temperature, found=found)
                judged = judge(run, prompt, [branch for of_one in grown for branch in of_one], known)
                ended += [item for item in judged if not goes_on(item[1])]
                left = self.beams - len(ended)
                kept, count = best_open(judged, max(1, left // self.expand)), min(self.expand, left)
        carried = carry(model, prompt, run, [*ended, *kept], self.temperature)
        return Answer(carried.text, (carried,)) if carried else elect([*ended, *kept], self.choose)


@hookimpl
def harness_methods() -> list[type]:
    return [BeamSearch]
