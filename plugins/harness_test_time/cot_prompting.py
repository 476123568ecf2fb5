"""Chain-of-thought prompting: ask for the steps before the answer, with nothing but a sentence after the question.

Paper: Kojima et al. 2022, arXiv:2205.11916, sec. 3 (zero-shot); the idea is Wei et al. 2022, arXiv:2201.11903.
Data: none. Cost: one completion a question, as long as a worked solution.
Left out: the second prompt that extracts the answer (the verifier reads the last answer), and few-shot exemplars.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness import Answer, Model, Prompt, Run, hookimpl
from harness.toolbox import sample


def cued(prompt: Prompt, cue: str) -> Prompt:
    """The question, or the last turn of the conversation, with the cue behind it."""
    if isinstance(prompt, str):
        return f"{prompt} {cue}"
    *earlier, last = prompt
    return (*earlier, {**last, "content": f"{last['content']} {cue}"})


@dataclass(frozen=True)
class CoTPrompting:
    name: ClassVar[str] = "cot-prompting"
    family: ClassVar[str] = "test-time"
    cue: str = "Let's think step by step."
    """Kojima et al., table 4: the best of the cues they tried."""
    temperature: float = 0.0
    """The paper decodes greedily."""

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        [completion] = sample(model, cued(prompt, self.cue), run, n=1, temperature=self.temperature)
        return Answer(completion.text, (completion,))


@hookimpl
def harness_methods() -> list[type]:
    return [CoTPrompting]
