"""Self-consistency: sample many chains of thought, and let them vote on the answer.

Paper: Wang et al. 2022, arXiv:2203.11171, sec. 2: argmax_a sum_i 1[a_i = a], the unweighted vote.
Data: none. Cost: `samples` completions a question, which can run side by side.
Left out: the weighted sums of table 1, which the paper finds no better than the plain vote.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness import Answer, Model, Prompt, Run, hookimpl
from harness.toolbox import sample, vote


@dataclass(frozen=True)
class SelfConsistency:
    name: ClassVar[str] = "self-consistency"
    family: ClassVar[str] = "test-time"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    samples: int = 16
    """Chains that vote; the paper draws 40 and gains little beyond 20 (fig. 2)."""
    temperature: float = 0.7
    """Sec. 3.1 uses 0.5 to 0.7; at 0 every vote would be the same."""

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        chains = sample(model, prompt, run, n=self.samples, temperature=self.temperature)
        return Answer(vote(chains).text, tuple(chains))


@hookimpl
def harness_methods() -> list[type]:
    return [SelfConsistency]
