"""Greedy decoding: the likeliest token at every step. It is the start that test-time methods are compared with.

Data: none. Cost: one completion a question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness import Answer, Model, Prompt, Run, hookimpl
from harness.toolbox import sample


@dataclass(frozen=True)
class Greedy:
    name: ClassVar[str] = "greedy"
    family: ClassVar[str] = "control"
    temperature: float = 0.0
    """0 takes the likeliest token."""

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        [completion] = sample(model, prompt, run, n=1, temperature=self.temperature)
        return Answer(completion.text, (completion,))


@hookimpl
def harness_methods() -> list[type]:
    return [Greedy]
