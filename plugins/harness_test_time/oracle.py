"""Oracle (pass@n): right if any of n samples is right. An upper bound, no method: only the answer key can choose so.

Paper: Chen et al. 2021, arXiv:2107.03374, sec. 2.1 (pass@k).
What it bounds: every method that chooses among the same n samples of the same policy.
Data: none. Cost: n completions a question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness import Answer, Model, Prompt, Run, hookimpl
from harness.toolbox import sample


@dataclass(frozen=True)
class Oracle:
    name: ClassVar[str] = "oracle"
    family: ClassVar[str] = "control"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    upper_bound: ClassVar[bool] = True
    scales: ClassVar[str] = "samples"
    """The harness counts the question as solved if any completion is right; this file never sees the key."""
    samples: int = 16
    """n of pass@n."""
    temperature: float = 0.7
    """As the vote draws, so that it bounds what choosing among those very samples can reach."""

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        completions = sample(model, prompt, run, n=self.samples, temperature=self.temperature)
        return Answer(completions[0].text, tuple(completions))


@hookimpl
def harness_methods() -> list[type]:
    return [Oracle]
