"""Where the steps of a completion end: what judges of steps and searches over steps have to agree about."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence

from harness.contracts import Model

STEP = re.compile(r"\S.*?(?:[.!?](?=\s)|(?=\s*$))", re.MULTILINE)
"""A step: up to a full stop, or to the end of a line."""
ANSWER = re.compile(r"^A:", re.MULTILINE)


def step_ends(model: Model, tokens: Sequence[int], upto: int | None = None) -> list[int]:
    """How many tokens reach to the end of each step, steps in order.

    upto: characters of the decoded text in which steps are looked for; by default all.

    Places are found by decoding. A token that holds an end with words behind it is left to the next step, as it tells
    what comes.
    """
    text, found = model.decode(tokens), [0]
    for step in STEP.finditer(text[:upto]):
        end = bisect_left(range(len(tokens)), step.end(), found[-1], key=lambda n: len(model.decode(tokens[:n])))
        end -= bool(model.decode(tokens[:end])[step.end() :].strip())
        found += [end] if end > found[-1] else []
    return found[1:]


def solution_ends(model: Model, tokens: Sequence[int]) -> list[int]:
    """`step_ends` of the steps before the answer line."""
    return step_ends(model, tokens, upto=len(ANSWER.split(model.decode(tokens), 1)[0]))


def judged_ends(model: Model, tokens: Sequence[int]) -> tuple[list[int], int]:
    """`step_ends`, those of the answer line among them, and how many of them come before it: `solution_ends`."""
    ends, answered = step_ends(model, tokens), ANSWER.search(model.decode(tokens))
    return ends, len(solution_ends(model, tokens)) if answered else len(ends)
