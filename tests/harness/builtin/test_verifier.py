"""Figures of scorers on records whose numbers can be worked out in the head."""

from __future__ import annotations

import pytest

from harness.builtin.verifier import first_wrong_found, verifier, voted


def sample(answer, score, steps=(), right_steps=()):
    """The right answer is 7."""
    judged = {"score": score, "steps": list(steps), "right_steps": list(right_steps)}
    return {"correct": answer == "7", "answer": answer, **judged}


def record(*groups):
    return {"answers": [{"id": f"p{number}", "samples": list(group)} for number, group in enumerate(groups)]}


def test_scores_are_compared_within_a_problem():
    figures = verifier(
        record(
            [sample("7", 0.9), sample("1", 0.1)],
            [sample("7", 0.1), sample("1", 0.9), sample("1", 0.1)],
            [sample("7", 0.5), sample("7", 0.7)],
            [],
        )
    )
    assert (figures["within_problem_auc"], figures["within_problem_auc_problems"]) == ((1 + 0.25) / 2, 2)


def test_the_curve_and_both_votes_are_over_the_same_samples():
    """Most say 1, the right answer has more weight, and the highest score is a wrong one's."""
    group = [sample("1", 0.2), sample("7", 0.8), sample("1", 0.3), sample("2", 0.9)]
    figures = verifier(record(group, group))
    assert [figures[f"best_of_{k}"] for k in (1, 2, 4, 8, 16)] == [0.25, 2 / 6, 0.0, None, None]
    assert (figures["majority"], figures["weighted_vote"]) == (0.0, 0.0)  # 7 has .8, 2 has .9
    group[3] = sample("2", 0.7)
    figures = verifier(record(group))
    assert (figures["best_of_4"], figures["majority"], figures["weighted_vote"]) == (1.0, 0.0, 1.0)


def test_a_vote_needs_an_answer_and_a_tie_goes_to_the_first():
    group = [sample(None, 0.9), sample("7", 0.1), sample("1", 0.1)]
    assert voted(group, lambda _: 1.0) is True
    assert voted(group[::-1], lambda _: 1.0) is False
    assert voted(group[:1], lambda _: 1.0) is False


def test_equal_scores_vote_as_the_majority_does():
    groups = [[sample(answer, 0.25) for answer in answers] for answers in ("771", "117", "127", "7")]
    figures = verifier(record(*groups))
    assert figures["weighted_vote"] == figures["majority"] == 0.5


def test_the_first_wrong_step_is_the_first_that_is_judged_unlikely():
    cases = [
        ((0.9, 0.4, 0.6), (True, False, False), 1),  # found
        ((0.9, 0.4, 0.1), (True, True, False), 0),  # too early
        ((0.9, 0.6, 0.1), (True, False, False), 0),  # too late
        ((0.9, 0.6, 0.5), (True, False, False), 0),  # never: even odds are no judgement
        ((0.5, 0.4), (False, False), 0),  # too late
    ]
    for steps, right, found in cases:
        assert first_wrong_found([sample("1", 0.1, steps, right)]) == (found, 1)
    unlike = [sample("1", 0.1, (0.1,), (True, False)), sample("7", 0.1, (0.1,), (True,)), sample("1", 0.1)]
    assert first_wrong_found(unlike) == (0, 0)  # cut into other steps, nothing wrong, no steps
    figures = verifier(record([sample("1", 0.1, *case[:2]) for case in cases]))
    assert (figures["first_wrong_found"], figures["wrong_solutions"]) == (0.2, 5)


def test_what_is_no_chance_is_neither_calibrated_nor_weighed():
    chances, rewards = ([sample("7", high), sample("1", 0.25)] for high in (0.75, 3.0))
    assert verifier(record(chances))["calibration_error"] == pytest.approx(0.25)
    assert verifier(record(rewards))["calibration_error"] is None
    assert verifier(record(rewards))["weighted_vote"] == 1.0  # weights need no upper bound
    assert verifier(record([sample("7", 0.5), sample("1", -0.1)]))["weighted_vote"] is None


def test_without_a_scorer_there_is_no_figure():
    plain = [{"correct": True, "answer": "7"}]
    for facts in (record(), record([]), record(plain)):
        figures = verifier(facts)
        counts = ("within_problem_auc_problems", "wrong_solutions")
        assert [value for name, value in figures.items() if name not in counts] == [None] * (len(figures) - 2)
        assert [figures[name] for name in counts] == [0, 0]
