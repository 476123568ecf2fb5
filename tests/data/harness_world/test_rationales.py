from random import Random

import pytest

from harness_world.problems import Operation, Problem, draw_problem
from harness_world.rationales import STYLES, reply, step_labels, thought, written, wrong_steps
from harness_world.verifier import verify

STORY = Problem("?", 10, (Operation("add", 12), Operation("groups", amount=5, groups=6)))
PROBLEMS = [draw_problem(Random(f"r{seed}"), seed % 7 + 1) for seed in range(700)]


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("terse", "T: 22. 52.\nA: 52"),
        ("plain", "T: 10+12=22. 6*5=30. 22+30=52.\nA: 52"),
        ("wordy", "T: 10+12 is 22. 6*5 is 30. 22+30 is 52.\nA: 52"),
    ],
)
def test_the_three_styles(style, text):
    assert reply(written(STORY.steps, style), STORY.answer) == text


@pytest.mark.parametrize("style", STYLES)
def test_every_reply_verifies_and_its_last_step_is_the_answer(style):
    for problem in PROBLEMS:
        steps = written(problem.steps, style)
        assert verify(str(problem.answer), reply(steps, problem.answer)) == (True, str(problem.answer))
        assert steps[-1].removesuffix(".").replace("=", " ").split()[-1] == str(problem.answer)


@pytest.mark.parametrize("style", STYLES)
def test_a_wrong_draft_changes_the_answer_and_a_step(style):
    for seed, problem in enumerate(PROBLEMS):
        steps = wrong_steps(Random(seed), problem)
        draft, right = written(steps, style), written(problem.steps, style)
        assert steps[-1].result != problem.answer
        assert not verify(str(problem.answer), reply(draft, steps[-1].result))[0]
        labels = step_labels(draft, right)
        assert draft != right
        assert not labels[-1] or len(draft) < len(right), "wrong at a step, or it stops early"
        assert list(labels) == sorted(labels, reverse=True), "once wrong, wrong to the end"


def test_labels_of_right_longer_and_shorter_drafts():
    right = ("22.", "52.")
    assert step_labels(right, right) == (True, True)
    assert step_labels(("22.", "53."), right) == (True, False)
    assert step_labels(("23.", "52."), right) == (False, False), "right by chance is not right"
    assert step_labels(("22.", "52.", "52."), right) == (True, True, False)
    assert step_labels((), right) == ()


def test_a_thought_has_one_space_between_steps_and_none_at_its_end():
    assert thought(("1.", "2.")) == "T: 1. 2."
