from collections import Counter

import pytest

from harness_world.corpus import pool
from harness_world.splits import SPLITS, draw_splits, held_out
from harness_world.wordings import DRAFT, FIX, JUDGE, THINK


@pytest.fixture(scope="module")
def splits():
    return draw_splits()


def test_sizes_and_steps(splits):
    for name, (size, turns) in SPLITS.items():
        counts = Counter(len(problem.steps) for problem in splits[name])
        assert sum(counts.values()) == size
        assert set(counts) == set(turns)
    assert set(Counter(len(problem.steps) for problem in splits["test"]).values()) == {200}


def test_no_question_is_in_two_splits_or_twice_in_one(splits):
    questions = [problem.question for rows in splits.values() for problem in rows]
    assert len(questions) == len(set(questions)) == len(held_out())


def test_the_pretraining_stream_avoids_every_split(splits):
    avoid = held_out()
    for number in (0, 40):
        for segments in pool("check", number, 1000, avoid):
            question = segments[0][0].removeprefix("Q: ").removesuffix("\n")
            if FIX in question:
                question = question.split(DRAFT)[0]
            question = question.removesuffix(THINK).removesuffix(JUDGE)
            assert question not in avoid


def test_the_stream_would_hit_a_question_that_it_does_not_avoid():
    [segments] = pool("check", 40, 1, frozenset())
    hit = segments[0][0].removeprefix("Q: ").removesuffix("\n").split(DRAFT)[0]
    hit = hit.removesuffix(THINK).removesuffix(JUDGE)
    [other] = pool("check", 40, 1, frozenset([hit]))
    assert hit.startswith("What is") or hit not in other[0][0]
