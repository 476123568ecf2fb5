import re

import pytest

from harness_world.rows import (
    HELD_OUT_CLUSTERS,
    conversation_rows,
    dialogue_rows,
    general_rows,
    held_out_task_rows,
    instruction_rows,
    problem_rows,
    stepwise_rows,
)
from harness_world.splits import draw_splits
from harness_world.tasks import CLUSTER_OF
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


def test_a_dialogue_asks_first_and_goes_on(problems):
    for row, problem in zip(dialogue_rows(problems[:200]), problems, strict=False):
        assert row["earlier"] == [problem.question]
        assert row["prompt"].endswith("How many now?")
        assert 0 <= int(row["answer"]) <= 99


def test_held_out_tasks_are_in_no_training_data(problems):
    trained = list(instruction_rows(problems))
    test = list(held_out_task_rows())
    held_out = {row["id"].rsplit("-", 1)[0] for row in test}
    assert held_out == {key for key, cluster in CLUSTER_OF.items() if cluster in HELD_OUT_CLUSTERS}
    assert not held_out & {row["task"] for row in trained}
    for row in trained:
        assert not held_out & set(re.findall("[a-z]+", row["prompt"])), row
    assert len({row["prompt"] for row in test}) == len(test) == 500
    assert len({row["task"] for row in trained}) >= 8


def test_instructions_have_several_forms_and_are_right(problems):
    for row in instruction_rows(problems):
        if row["task"] == "largest":
            pytest.fail("held out")
        if row["task"] == "count":
            assert int(row["completion"].removeprefix("A: ")) == row["prompt"].count(",") + 1
        assert verify(row["completion"].removeprefix("A: "), row["completion"])[0]
    forms = {re.sub("[0-9, ]+", "#", row["prompt"]) for row in instruction_rows(problems) if row["task"] == "first"}
    assert len(forms) == 3


def test_general_turns_are_like_the_stream_and_avoid_the_splits(problems):
    rows = list(general_rows("general", 400, frozenset()))
    assert any(row["prompt"].endswith("step by step.") for row in rows)
    assert any(row["completion"].startswith("A: ") for row in rows)
    again = list(general_rows("general", 400, frozenset({rows[0]["prompt"]})))
    assert rows[0]["prompt"] not in {row["prompt"] for row in again}
    assert [row["prompt"] for row in general_rows("general-dev", 50, frozenset())] != [r["prompt"] for r in rows[:50]]
