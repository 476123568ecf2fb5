from random import Random

import pytest

import harness_world
from harness_world import render_target
from harness_world.checker import check_steps, read
from harness_world.problems import Operation, Problem, draw_problem
from harness_world.rationales import STYLES, reply, step_labels, written, wrong_steps

PROBLEMS = [draw_problem(Random(f"c{seed}"), seed % 7 + 1) for seed in range(2000)]


def row(problem):
    return [str(step) for step in problem.steps]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("T: 10+12=22. 6*5=30. 22+30=52.\nA: 52", (True, True, True)),
        ("T: 10+12 is 22. 6*5 is 35. 22+35 is 57.\nA: 57", (True, False, False)),
        ("T: 22. 52.\nA: 52", (True, True)),
        ("T: 22. 51.\nA: 52", (True, False)),
        ("T: 22. 52. 60.\nA: 60", (True, True, False)),
        ("T: 22.\nA: 22", (True,)),
        ("T: 22. 5", (True, False)),
        ("T: 22. 6*5=30. 52.\nA: 52", (True, False, False)),
        ("A: 52", ()),
        ("52", ()),
        ("", ()),
    ],
)
def test_steps_are_checked_in_the_style_they_are_in(text, labels):
    assert check_steps(["10+12=22", "6*5=30", "22+30=52"], text) == labels


@pytest.mark.parametrize("style", STYLES)
def test_it_says_of_drafts_what_their_maker_knows(style):
    told = 0
    for seed, problem in enumerate(PROBLEMS):
        right = written(problem.steps, style)
        assert check_steps(row(problem), reply(right, problem.answer)) in ((), (True,) * len(right))
        wrong = wrong_steps(Random(seed), problem)
        labels = check_steps(row(problem), reply(written(wrong, style), wrong[-1].result))
        assert labels in ((), step_labels(written(wrong, style), right))
        told += bool(labels)
    assert told > 0.99 * len(PROBLEMS)


def test_a_doubled_total_is_told_from_a_product_of_groups_by_what_was_before():
    """12 doubled and 24 more, or two lots of twelve more: the same sign and right side, another left one."""
    start = Operation("add", 2)
    doubled = Problem("?", 10, (start, Operation("double"), Operation("add", 24)))
    grouped = Problem("?", 10, (start, Operation("groups", amount=2, groups=12)))
    assert row(doubled) == ["10+2=12", "12*2=24", "24+24=48"]
    assert row(grouped) == ["10+2=12", "12*2=24", "12+24=36"]
    assert (read(row(doubled)), read(row(grouped))) == (doubled.steps, grouped.steps)


def test_a_problem_without_steps_says_nothing():
    assert check_steps([], "T: 22.\nA: 22") == ()


def test_side_steps_are_found_in_the_row_again():
    for problem in PROBLEMS:
        assert read(row(problem)) in (None, problem.steps)


@pytest.mark.parametrize("operations", [(Operation("groups", 2, 3),), (Operation("double"), Operation("add", 6))])
def test_a_row_that_can_be_read_in_two_ways_says_nothing(operations):
    """Three lots of two added to 6, or 3 doubled and 6 added."""
    problem = Problem("?", 6 if len(operations) == 1 else 3, operations)
    assert row(problem) == ["3*2=6", "6+6=12"]
    assert read(row(problem)) is None
    assert check_steps(row(problem), "T: 12.\nA: 12") == ()


def test_the_dataset_offers_it():
    world = harness_world.load_world("tiny-world", "test", "")
    problem = world.test[0]
    labels = world.check_steps(problem, render_target(problem, rationale=True))
    assert labels
    assert all(labels)
