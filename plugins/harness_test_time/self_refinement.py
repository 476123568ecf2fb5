"""Self-refinement: the model reads its own draft and corrects it, until it calls it right or repeats its answer.

Papers: Madaan et al. 2023 (Self-Refine), arXiv:2303.17651, sec. 2, here with feedback and correction in one reply;
Huang et al. 2023, arXiv:2310.01798, who find that without a judgement from outside this lowers accuracy.
y_0 ~ p(. | x), y_{t+1} ~ p(. | ask(x, y_t)). Intrinsic: each y_{t+1} takes the place of y_t. Guided: where a scorer
says S(x, y_{t+1}) >= S(x, y_t). Neither sees the answer key, and the last draft accepted is the answer.
Data: none; the scorer of the guided one was trained before. Cost: up to 1 + `rounds` completions one after the other,
each correction behind a prompt that is longer by one draft; guided, a judgement of each.
Left out: feedback as a call of its own, and earlier drafts in the prompt, which grows no further than by the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from harness import Answer, BudgetSpentError, Completion, Model, Prompt, Run, hookimpl
from harness.toolbox import asked_to_fix, check_fields, final_answer, sample


def repeats(new: Completion, draft: Completion) -> bool:
    answer = final_answer(new.text)
    return new.text == draft.text or (answer is not None and answer == final_answer(draft.text))


@dataclass(frozen=True)
class SelfRefinement:
    name: ClassVar[str] = "self-refinement"
    family: ClassVar[str] = "test-time"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    scales: ClassVar[str] = "rounds"
    rounds: int = 2
    """Most corrections; at 0 the draft is the answer."""
    temperature: float = 0.0
    """Of draft and corrections; 0 takes the likeliest token."""
    ask: str = "{question}\nDraft: {draft}\nFix the draft."
    """How a correction is asked for: the form that the embedded world's base model has read."""
    right: str = "The draft is right."
    """What a reply begins with that keeps the draft."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("rounds", self.rounds >= 0, "0 or more"),
            ("temperature", 0 <= self.temperature < math.inf, "0 or above"),
            ("ask", "{question}" in self.ask and "{draft}" in self.ask, "a text with {question} and {draft}"),
            ("right", bool(self.right.strip()), "the first words of a reply that keeps the draft"),
        )

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        return self.refined(model, prompt, run, lambda _: 0.0, math.inf)  # each is as good as the last: accepted

    def refined(
        self, model: Model, prompt: Prompt, run: Run, score: Callable[[Completion], float], enough: float
    ) -> Answer:
        """The last draft accepted; a new one is accepted where it scores no less, and none is asked for above `enough`.

        The record has every attempt, first draft first, so that answers that flipped can be counted from it.
        """
        [draft] = sample(model, prompt, run, n=1, temperature=self.temperature)
        attempts, best = [draft], score(draft)
        for _ in range(self.rounds):
            if best > enough:
                break
            try:
                [new] = sample(model, asked_to_fix(self.ask, prompt, draft.text), run, 1, self.temperature)
            except BudgetSpentError:
                break
            if not new.tokens or new.text.lstrip().startswith(self.right):  # no room in the context, or no need
                break
            attempts.append(new)
            cut_short = new.finish == "length" and draft.finish != "length"
            settled, accepted = repeats(new, draft), not cut_short and (fresh := score(new)) >= best
            if accepted:
                draft, best = new, fresh
            if settled or (not accepted and self.temperature == 0):  # the same would be said again
                break
        return Answer(draft.text, tuple(attempts))


@dataclass(frozen=True)
class GuidedRefinement(SelfRefinement):
    """Guided self-refinement: a correction is accepted only where a scorer likes it no less than the draft."""

    name: ClassVar[str] = "guided-refinement"
    after: ClassVar[tuple[str, ...]] = ("cot-sft", "process-reward-model")
    needs: ClassVar[tuple[str, ...]] = ("scorer",)
    enough: float = 0.9
    """A draft that scores above this is not corrected: the chance that it is right."""

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        # Judged as a completion of the question itself: the scorer never reads that it was asked to fix something.
        return self.refined(model, prompt, run, lambda new: run.score(prompt, [new])[0].total, self.enough)


@hookimpl
def harness_methods() -> list[type]:
    return [SelfRefinement, GuidedRefinement]
