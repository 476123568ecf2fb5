"""One sample at temperature 1: what the policy answers on average, and what a vote or a choice must beat.

Data: none. Cost: one completion a question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness import Answer, Model, Prompt, Run, hookimpl
from harness.toolbox import sample


@dataclass(frozen=True)
class Sampled:
    name: ClassVar[str] = "sampled"
    family: ClassVar[str] = "control"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    temperature: float = 1.0
    """1 is the policy itself: the distribution that training shaped."""

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        [completion] = sample(model, prompt, run, n=1, temperature=self.temperature)
        return Answer(completion.text, (completion,))


@hookimpl
def harness_methods() -> list[type]:
    return [Sampled]
