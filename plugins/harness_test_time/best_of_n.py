"""Best-of-n: sample n completions and keep the one that a scorer likes best.

Papers: Cobbe et al. 2021, arXiv:2110.14168, sec. 4.2 (verifiers); Stiennon et al. 2020, arXiv:2009.01325 (best-of-n);
Li et al. 2022, arXiv:2206.02336 (the vote that a verifier weighs).
`best`: y* = argmax_i S(x, y_i). `weighted`: a* = argmax_a sum_i S(x, y_i) 1[a_i = a].
Data: none; the scorer before it in the pipeline was trained. Cost: n completions and n judgements a question.
Left out: other aggregates. With a large n the choice finds the scorer's mistakes (over-optimisation), the vote less so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness import Answer, Completion, Model, Prompt, Run, hookimpl
from harness.toolbox import sample, vote

CHOICES = ("best", "weighted")


@dataclass(frozen=True)
class BestOfN:
    name: ClassVar[str] = "best-of-n"
    family: ClassVar[str] = "test-time"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    needs: ClassVar[tuple[str, ...]] = ("scorer",)
    samples: int = 16
    """Completions to choose from; the verifiers board has the curve up to here."""
    temperature: float = 1.0
    """Sampling temperature; at 0 all n would be the same."""
    choose: str = "best"
    """`best`: the completion with the highest score. `weighted`: the answer whose completions have the highest sum."""

    def __post_init__(self) -> None:
        for name, allowed, fits in (
            ("samples", "at least 1", self.samples >= 1),
            ("temperature", "0 or above, and finite", 0 <= self.temperature < math.inf),
            ("choose", " or ".join(CHOICES), self.choose in CHOICES),
        ):
            if not fits:
                msg = f"{name} of {self.name} must be {allowed}, not {getattr(self, name)}"
                raise ValueError(msg)

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        candidates = sample(model, prompt, run, n=self.samples, temperature=self.temperature)
        scores = [judged.total for judged in run.score(prompt, candidates)]
        return Answer(self.chosen(candidates, scores).text, tuple(candidates))

    def chosen(self, candidates: Sequence[Completion], scores: Sequence[float]) -> Completion:
        """The winner; a tie goes to the first.

        Raises:
            ValueError: a score is to be a weight, and is below 0.
        """
        if self.choose == "best":
            return candidates[max(range(len(candidates)), key=scores.__getitem__)]
        if min(scores) < 0:
            msg = f"{self.name}: a score of {min(scores):.3g} cannot weigh a vote, only 0 or above; take choose=best"
            raise ValueError(msg)
        return vote(candidates, scores if any(scores) else None)  # where all weigh nothing, all weigh the same


@hookimpl
def harness_methods() -> list[type]:
    return [BestOfN]
