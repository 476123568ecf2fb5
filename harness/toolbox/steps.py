"""Where the steps of a completion end: what judges of steps and searches over steps have to agree about."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate

from harness.contracts import Model
from harness.toolbox.pieces import Pieces

STEP = re.compile(r"\S.*?(?:[.!?](?=\s)|(?=\s*$))", re.MULTILINE)
"""A step: up to a full stop, or to the end of a line."""
ANSWER = re.compile(r"^A:", re.MULTILINE)


def prefixes(model: Model, tokens: Sequence[int]) -> Callable[[int], str]:
    """A function that says the text of the first so many tokens.

    Where the pieces side by side are the whole text, its parts are theirs; else, each prefix is decoded.
    """
    text, known = model.decode(tokens), Pieces.of(model)
    pieces = [known[token] for token in tokens]
    if "".join(pieces) != text:
        return lambda count: model.decode(tokens[:count])
    ends = list(accumulate(map(len, pieces), initial=0))
    return lambda count: text[: ends[count]]


def step_ends(model: Model, tokens: Sequence[int], upto: int | None = None) -> list[int]:
    """How many tokens reach to the end of each step, steps in order.

    upto: characters of the decoded text in which steps are looked for; by default all.

    A token that holds an end with words behind it is left to the next step, as it tells what comes.
    """
    said, found = prefixes(model, tokens), [0]
    for step in STEP.finditer(said(len(tokens))[:upto]):
        end = bisect_left(range(len(tokens)), step.end(), found[-1], key=lambda count: len(said(count)))
        end -= bool(said(end)[step.end() :].strip())
        found += [end] if end > found[-1] else []
    return found[1:]


def solution_ends(model: Model, tokens: Sequence[int]) -> list[int]:
    """`step_ends` of the steps before the answer line."""
    return step_ends(model, tokens, upto=len(ANSWER.split(model.decode(tokens), 1)[0]))


def judged_ends(model: Model, tokens: Sequence[int]) -> tuple[list[int], int]:
    """`step_ends`, those of the answer line among them, and how many of them come before it: `solution_ends`."""
    ends, answered = step_ends(model, tokens), ANSWER.search(model.decode(tokens))
    return ends, len(solution_ends(model, tokens)) if answered else len(ends)
