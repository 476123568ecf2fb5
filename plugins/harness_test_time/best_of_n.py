"""Best-of-n: sample n completions and keep the one that a scorer likes best.

Papers: Cobbe et al. 2021, arXiv:2110.14168, sec. 4.2 (verifiers); Stiennon et al. 2020, arXiv:2009.01325 (best-of-n).
y* = argmax_i S(x, y_i).
Data: none; the scorer before it in the pipeline was trained. Cost: n completions and n judgements a question.
Left out: the vote weighted by scores. With a large n the choice finds the scorer's mistakes (over-optimisation).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness import Answer, Model, Prompt, Run, hookimpl
from harness.toolbox import sample


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

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        candidates = sample(model, prompt, run, n=self.samples, temperature=self.temperature)
        scores = [judged.total for judged in run.score(prompt, candidates)]
        best = max(range(len(candidates)), key=scores.__getitem__)  # a tie goes to the first
        return Answer(candidates[best].text, tuple(candidates))


@hookimpl
def harness_methods() -> list[type]:
    return [BestOfN]
