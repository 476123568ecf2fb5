from random import Random

import pytest

from harness_world.tasks import CLUSTER_OF, LIST_ANSWERS, NUMBER_ANSWERS, draw_task
from harness_world.wordings import INSTRUCTIONS, TASK_FORM, TASK_KEYS


def test_every_family_has_one_answer_and_one_cluster():
    assert set(LIST_ANSWERS) | set(NUMBER_ANSWERS) == set(CLUSTER_OF)
    assert len(CLUSTER_OF) == sum(map(len, TASK_KEYS.values())) >= 8


@pytest.mark.parametrize(
    ("key", "answer"),
    [("largest", 45), ("smallest", 7), ("first", 12), ("last", 45), ("count", 3), ("total", 64)],
)
def test_answers_on_a_list_by_hand(key, answer):
    assert LIST_ANSWERS[key]([12, 7, 45]) == answer


@pytest.mark.parametrize(
    ("key", "answer"), [("tens", 4), ("ones", 6), ("next", 47), ("previous", 45), ("double", 92), ("half", 23)]
)
def test_answers_on_a_number_by_hand(key, answer):
    assert NUMBER_ANSWERS[key](46) == answer


@pytest.mark.parametrize("key", CLUSTER_OF)
def test_drawn_tasks_have_two_digits_at_most_and_are_whole(key):
    for seed in range(200):
        task = draw_task(Random(seed), key)
        numbers = [int(text) for text in task.numbers.split(", ")]
        assert 0 <= task.answer <= 99
        assert len(set(numbers)) == len(numbers)
        if key == "half":
            assert task.answer * 2 == numbers[0]
        assert draw_task(Random(seed), key) == task


def test_forms_hold_key_and_numbers():
    task = draw_task(Random(1), "largest")
    for form in (TASK_FORM, *INSTRUCTIONS):
        assert "largest" in task.asked(form)
        assert task.numbers in task.asked(form)
    assert TASK_FORM not in INSTRUCTIONS
