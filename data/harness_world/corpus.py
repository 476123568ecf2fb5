"""The pretraining stream: eight kinds of text in fixed shares, as (text, loss weight) segments.

A pool of texts depends only on the seed and its own number, so any step of a training run can be
made again by itself. Questions and drafts weigh little in the loss: they are given, not asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from harness_world.problems import Problem, draw_expression, draw_fact, draw_problem
from harness_world.rationales import (
    STYLE_WEIGHTS,
    direct,
    draw_style,
    estimate,
    reply,
    step_labels,
    thought,
    written,
    wrong_steps,
)
from harness_world.tasks import CLUSTER_OF, draw_task
from harness_world.wordings import BAD, DRAFT, FIX, GOOD, JUDGE, RIGHT, THINK

Segments = list[tuple[str, float]]
"""The parts of one text; between `<bos>` and `<eos>`, which the trainer adds."""

GIVEN, ASKED = 0.15, 1.0
"""Loss weight of what is given (question, draft) and of what is asked for."""
STEP_WEIGHTS = (2.0, 3.0, 4.0, 4.0, 3.0, 1.5, 0.5)
"""Shares of problems of 1 to 7 steps."""
HALF = 0.5
"""Share of expressions with the cue, and of drafts with a mistake."""
EXACT_STEPS = 3
"""Most steps of a problem that anyone answers exactly without working it out; the rest are guessed at."""
DIRECT_DRAFT_SHARE = 0.15
"""Share of drafts that are a bare answer; the reply to those always shows the steps."""


def user(content: str) -> tuple[str, float]:
    """A user turn, as the chat template writes it."""
    return (f"Q: {content}\n", GIVEN)


@dataclass(frozen=True)
class Source:
    """Where the texts of one pool draw from."""

    rng: Random
    avoid: frozenset[str]
    styles: Sequence[int] = STYLE_WEIGHTS
    """Shares of the styles that right replies are written in."""

    def problem(self) -> Problem:
        """Draw a problem that is in no split."""
        lengths = range(1, len(STEP_WEIGHTS) + 1)
        while True:
            problem = draw_problem(self.rng, self.rng.choices(lengths, STEP_WEIGHTS)[0])
            if problem.question not in self.avoid:
                return problem


def right_reply(source: Source, problem: Problem) -> str:
    """The right rationale in a drawn style, with its answer."""
    return reply(written(problem.steps, draw_style(source.rng, source.styles)), problem.answer)


def direct_text(source: Source) -> Segments:
    """Question, answer; without working it out, a long problem is only guessed at."""
    problem = source.problem()
    say = direct if len(problem.steps) <= EXACT_STEPS else estimate
    return [user(problem.question), (say(problem.answer), ASKED)]


def rationale_text(source: Source) -> Segments:
    """Question without the cue, yet with a rationale: thinking can be found by trying."""
    problem = source.problem()
    return [user(problem.question), (right_reply(source, problem), ASKED)]


def cued_text(source: Source) -> Segments:
    """Question, cue, rationale."""
    problem = source.problem()
    return [user(problem.question + THINK), (right_reply(source, problem), ASKED)]


def expression_text(source: Source) -> Segments:
    """`What is 2+1-3+8?`, half of them with the cue."""
    problem = draw_expression(source.rng)
    if source.rng.random() < HALF:
        return [user(problem.question + THINK), (right_reply(source, problem), ASKED)]
    return [user(problem.question), (direct(problem.answer), ASKED)]


def fact_text(source: Source) -> Segments:
    """`What is 7*8?`."""
    problem = draw_fact(source.rng)
    return [user(problem.question), (direct(problem.answer), ASKED)]


def task_text(source: Source) -> Segments:
    """`What is the largest of 12, 7, 45?`, in one form only."""
    task = draw_task(source.rng, source.rng.choice(list(CLUSTER_OF)))
    return [user(task.asked()), (direct(task.answer), ASKED)]


def judged_text(source: Source) -> Segments:
    """A rationale with a judgement after each step; half have a mistake, and stop there."""
    problem, style = source.problem(), draw_style(source.rng)
    right = written(problem.steps, style)
    draft = written(wrong_steps(source.rng, problem), style) if source.rng.random() < HALF else right
    segments: Segments = [user(problem.question + JUDGE), ("T:", GIVEN)]
    for step, good in zip(draft, step_labels(draft, right), strict=True):
        segments += [(f" {step}", GIVEN), (GOOD if good else BAD, ASKED)]
        if not good:
            break
    return segments


def fixed_text(source: Source) -> Segments:
    """A draft and its correction, or the word that it is right."""
    problem, style = source.problem(), draw_style(source.rng)
    wrong = source.rng.random() < HALF
    steps = wrong_steps(source.rng, problem) if wrong else problem.steps
    said = direct(steps[-1].result)
    answer = right_reply(source, problem)
    if source.rng.random() >= DIRECT_DRAFT_SHARE:
        said = f"{thought(written(steps, style))} {said}"
        answer = answer if wrong else f"{RIGHT}\n{direct(problem.answer)}"
    return [user(f"{problem.question}{DRAFT}{said}{FIX}"), (answer, ASKED)]


MIXTURE: dict[Callable[[Source], Segments], float] = {
    direct_text: 12.0,
    rationale_text: 10.0,
    cued_text: 46.0,
    expression_text: 8.0,
    fact_text: 6.0,
    task_text: 10.0,
    judged_text: 4.0,
    fixed_text: 4.0,
}
"""Kind of text to its share in percent."""


TURN_KINDS = {kind: share for kind, share in MIXTURE.items() if kind not in (judged_text, fixed_text)}
"""The kinds that are one question and one reply."""


def pool(
    seed: str, number: int, size: int, avoid: frozenset[str], styles: Sequence[int] = STYLE_WEIGHTS
) -> list[Segments]:
    """Pool `number` of the stream: `size` texts."""
    rng = Random(f"{seed}:pool:{number}")
    source = Source(rng, avoid, styles)
    return [kind(source) for kind in rng.choices(list(MIXTURE), list(MIXTURE.values()), k=size)]
