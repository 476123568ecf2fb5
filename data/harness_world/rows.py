"""Problems as rows of the shipped files: the splits, the conversations and the labelled steps.

The preference pairs are made elsewhere (`pairs`), because they are sampled from the base model.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from harness_world.problems import Operation, Problem, draw_operation, sentence, steps_of
from harness_world.rationales import (
    draw_style,
    reply,
    step_labels,
    thought,
    written,
    wrong_steps,
)
from harness_world.splits import SEED
from harness_world.wordings import FOLLOW_UP_ASK

Row = dict[str, Any]
CONVERSATIONS, STEPWISE = 1500, 2400
"""Rows of the views; each takes the first training problems that suit it."""
WRONG_SHARE = 0.6
"""Share of step-labelled drafts with a mistake."""


def problem_rows(split: str, problems: list[Problem]) -> Iterator[Row]:
    """id, prompt, answer, rationale, steps, n_steps: one row a problem."""
    for number, problem in enumerate(problems, 1):
        style = draw_style(Random(f"{SEED}:{split}:style:{number}"))
        yield {
            "id": f"{split}-{number:04d}",
            "prompt": problem.question,
            "answer": str(problem.answer),
            "rationale": thought(written(problem.steps, style)),
            "steps": [str(step) for step in problem.steps],
            "n_steps": len(problem.steps),
        }


def follow_up(rng: Random, problem: Problem) -> tuple[str, Operation]:
    """`Then Finn buys 4 more. How many now?`, with the change that it tells."""
    while True:
        operation = draw_operation(rng, problem.answer)
        if operation is None:
            continue
        text = sentence(rng, operation, problem.owner, problem.item)
        if text.startswith(problem.owner):
            text = f"Then {text}"
        return f"{text} {FOLLOW_UP_ASK}", operation


def conversation_rows(problems: list[Problem], size: int = CONVERSATIONS) -> Iterator[Row]:
    """Two questions and two replies in one style: the second goes on from the first answer."""
    for number, problem in enumerate(problems[:size], 1):
        rng = Random(f"{SEED}:conversation:{number}")
        style = draw_style(rng)
        question, operation = follow_up(rng, problem)
        more = steps_of(problem.answer, operation)
        replies = [reply(written(steps, style), steps[-1].result) for steps in (problem.steps, more)]
        yield {
            "id": f"conversation-{number:04d}",
            "messages": [
                {"role": "user", "content": problem.question},
                {"role": "assistant", "content": replies[0]},
                {"role": "user", "content": question},
                {"role": "assistant", "content": replies[1]},
            ],
        }


def stepwise_rows(problems: list[Problem], size: int = STEPWISE) -> Iterator[Row]:
    """Drafts cut into steps, each True until the first wrong one and False from there on."""
    long = [problem for problem in problems if len(problem.steps) > 1]
    for number, problem in enumerate(long[:size], 1):
        rng = Random(f"{SEED}:stepwise:{number}")
        style = draw_style(rng)
        right = written(problem.steps, style)
        draft, bad = right, rng.random() < WRONG_SHARE
        while bad and all(step_labels(draft, right)):  # not a draft that only stops early
            draft = written(wrong_steps(rng, problem), style)
        yield {
            "id": f"stepwise-{number:04d}",
            "prompt": problem.question,
            "completions": list(draft),
            "labels": list(step_labels(draft, right)),
        }
