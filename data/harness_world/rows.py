"""Problems as rows of the shipped files: the splits, the conversations, the labelled steps, the instructions.

The preference pairs are made elsewhere (`pairs`), because they are sampled from the base model.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from harness_world.corpus import TURN_KINDS, Source
from harness_world.problems import (
    Operation,
    Problem,
    draw_expression,
    draw_fact,
    draw_narrative,
    draw_operation,
    sentence,
    steps_of,
)
from harness_world.rationales import (
    direct,
    draw_style,
    reply,
    step_labels,
    thought,
    written,
    wrong_steps,
)
from harness_world.splits import SEED
from harness_world.tasks import CLUSTER_OF, draw_task
from harness_world.wordings import FOLLOW_UP_ASK, INSTRUCTIONS, THINGS

Row = dict[str, Any]
CONVERSATIONS, STEPWISE = 1500, 2400
"""Rows of the views; each takes the first training problems that suit it."""
NARRATIVES = 3000
GENERAL, GENERAL_DEV = 1500, 300
HELD_OUT_CLUSTERS = ("order", "digits")
"""Short tasks of these are in no training data: the test of instruction tuning."""
TASK_ROWS = {"story": 3000, "expression": 800, "fact": 400, "short": 300}
"""Rows a task: unlike in size, as collections are; `short` holds for each of the short tasks."""
HELD_OUT_ROWS = 125
"""Test rows of each held-out task."""
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


def dialogue_rows(problems: list[Problem]) -> Iterator[Row]:
    """Test dialogues: a question, which the model answers itself, and the one that goes on from it."""
    for number, problem in enumerate(problems, 1):
        question, operation = follow_up(Random(f"{SEED}:dialogue:{number}"), problem)
        answer = steps_of(problem.answer, operation)[-1].result
        yield {
            "id": f"dialogue-{number:04d}",
            "earlier": [problem.question],
            "prompt": question,
            "answer": str(answer),
        }


def instruction_rows(problems: list[Problem]) -> Iterator[Row]:
    """task, prompt, completion: stories, expressions, facts, and short tasks of the clusters that are not held out."""
    rng = Random(f"{SEED}:instructions")
    short = [key for key, cluster in CLUSTER_OF.items() if cluster not in HELD_OUT_CLUSTERS]
    asked: list[tuple[str, str, int]] = []
    asked += [("story", p.question, p.answer) for p in problems[: TASK_ROWS["story"]]]
    for task, draw in (("expression", draw_expression), ("fact", draw_fact)):
        drawn = [draw(rng) for _ in range(TASK_ROWS[task])]
        asked += [(task, p.question, p.answer) for p in drawn]
    for key in short:
        tasks = [draw_task(rng, key) for _ in range(TASK_ROWS["short"])]
        asked += [(key, task.asked(rng.choice(INSTRUCTIONS)), task.answer) for task in tasks]
    for number, (task, prompt, answer) in enumerate(asked, 1):
        yield {"id": f"instruction-{number:04d}", "task": task, "prompt": prompt, "completion": direct(answer)}


def held_out_task_rows() -> Iterator[Row]:
    """Test rows of the tasks that no training data holds, in forms that other tasks are trained in."""
    rng = Random(f"{SEED}:held-out-tasks")
    seen: set[str] = set()
    for key in (key for key, cluster in CLUSTER_OF.items() if cluster in HELD_OUT_CLUSTERS):
        number = 0
        while number < HELD_OUT_ROWS:
            task = draw_task(rng, key)
            prompt = task.asked(rng.choice(INSTRUCTIONS))
            if prompt in seen:
                continue
            seen.add(prompt)
            number += 1
            yield {"id": f"{key}-{number:04d}", "prompt": prompt, "answer": str(task.answer)}


def narrative_rows(size: int = NARRATIVES) -> Iterator[Row]:
    """Plain text of the stories' own domain."""
    rng = Random(f"{SEED}:narratives")
    yield from ({"text": draw_narrative(rng, rng.randint(2, 6), THINGS)} for _ in range(size))


def general_rows(split: str, size: int, avoid: frozenset[str]) -> Iterator[Row]:
    """Single turns as the base model has read them, drawn anew: what it must not forget."""
    source = Source(Random(f"{SEED}:{split}"), avoid)
    for kind in source.rng.choices(list(TURN_KINDS), list(TURN_KINDS.values()), k=size):
        (question, _), (reply_text, _) = kind(source)
        yield {"prompt": question.removeprefix("Q: ").removesuffix("\n"), "completion": reply_text}
