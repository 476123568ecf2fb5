"""Votes by hand: who wins, who casts none, and what is returned where nobody does."""

import dataclasses

import pytest

from harness import Completion, Run, Scores
from harness.toolbox import RULES, SCORED, elect, pick, scored, vote


def said(*texts):
    return [Completion(text, (number,), (0.0,), "eos") for number, text in enumerate(texts)]


def test_the_answer_of_most_wins_and_its_first_completion_is_returned():
    chains = said("A: 1", "x\nA: 7", "y\nA: 7.0", "nothing")
    assert vote(chains) is chains[1]


def test_weights_outvote_numbers():
    chains = said("A: 1", "A: 7", "A: 7")
    assert vote(chains, [0.9, 0.4, 0.4]) is chains[0]
    assert vote(chains, [0.7, 0.4, 0.4]) is chains[1]
    assert vote(chains, [0.25, 0.25, 0.25]) is vote(chains)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_tie_goes_to_the_first_seen(order):
    chains = said("A: 1", "A: 7")
    chains = [chains[k] for k in order]
    assert vote(chains) is chains[0]


def test_where_nobody_answers_the_first_is_returned():
    chains = said("no", "neither")
    assert vote(chains) is chains[0]
    assert vote(said("no", "A: 3")).text == "A: 3"


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0, 1.0]])
def test_a_weight_for_each_completion(weights):
    with pytest.raises(ValueError, match="zip"):
        vote(said("A: 1", "A: 7"), weights)


def test_nothing_to_vote_on():
    with pytest.raises(ValueError, match="nothing to vote on"):
        vote([])


def test_a_weight_below_0_is_refused():
    with pytest.raises(ValueError, match=r"a score of -0\.5 cannot weigh a vote"):
        vote(said("A: 1", "A: 7"), [1.0, -0.5])


def test_where_all_weigh_nothing_all_weigh_the_same():
    assert vote(said("A: 1", "A: 7", "A: 7"), [0.0, 0.0, 0.0]).text == "A: 7"


def test_who_answers_by_each_rule():
    one, two, three = said("A: 1", "A: 2", "A: 2")
    judged = [(0.6, one), (0.5, two), (0.05, three)]
    assert {rule: pick(judged, rule).text for rule in ("vote", *SCORED)} == {
        "vote": "A: 2",
        "weighted": "A: 1",
        "best": "A: 1",
    }
    assert pick([(0.1, one), (0.5, two), (0.5, three)], "best") is two  # a tie goes to the first
    assert pick([(-2.0, one), (-1.0, two), (-3.0, three)], "vote") is two  # which reads no score
    with pytest.raises(ValueError, match="cannot weigh a vote"):
        pick([(-2.0, one), (-1.0, two)], "weighted")


def test_the_likeliest_is_so_word_for_word_and_reads_no_score():
    long, short, silent = (
        Completion("long", (1, 2, 3), (-0.2, -0.3, -0.1), "eos"),  # -0.2 a token, -0.6 in all
        Completion("short", (1,), (-0.5,), "eos"),
        Completion("", (), (), "length"),
    )
    assert pick([(-1.0, silent), (0.9, short), (0.1, long)], "likeliest") is long
    assert pick([(0.9, silent)], "likeliest") is silent
    assert set(RULES) == {"vote", "likeliest", *SCORED}


def test_every_completion_is_scored_in_one_request():
    asked, chains = [], said("A: 1", "A: 2")
    run = Run(0, submit=lambda *request: asked.append(request) or [Scores(0.3, (0.9,)), Scores(0.7)])
    assert scored(run, "1+1?", chains) == [(0.3, chains[0]), (0.7, chains[1])]
    assert len(asked) == 1
    assert asked[0][0] == "score"


def test_what_was_not_finished_is_elected_only_where_nothing_was():
    one, two, cut = said("A: 1", "A: 7", "A: 3")
    cut = dataclasses.replace(cut, finish="length")
    scored = [(0.2, one), (0.3, two), (0.25, one), (0.9, cut)]
    assert (elect(scored, "best").text, elect(scored, "vote").text) == ("A: 7", "A: 1")
    assert elect(scored, "vote").completions == (one, two, one)
    others = [(0.5, dataclasses.replace(cut, text="A: 4"))] * 2
    assert elect([*others, (0.9, cut)], "vote").text == "A: 3"  # and then nothing votes
