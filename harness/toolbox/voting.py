"""Votes and choices: the answer that most completions give, or that has the most weight, and the best-scored one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from harness.contracts import Answer, Completion
from harness.toolbox.verify import final_answer

CHOICES = ("vote", "best")
"""How scored solutions answer: by a vote weighted by their scores, or the best alone."""


def vote(completions: Sequence[Completion], weights: Sequence[float] | None = None) -> Completion:
    """The first completion with the winning answer: the one with the largest sum of `weights`, each 1 by default.

    A completion without an answer casts no vote; where none has one, the first completion is returned. A tie goes to
    the answer that was seen first. Where all weigh nothing, all weigh the same.

    Raises:
        ValueError: there is no completion, not one weight for each, or a weight below 0.
    """
    if not completions:
        msg = "there is nothing to vote on"
        raise ValueError(msg)
    weights = weights if weights is not None and any(weights) else [1.0] * len(weights or completions)
    if min(weights) < 0:
        msg = f"a score of {min(weights):.3g} cannot weigh a vote, only 0 or above: choose by the best score"
        raise ValueError(msg)
    votes: defaultdict[str, float] = defaultdict(float)
    first: dict[str, Completion] = {}
    for completion, weight in zip(completions, weights, strict=True):
        if (answer := final_answer(completion.text)) is not None:
            votes[answer] += weight
            first.setdefault(answer, completion)
    return first[max(votes, key=votes.__getitem__)] if votes else completions[0]


def elect(scored: Sequence[tuple[float, Completion]], choose: str) -> Answer:
    """What a search answers, one of `CHOICES`, of (score, solution): the finished ones, or the best where none is.

    Raises:
        ValueError: nothing was scored, or a score below 0 is to weigh a vote.
    """
    solutions = [item for item in scored if item[1].finish == "eos"]
    scores, completions = zip(*(solutions or scored), strict=True)
    if solutions and choose == "vote":
        return Answer(vote(completions, scores).text, completions)
    return Answer(completions[scores.index(max(scores))].text, completions)  # a tie goes to the first
