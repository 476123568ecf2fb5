"""Chain-of-thought prompting: ask for the steps before the answer, by a sentence after the question or by examples.

Papers: Wei et al. 2022, arXiv:2201.11903, sec. 2 (few-shot: worked solutions stand before the question); Kojima et al.
2022, arXiv:2205.11916, sec. 3 (zero-shot: a cue stands behind it).
Exemplars are earlier turns of the conversation: a question of the train split, then its worked solution, as trainers
render it. They are the same for all questions of a seed. Where a question leaves too little room, the first go.
What a model says after its first answer line, a question of its own after the last exemplar, say, is not its answer.
Data: none, or as many problems of the train split as there are shots. Cost: one completion a question, as long as a
worked solution; the exemplars are read with every question.
Left out: the second prompt that extracts the answer (the verifier reads the last answer), and exemplars by hand.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness import Answer, Message, Model, Problem, Prompt, Run, TrainingData, hookimpl
from harness.toolbox import check_fields, sample


def cued(question: str, cue: str) -> str:
    """The question with the cue behind it, where there is one."""
    return f"{question} {cue}" if cue else question


def answer_lead(problem: Problem, data: TrainingData) -> str:
    """What an answer line begins with; empty where it holds more than that and the answer."""
    line, answer = data.render_target(problem, False), problem.answer.strip()
    return line.removesuffix(answer).rstrip() if line.endswith(answer) else ""


def first_answer(text: str, lead: str) -> str:
    """The text up to the end of the first line that begins with `lead`; all of it where none does."""
    lines = text.split("\n")
    ends = (number for number, line in enumerate(lines, 1) if lead and line.startswith(lead))
    return "\n".join(lines[: next(ends, len(lines))])


@dataclass(frozen=True)
class Shown:
    """The method once it has its exemplars."""

    cue: str
    temperature: float
    exemplars: tuple[Message, ...] = ()
    """Turns: a question, its worked solution, a question, ..."""
    lead: str = ""
    """What an answer line begins with."""

    def asked(self, model: Model, prompt: Prompt, run: Run) -> Sequence[Message]:
        """The last exemplars, as many as leave room for a whole completion, and the question."""
        *earlier, last = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        turns = (*earlier, {**last, "content": cued(last["content"], self.cue)})
        ways = [(*self.exemplars[first:], *turns) for first in range(0, len(self.exemplars) + 1, 2)]
        room = model.context - run.max_new_tokens
        return next((way for way in ways if len(model.encode_prompt(way)) <= room), ways[-1])

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        [completion] = sample(model, self.asked(model, prompt, run), run, n=1, temperature=self.temperature)
        return Answer(first_answer(completion.text, self.lead), (completion,))


@dataclass(frozen=True)
class CoTPrompting:
    name: ClassVar[str] = "cot-prompting"
    family: ClassVar[str] = "test-time"
    cue: str = "Let's think step by step."
    """Behind every question; Kojima et al., table 4: the best of the cues they tried. None where it is empty."""
    shots: int = 0
    """Exemplars before the question; Wei et al. show 8."""
    temperature: float = 0.0
    """The papers decode greedily."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("shots", self.shots >= 0, "0 or above"),
            ("temperature", 0 <= self.temperature < math.inf, "0 or above, and finite"),
        )

    def prepare(self, model: Model, data: TrainingData, run: Run) -> CoTPrompting | Shown:
        if not self.shots:
            return self
        able = [problem for problem in data.problems if problem.rationale and not problem.earlier]
        if len(able) < self.shots:
            msg = f"{self.name}: the train split has {len(able)} worked solutions to show, not {self.shots}"
            raise ValueError(msg)
        chosen = random.Random(run.seed("exemplars")).sample(able, self.shots)  # noqa: S311 - no secrets
        shown = Shown(self.cue, self.temperature, self.turns(chosen, data), answer_lead(chosen[0], data))
        if len(shown.asked(model, chosen[-1].prompt, run)) == 1:
            msg = f"{self.name}: {model.context} tokens hold no exemplar, question and answer of {run.max_new_tokens}"
            raise ValueError(msg)
        return shown

    def turns(self, chosen: Sequence[Problem], data: TrainingData) -> tuple[Message, ...]:
        """A question and its worked solution, of each."""
        return tuple(
            turn
            for problem in chosen
            for turn in (
                {"role": "user", "content": cued(problem.prompt, self.cue)},
                {"role": "assistant", "content": data.render_target(problem, True)},
            )
        )

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        if self.shots:
            msg = f"{self.name} shows exemplars, which `prepare` takes from the train split"
            raise LookupError(msg)
        return Shown(self.cue, self.temperature).answer(model, prompt, run)


@dataclass(frozen=True)
class FewShotCoT(CoTPrompting):
    """Few-shot chain of thought: worked solutions of the train split stand before the question."""

    name: ClassVar[str] = "few-shot-cot"
    cue: str = ""
    """Behind every question; with exemplars none is needed."""
    shots: int = 4
    """Exemplars before the question; Wei et al. show 8."""


@hookimpl
def harness_methods() -> list[type]:
    return [CoTPrompting, FewShotCoT]
