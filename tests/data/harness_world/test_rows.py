import re

import pytest

from harness_world.rows import conversation_rows, problem_rows, stepwise_rows
from harness_world.splits import draw_splits
from harness_world.verifier import verify


@pytest.fixture(scope="module")
def problems():
    return draw_splits({"test": 1, "easy": 1, "dev": 1, "train": 400})["train"]


def test_problem_rows(problems):
    for row, problem in zip(problem_rows("train", problems), problems, strict=True):
        assert row["n_steps"] == len(row["steps"])
        assert row["prompt"] == problem.question
        assert row["answer"] == row["steps"][-1].split("=")[1]
        assert verify(row["answer"], f"{row['rationale']}\nA: {row['answer']}")[0]
        assert row["rationale"].startswith("T: ")
        assert row["rationale"].endswith(f"{row['answer']}.")


def test_the_second_turn_goes_on_from_the_first_answer(problems):
    for row in conversation_rows(problems):
        question, first, more, second = (message["content"] for message in row["messages"])
        assert question.endswith("?")
        assert more.endswith(" How many now?")
        start = verify("0", first)[1]
        assert start is not None
        assert verify(verify("0", second)[1] or "", second)[0]
        sums = [step for step in re.findall(r"[0-9]+[-+*/][0-9]+", second) if step.startswith(f"{start}")]
        assert sums or "=" not in second


def test_labels_are_false_from_the_first_wrong_step_on(problems):
    rows = list(stepwise_rows(problems))
    for row in rows:
        assert len(row["completions"]) == len(row["labels"])
        assert row["labels"] == sorted(row["labels"], reverse=True)
    wrong = sum(not all(row["labels"]) for row in rows) / len(rows)
    assert 0.5 < wrong < 0.7
