"""The checker says of each step of a solution whether all is right up to its end, whatever style it is in.

It knows no more than a problem's row does, the steps in full: `10+12=22`. Where it cannot tell, it says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

from harness.toolbox.steps import STEP
from harness_world.problems import Step
from harness_world.rationales import STYLES, step_labels, style_of, written

ANSWER_LINE = "\nA:"
IN_FULL = re.compile(r"(\d+)(\D)(\d+)=(\d+)")


def check_steps(steps: Sequence[str], text: str) -> tuple[bool, ...]:
    """True for each step of `text` up to the first that is not the right one, False from there on.

    steps: the right ones. Empty where `text` has no steps, or there are no right ones, or they can be read in two ways.
    """
    right, style = read(steps), style_of(text)
    if not right or style not in STYLES:
        return ()
    thought = text.split(ANSWER_LINE, maxsplit=1)[0].removeprefix("T:")
    return step_labels(tuple(STEP.findall(thought)), written(right, style))


def read(texts: Sequence[str]) -> tuple[Step, ...] | None:
    """Steps from the column of a row, which does not say which are side steps; None where that cannot be told."""
    parts = [match.groups() for text in texts if (match := IN_FULL.fullmatch(text))]
    plain = [Step(int(left), sign, int(right), int(result)) for left, sign, right, result in parts]
    steps: list[Step] = []
    total: int | None = None
    for step, after in zip_longest(plain, plain[1:]):
        side = is_side(total, step, after)
        if side is None:
            return None
        steps.append(replace(step, side=side))
        total = total if side else step.result
    return tuple(steps)


def is_side(total: int | None, step: Step, after: Step | None) -> bool | None:
    """Whether a step is the product of groups, which the next one adds to the total; or else a total doubled.

    total: the one before the step, None at the first; after: the next step.
    """
    if step.sign != "*" or after is None or (after.sign, after.right) != ("+", step.result):
        return False
    if total is not None:
        return after.left == total
    return True if after.left != step.result or step.right != 2 else None  # noqa: PLR2004 - `3*2=6. 6+6=12.`: either
