"""Votes and choices: the answer that most completions give, or that has the most weight, and the best-scored one.

What is scored is a pair: (score, completion).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from harness.contracts import Answer, Completion, Prompt
from harness.meter import Run
from harness.toolbox.verify import final_answer

SCORED = ("weighted", "best")
"""Which completion answers by scores: by a vote that they weigh, or the best one."""
RULES = ("vote", "likeliest", *SCORED)
"""The same, or without any score: by a plain vote, or the one whose words were likeliest."""
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


def scored(run: Run, prompt: Prompt, completions: Sequence[Completion]) -> list[tuple[float, Completion]]:
    """(score, completion) of each, by the scorer of the pipeline in one request."""
    judged = run.score(prompt, completions)
    return [(scores.total, completion) for scores, completion in zip(judged, completions, strict=True)]


def pick(candidates: Sequence[tuple[float, Completion]], rule: str) -> Completion:
    """The one of (score, completion) that answers by `rule`, one of `RULES`; a tie goes to the first.

    Raises:
        ValueError: there is none, or a score below 0 is to weigh a vote.
    """
    if rule == "best":
        return max(candidates, key=lambda item: item[0])[1]
    if rule == "likeliest":  # of its mean log-probability a token: a sum would favour what is short
        return max((said for _, said in candidates), key=lambda said: fmean(said.logprobs or (-math.inf,)))
    weights = [score for score, _ in candidates] if rule == "weighted" else None
    return vote([completion for _, completion in candidates], weights)


def elect(judged: Sequence[tuple[float, Completion]], choose: str) -> Answer:
    """What a search answers, one of `CHOICES`, of (score, solution): the finished ones, or the best where none is.

    Raises:
        ValueError: nothing was scored, or a score below 0 is to weigh a vote.
    """
    solutions = [item for item in judged if item[1].finish == "eos"]
    rule = "weighted" if solutions and choose == "vote" else "best"
    candidates = solutions or judged
    return Answer(pick(candidates, rule).text, tuple(completion for _, completion in candidates))
