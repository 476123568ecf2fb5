"""Votes by hand: who wins, who casts none, and what is returned where nobody does."""

import pytest

from harness import Completion
from harness.toolbox import vote


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
