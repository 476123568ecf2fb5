from random import Random

import pytest

from harness_world.corpus import (
    ASKED,
    GIVEN,
    MIXTURE,
    Source,
    cued_text,
    direct_text,
    fixed_text,
    judged_text,
    pool,
    rationale_text,
)
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
