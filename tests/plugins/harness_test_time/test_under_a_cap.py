"""Under a cap every search ends with an answer, never spends more, and leaves the tokens of one until it has one."""

import pytest

from harness import BudgetSpentError
from harness.toolbox import final_answer
from harness_test_time.beam_search import BeamSearch
from harness_test_time.confidence import Confidence
from harness_test_time.dvts import DVTS
from harness_test_time.graph_of_thoughts import GraphOfThoughts
from harness_test_time.mcts import MCTS
from harness_test_time.particle_filter import ParticleFilter
from harness_test_time.sampled import Sampled
from harness_test_time.speculative_rejection import SpeculativeRejection
from harness_test_time.tree_of_thoughts import TreeOfThoughts

WHOLE = 60
"""Tokens that one answer may take, `max_new_tokens`; here most take 23."""
STEPWISE = [  # (search, rows of its first round)
    (BeamSearch(beams=8, expand=2), 8),
    (BeamSearch(beams=8, expand=2, choose="best"), 8),
    (DVTS(beams=8, expand=2), 8),
    (ParticleFilter(particles=8), 8),
    (TreeOfThoughts(branching=5, width=3), 5),
    (TreeOfThoughts(search="dfs", branching=5, width=3), 5),
    (TreeOfThoughts(search="dfs", branching=5, width=3, threshold=0.0), 5),
    (TreeOfThoughts(branching=5, width=3, evaluate="vote", votes=3), 5),
    (TreeOfThoughts(search="dfs", branching=5, width=3, evaluate="vote", votes=3), 5),
    (MCTS(simulations=8, branching=5), 5),
    (MCTS(simulations=30, branching=5, evaluate="score"), 5),
    (SpeculativeRejection(samples=8, alpha=0.3), 8),
    (SpeculativeRejection(samples=8, alpha=0.9), 8),
]
WHOLEWISE = [
    SpeculativeRejection(samples=8, alpha=0.0),
    GraphOfThoughts(samples=6, keep=3, improve=2),
    GraphOfThoughts(samples=6, keep=1, improve=0),
    Confidence(samples=8, warm_up=4, consensus=1.0),
    Confidence(samples=8, warm_up=4, keep=1e-9, consensus=1.0),
]
ALL = [search for search, _ in STEPWISE] + WHOLEWISE
stepwise = pytest.mark.parametrize(("search", "rows"), STEPWISE, ids=[search.name for search, _ in STEPWISE])
every = pytest.mark.parametrize("search", ALL, ids=[search.name for search in ALL])


def speak(said, number):
    """Three steps and an answer; all siblings differ. Where a step was cut off, the next one goes on there."""
    return f"{'abcdefgh'[number % 8]} so. " * (3 - said.count(".")) + f"A: {number % 3}"


def chance(text):
    """Longer is better, but a solution is worth less than any part: whoever goes by the score alone is misled."""
    return 0.1 if "A:" in text else 0.3 + len(text) / 100


@pytest.fixture
def asked(world):
    """`asked(search, cap)`: the answer, and its world; of each draw, what it would have `left` if it cost the most, and
    whether a solution was `found` before."""

    def go(search, cap, speak=speak, chance=chance):
        made = world(speak, chance, budget=cap, max_new_tokens=WHOLE)
        submit, made.left, made.found = made.run.submit, [], [False]

        def watched(kind, payload):
            if kind == "score":
                return submit(kind, payload)
            made.left.append(made.run.left - sum(len(r.seeds) * r.max_new_tokens for r in payload[2]))
            drawn = submit(kind, payload)
            made.found.append(made.found[-1] or any(c.finish == "eos" for of_one in drawn for c in of_one))
            return drawn

        made.run.submit = watched
        return made.answer(search), made

    return go


def caps(full):
    """Caps from `WHOLE` to more than the full search spends: many of the small ones, some of the large."""
    return [*range(WHOLE, 2 * WHOLE, 3), *range(2 * WHOLE, full + WHOLE, 29)]


def rows(requests):
    return sum(len(request.seeds) for request in requests)


@every
def test_below_one_full_search_there_is_a_finished_answer(asked, search):
    full = asked(search, None)[1].run.spent
    assert full > WHOLE
    for cap in caps(full):
        answer, _ = asked(search, cap)
        assert final_answer(answer.text) is not None
        assert answer.text in {c.text for c in answer.completions if c.finish == "eos"}


@every
def test_never_more_tokens_than_the_cap_are_sampled(asked, search):
    for cap in (*range(1, WHOLE), *caps(asked(search, None)[1].run.spent)):
        answer, made = asked(search, cap)
        assert made.run.ledger.sampled_tokens <= cap
        assert min(made.left) >= 0  # not even at the most
        assert answer.text in {c.text for c in answer.completions}


@stepwise
def test_a_cap_below_the_first_round_gives_one_plain_sample(asked, search, rows):
    for cap in (1, 5, 12, 22, 23, 24, WHOLE, WHOLE + rows - 1):
        answer, made = asked(search, cap)
        plain, twin = asked(Sampled(), cap)
        assert (answer.text, answer.completions) == (plain.text, plain.completions)
        assert made.drawn == twin.drawn
        assert made.run.spent == min(cap, 23)
    first = asked(search, WHOLE + rows)[1].drawn[0]
    assert [(len(r.seeds), r.max_new_tokens, r.stop != ()) for r in first] == [(rows, 1, True)]


@pytest.mark.parametrize("search", WHOLEWISE, ids=[search.name for search in WHOLEWISE])
def test_a_cap_below_one_answer_gives_one_sample_as_far_as_it_goes(asked, search):
    for cap in (1, 5, 12, 22):
        answer, made = asked(search, cap)
        assert (answer.text, rows(made.drawn[0])) == (asked(Sampled(), cap)[0].text, 1)
        assert [len(c.tokens) for c in answer.completions] == [cap]


@stepwise
def test_the_tokens_of_one_answer_stay_untouched_until_one_is_found(asked, search, rows):
    for cap in caps(asked(search, None)[1].run.spent):
        answer, made = asked(search, cap)
        for requests, left, found in zip(made.drawn, made.left, made.found[:-1], strict=True):
            carried = [(len(request.seeds), request.stop) for request in requests] == [(1, ())]
            assert found or carried or left >= WHOLE
        assert answer.completions[0].finish == "eos"


@stepwise
def test_what_was_left_untouched_is_spent_once_a_solution_is_found(asked, search, rows):
    def early(said, number):
        return "A: 7" if not said and number == 0 else speak(said, number)

    answer, made = asked(search, WHOLE + 7 * rows, early, lambda text: 0.5 if "A:" in text else 0.48)
    assert made.found[1]
    assert len(made.left) > 1
    assert made.left[-1] < WHOLE
    assert final_answer(answer.text) is not None


@stepwise
def test_an_ample_cap_changes_nothing(asked, search, rows):
    free, made = asked(search, None)
    capped, twin = asked(search, 10**6)
    assert capped == free
    assert (twin.drawn, twin.judged, twin.run.ledger) == (made.drawn, made.judged, made.run.ledger)


@every
def test_a_cap_of_nothing_is_an_error(asked, search):
    with pytest.raises(BudgetSpentError, match="no token is left of the budget of 0"):
        asked(search, 0)
