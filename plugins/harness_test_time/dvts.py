"""DVTS, diverse verifier tree search: independent greedy searches over steps, and a vote of what they find.

Source: Beeching, Tunstall and Rush 2024, "Scaling test-time compute with open models" (Hugging Face), the section on
DVTS, and its code, huggingface/search-and-learn. N/M subtrees; in each, M next steps y_t are drawn and the one with the
highest S(x, y_1..t) is kept, until it ends. Beam search (Snell et al. 2024, arXiv:2408.03314) lets the best prefix
take over; here every subtree ends in a solution of its own, and a* = argmax_a sum_{i: a_i = a} S(x, y_i) over them.
A step that a limit cut off leads nowhere: it is kept only if all M are, and chosen only where nothing was finished.
Limit: a least chance over steps falls with depth and says nothing of the answer line. By it, one branch that ends too
early beats all that go on, and a large M finds one.
Data: none; the scorer before it was trained, and must be able to judge a part of a solution. Cost: at most N solutions
and a judgement of every branch at every step; a batch a step, one after another.
Left out: the reference's other M - 1 last steps of each subtree among the candidates: some of them are unfinished, and
the scorer liked all of them less.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness import Answer, BudgetSpentError, Completion, Model, Prompt, Run, hookimpl
from harness.toolbox import CHOICES, ROOT, carry, check_fields, elect, goes_on, grow, judge

Judged = tuple[float, Completion]


def best(steps: Sequence[Judged]) -> Judged:
    """The one with the highest score, of those that were not cut off if there are any; a tie goes to the first."""
    return max(steps, key=lambda item: (item[1].finish != "length", item[0]))


@dataclass(frozen=True)
class DVTS:
    name: ClassVar[str] = "dvts"
    family: ClassVar[str] = "test-time"
    after: ClassVar[tuple[str, ...]] = ("cot-sft", "process-reward-model")
    needs: ClassVar[tuple[str, ...]] = ("scorer",)
    scales: ClassVar[str] = "beams"
    beams: int = 16
    """N: branches in all subtrees together."""
    expand: int = 2
    """M: next steps of a subtree to choose from; divides `beams`. By the reference's 4, half as many solutions vote."""
    temperature: float = 1.0
    """Sampling temperature; at 0 all steps of a branch would be the same."""
    choose: str = "vote"
    """Which subtree answers: `vote`, weighted by scores, or `best`, the highest score."""

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
        tips, known = list[Judged](), dict[tuple[int, ...], Judged]()
        with contextlib.suppress(BudgetSpentError):
            [first] = grow(model, prompt, run, [ROOT], self.beams, self.temperature, found=())
            subtrees = [first[start : start + self.expand] for start in range(0, self.beams, self.expand)]
            while True:
                judged = iter(judge(run, prompt, [branch for steps in subtrees for branch in steps], known))
                tips = [best([next(judged) for _ in steps]) for steps in subtrees]
                if not any(goes_on(tip) for _, tip in tips):
                    break
                # A subtree that has ended is its own only step, and its share of the budget goes to the others.
                found = [tip for _, tip in tips]
                subtrees = grow(model, prompt, run, found, self.expand, self.temperature, found=found)
        carried = carry(model, prompt, run, tips, self.temperature)
        return Answer(carried.text, (carried,)) if carried else elect(tips, self.choose)


@hookimpl
def harness_methods() -> list[type]:
    return [DVTS]
