"""Self-consistency: the most frequent answer wins, unreadable chains do not vote, ties go to the first.

With an early stop nothing more is drawn once the majority is settled, and what is drawn is what would be drawn anyway.
"""

import random

import pytest

from harness import BudgetSpentError, Run
from harness_test_time.self_consistency import SelfConsistency, settled, stays_ahead


def sizes(made):
    return [len(request.seeds) for [request] in made.drawn]


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


# -- early stop


@pytest.mark.parametrize(
    ("first", "second", "chance"), [(0, 0, 1 / 2), (1, 1, 1 / 2), (3, 0, 15 / 16), (4, 0, 31 / 32), (5, 1, 120 / 128)]
)
def test_the_tail_of_the_beta_posterior_by_hand(first, second, chance):
    assert stays_ahead(first, second) == chance


def test_the_tail_is_the_integral():
    steps = 20_000
    for first, second in ((2, 1), (7, 3), (12, 12), (40, 30)):
        grid = [(k + 0.5) / steps for k in range(steps)]
        density = [p**first * (1 - p) ** second for p in grid]
        integral = sum(density[steps // 2 :]) / sum(density)
        assert stays_ahead(first, second) == pytest.approx(integral, abs=1e-6)


def test_it_draws_sixteen_at_once_unless_told(world):
    made = world(lambda said, number: "A: 1")
    assert len(made.answer(SelfConsistency()).completions) == 16
    assert sizes(made) == [16]


def test_one_is_never_even_where_a_float_says_one(world):
    made = world(lambda said, number: "A: 1")
    assert stays_ahead(60, 0) == 1.0
    assert len(made.answer(SelfConsistency(samples=80)).completions) == 80
    assert sizes(made) == [80]


def test_four_of_one_mind_are_enough(world):
    made = world(lambda said, number: "A: 1")
    answer = made.answer(SelfConsistency(early_stop=0.95))
    assert (answer.text, len(answer.completions), sizes(made)) == ("A: 1", 4, [4])
    made = world(lambda said, number: "A: 1")
    assert len(made.answer(SelfConsistency(early_stop=0.97)).completions) == 8


def test_the_second_answer_counts_and_the_third_does_not(world):
    texts = ["A: 1", "A: 1", "A: 1", "A: 2", "A: 1", "A: 1", "A: 1", "A: 3"]  # 3 to 1 is .81, 6 to 1 is .965
    made = world(lambda said, number: texts[number])
    assert len(made.answer(SelfConsistency(early_stop=0.95)).completions) == 8
    made = world(lambda said, number: (texts[3], *texts)[number])  # whichever was seen first
    assert len(made.answer(SelfConsistency(samples=8, early_stop=0.8)).completions) == 4


def test_without_agreement_all_are_drawn_and_the_last_round_is_what_is_left(world):
    made = world(lambda said, number: f"A: {number % 2}")
    assert len(made.answer(SelfConsistency(samples=10, early_stop=0.95)).completions) == 10
    assert sizes(made) == [4, 4, 2]


def test_unreadable_chains_settle_nothing(world):
    made = world(lambda said, number: "none")
    assert made.answer(SelfConsistency(early_stop=0.95)).text == "none"
    assert sizes(made) == [4, 4, 4, 4]
    assert settled([]) == 0.5


def test_what_is_drawn_is_the_beginning_of_the_full_set(tiny_model, monkeypatch):
    monkeypatch.setattr("harness_test_time.self_consistency.final_answer", lambda text: "7")  # all are of one mind

    def drawn(early_stop, budget=None):
        run = Run(3, problem_id="p", max_new_tokens=3, budget=budget, counts="sampled_tokens")
        answer = SelfConsistency(early_stop=early_stop).answer(tiny_model, "1+1?", run)
        return [c.tokens for c in answer.completions]

    full, early = drawn(1.0), drawn(0.7)
    assert 4 <= len(early) < 16 == len(full)
    assert early == full[: len(early)]
    assert drawn(0.9999, budget=22) == drawn(1.0, budget=22) != full


@pytest.mark.parametrize("early_stop", [0.95, 1.0])
def test_a_budget_is_kept(world, early_stop):
    made = world(lambda said, number: f"A: {number % 3}", budget=47, max_new_tokens=6)
    answer = made.answer(SelfConsistency(early_stop=early_stop))
    assert [c.text for c in answer.completions[:9]] == [f"A: {k % 3}" for k in range(9)]
    assert answer.text == "A: 0"
    assert made.run.ledger.sampled_tokens <= 47
    with pytest.raises(BudgetSpentError):
        world(lambda said, number: "A: 1", budget=0).answer(SelfConsistency(early_stop=early_stop))


@pytest.mark.parametrize(
    ("field", "value"),
    [("samples", 0), ("temperature", -0.1), ("early_stop", 0.5), ("early_stop", 1.1), ("early_stop", float("nan"))],
)
def test_bad_fields(field, value):
    with pytest.raises(ValueError, match=rf"^self-consistency: {field} must be .*, not "):
        SelfConsistency(**{field: value})
