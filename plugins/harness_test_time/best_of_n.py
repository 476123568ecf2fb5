"""Best-of-n: sample n completions and keep the one that a scorer likes best.

Papers: Cobbe et al. 2021, arXiv:2110.14168, sec. 4.2 (verifiers); Stiennon et al. 2020, arXiv:2009.01325 (best-of-n);
Li et al. 2022, arXiv:2206.02336 (the vote that a verifier weighs).
`best`: y* = argmax_i S(x, y_i). `weighted`: a* = argmax_a sum_i S(x, y_i) 1[a_i = a].
Data: none; the scorer before it in the pipeline was trained. Cost: n completions and n judgements a question.
Left out: other aggregates. With a large n the choice finds the scorer's mistakes (over-optimisation), the vote less so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from harness import Answer, Model, Prompt, Run, hookimpl
from harness.toolbox import check_fields, ended, pick, sample, scored

CHOICES = ("best", "weighted")


@dataclass(frozen=True)
class BestOfN:
    name: ClassVar[str] = "best-of-n"
    family: ClassVar[str] = "test-time"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    needs: ClassVar[tuple[str, ...]] = ("scorer",)
    scales: ClassVar[str] = "samples"
    samples: int = 16
    """Completions to choose from; the verifiers board has the curve up to here."""
    temperature: float = 1.0
    """Sampling temperature; at 0 all n would be the same."""
    choose: str = "best"
    """`best`: the completion with the highest score. `weighted`: the answer whose completions have the highest sum."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("samples", self.samples >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < math.inf, "0 or above, and finite"),
            ("choose", self.choose in CHOICES, " or ".join(CHOICES)),
        )

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        candidates = sample(model, prompt, run, n=self.samples, temperature=self.temperature)
        judged = scored(run, prompt, candidates)
        whole = [item for item in judged if run.left or ended(item[1], run)]  # the budget may cut off the last
        return Answer(pick(whole or judged, self.choose).text, tuple(candidates))


@hookimpl
def harness_methods() -> list[type]:
    return [BestOfN]
