"""Self-consistency: the most frequent answer wins, unreadable chains do not vote, ties go to the first."""

import random

from harness_test_time.self_consistency import SelfConsistency


def test_the_majority_wins(scripted):
    answer, [(kind, (_, _, [request]))] = scripted(SelfConsistency(samples=4), ["A: 1", "A: 2", "A: 3", "A: 2"])
    assert answer.text == "A: 2"
    assert len(answer.completions) == 4
    assert (kind, len(request.seeds), request.temperature) == ("sample", 4, 0.7)


def test_answers_are_compared_in_canonical_form(scripted):
    answer, _ = scripted(SelfConsistency(samples=3), ["A: 7", "A: 1,000", "x\nA: 1000"])
    assert answer.text == "A: 1,000"


def test_unreadable_chains_cast_no_vote(scripted):
    answer, _ = scripted(SelfConsistency(samples=4), ["none", "none", "none", "A: 5"])
    assert answer.text == "A: 5"
    answer, _ = scripted(SelfConsistency(samples=2), ["none", "nothing"])
    assert answer.text == "none"


def test_a_tie_goes_to_the_first_and_order_matters_nowhere_else(scripted):
    answer, _ = scripted(SelfConsistency(samples=4), ["A: 9", "A: 1", "A: 1", "A: 9"])
    assert answer.text == "A: 9"
    texts = ["A: 1"] * 5 + ["A: 2"] * 3 + ["A: 3"] * 3
    for seed in range(10):
        random.Random(seed).shuffle(texts)
        assert scripted(SelfConsistency(samples=11), texts)[0].text == "A: 1"
