from random import Random

import pytest

from harness_world.corpus import (
    ASKED,
    EXACT_STEPS,
    GIVEN,
    MIXTURE,
    Source,
    cued_text,
    direct_text,
    fixed_text,
    judged_text,
    pool,
    rationale_text,
    task_text,
)
from harness_world.rationales import estimate
from harness_world.verifier import verify
from harness_world.wordings import RIGHT, THINK


def source(seed):
    return Source(Random(seed), frozenset())


def test_the_shares_are_percent():
    assert sum(MIXTURE.values()) == pytest.approx(100)


def test_a_pool_depends_on_seed_and_number_alone():
    assert pool("a", 3, 20, frozenset()) == pool("a", 3, 20, frozenset())
    assert pool("a", 3, 20, frozenset()) != pool("a", 4, 20, frozenset())


@pytest.mark.parametrize("seed", range(50))
def test_formats(seed):
    (question, _), (reply, weight) = direct_text(source(seed))
    assert question.startswith("Q: ")
    assert question.endswith("?\n")
    assert reply.startswith("A: ")
    assert weight == ASKED
    (question, weight), (reply, _) = cued_text(source(seed))
    assert question.endswith(f"?{THINK}\n")
    assert reply.startswith("T: ")
    assert "\nA: " in reply
    assert weight == GIVEN
    (question, _), (reply, _) = rationale_text(source(seed))
    assert THINK not in question
    assert reply.startswith("T: ")


def test_judgements_stop_at_the_first_bad_step_and_alone_are_asked_for():
    bad = 0
    for seed in range(400):
        segments = judged_text(source(seed))
        judged = [text for text, weight in segments if weight == ASKED]
        assert set(judged) <= {" good.", " bad."}
        assert " bad." not in judged[:-1]
        bad += judged[-1] == " bad."
    assert 150 < bad < 250


def test_drafts_are_kept_or_mended():
    right = 0
    for seed in range(400):
        (question, weight), (reply, _) = fixed_text(source(seed))
        assert weight == GIVEN
        assert question.endswith("\nFix the draft.\n")
        draft = question.split("\nDraft: ")[1].split("A: ")[1].split("\n")[0]
        assert (reply.split("A: ")[1] == draft) or reply.startswith("T: ")
        if reply.startswith(RIGHT):
            right += 1
            assert reply == f"{RIGHT}\nA: {draft}"
    assert 120 < right < 220


def test_an_estimate_is_to_the_nearest_ten_and_no_verifier_counts_it():
    assert [estimate(answer) for answer in (0, 4, 5, 40, 96)] == [
        "A: about 0",
        "A: about 0",
        "A: about 10",
        "A: about 40",
        "A: about 100",
    ]
    assert verify("40", estimate(40)) == (False, None)


def test_long_problems_are_guessed_at_and_short_ones_answered():
    for seed in range(300):
        drawn = source(seed).problem()  # the first thing that the text draws
        [_, (reply, _)] = direct_text(source(seed))
        assert reply == (f"A: {drawn.answer}" if len(drawn.steps) <= EXACT_STEPS else estimate(drawn.answer))


def test_short_tasks_have_one_form():
    for seed in range(50):
        (question, _), (reply, weight) = task_text(source(seed))
        assert question.startswith("Q: What is the ")
        assert reply.startswith("A: ")
        assert weight == ASKED
