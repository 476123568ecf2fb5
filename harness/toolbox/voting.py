"""Votes: the answer that most completions give, or that has the most weight."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from harness.contracts import Completion
from harness.toolbox.verify import final_answer


def vote(completions: Sequence[Completion], weights: Sequence[float] | None = None) -> Completion:
    """The first completion with the winning answer: the one with the largest sum of `weights`, each 1 by default.

    A completion without an answer casts no vote; where none has one, the first completion is returned. A tie goes to
    the answer that was seen first.

    Raises:
        ValueError: there is no completion, or not one weight for each.
    """
    if not completions:
        msg = "there is nothing to vote on"
        raise ValueError(msg)
    votes: defaultdict[str, float] = defaultdict(float)
    first: dict[str, Completion] = {}
    for completion, weight in zip(completions, weights or [1.0] * len(completions), strict=True):
        if (answer := final_answer(completion.text)) is not None:
            votes[answer] += weight
            first.setdefault(answer, completion)
    return first[max(votes, key=votes.__getitem__)] if votes else completions[0]
