"""The same steps in three styles, wrong drafts of them, and a label for each step.

Styles, in the shares of `STYLE_WEIGHTS`: terse writes the running totals only (`22. 11.`), plain
the whole step (`10+12=22.`), wordy the step with a word (`10+12 is 22.`). They differ in how
reliable a small model is in them, so samples disagree and a vote has something to pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from harness_world.problems import HIGH, LOW, Operation, Problem, Step, steps_of
from harness_world.wordings import ABOUT

STYLES = ("terse", "plain", "wordy")
STYLE_WEIGHTS = (45, 30, 25)
IN_FULL = (0, 30, 25)
"""The same without the terse style: every step is written out."""
MISTAKES = ("sum", "operation", "skip")
MISTAKE_WEIGHTS = (50, 25, 25)
SIDE_SHARE = 0.5
"""Share of the slips in groups that are in the product, not in the sum."""
WRONG_KIND = {
    "add": "take",
    "take": "add",
    "double": "halve",
    "halve": "double",
    "groups": "add",  # counts one group only
}


def draw_style(rng: Random, weights: Sequence[int] = STYLE_WEIGHTS) -> str:
    """A style in the shares of the mixture, or in others."""
    return rng.choices(STYLES, weights)[0]


def written(steps: tuple[Step, ...], style: str) -> tuple[str, ...]:
    """The steps as text, each ending in a full stop."""
    if style == "terse":
        return tuple(f"{step.result}." for step in steps if not step.side)
    if style == "plain":
        return tuple(f"{step}." for step in steps)
    return tuple(f"{step}.".replace("=", " is ") for step in steps)


def style_of(text: str) -> str:
    """Which style a reply is in, read off its first step."""
    if not text.startswith("T:"):
        return "direct" if text.startswith("A:") else "other"
    first = text.split(".", 1)[0]
    if "=" in first:
        return "plain"
    return "wordy" if " is " in first else "terse"


def thought(steps: tuple[str, ...]) -> str:
    """Join steps as an assistant turn begins: `T: 10+12=22. 22/2=11.`."""
    return "T: " + " ".join(steps)


def reply(steps: tuple[str, ...], answer: int) -> str:
    """A whole assistant turn: the thought, then the answer on its own line."""
    return f"{thought(steps)}\n{direct(answer)}"


def direct(answer: int) -> str:
    """An assistant turn without a rationale."""
    return f"A: {answer}"


def estimate(answer: int) -> str:
    """A rough answer to the nearest ten, which no verifier counts: `A: about 40`."""
    return f"A: {ABOUT}{(answer + 5) // 10 * 10}"


def slip(rng: Random, result: int) -> int:
    """A near miss of a sum: off by one, off by ten, or one wrong digit."""
    ones, tens = rng.randint(0, 9), rng.randint(0, 9)
    near = rng.choice((result - 1, result + 1, result - 10, result + 10))
    return rng.choice((near, near, result // 10 * 10 + ones, tens * 10 + result % 10))


def mistaken(rng: Random, mistake: str, operation: Operation, total: int) -> tuple[Step, ...]:
    """The steps that a writer who makes this mistake puts down for one operation."""
    if mistake == "skip":
        return ()
    if mistake == "operation":
        wrong = Operation(WRONG_KIND[operation.kind], operation.amount)
        return steps_of(total, wrong)
    *before, last = steps_of(total, operation)
    if before and rng.random() < SIDE_SHARE:  # slip in the product of the group, carried into the sum
        side = before[0]
        product = slip(rng, side.result)
        before = [Step(side.left, side.sign, side.right, product, side=True)]
        return (*before, Step(total, "+", product, total + product))
    return (*before, Step(last.left, last.sign, last.right, slip(rng, last.result)))


def attempt(rng: Random, problem: Problem, mistake: str, where: int) -> tuple[Step, ...]:
    """One mistake at one operation; what follows is worked rightly from the wrong value."""
    steps: list[Step] = []
    total = problem.start
    for index, operation in enumerate(problem.operations):
        wrong = index == where
        new = mistaken(rng, mistake, operation, total) if wrong else steps_of(total, operation)
        steps.extend(new)
        total = steps[-1].result if new else total
    return tuple(steps)


def believable(steps: tuple[Step, ...]) -> bool:
    """Whether a draft could be a model's own: in range, and nothing odd was halved."""
    in_range = all(LOW <= step.result <= HIGH for step in steps)
    return in_range and all(step.left % 2 == 0 for step in steps if step.sign == "/")


def wrong_steps(rng: Random, problem: Problem) -> tuple[Step, ...]:
    """A draft with one mistake and a wrong answer, which looks like a model's own."""
    while True:  # a slip by one in the last sum is always allowed, so this ends
        mistake = rng.choices(MISTAKES, MISTAKE_WEIGHTS)[0]
        where = rng.randrange(len(problem.operations))
        if mistake == "skip" and where == len(problem.operations) - 1:
            continue  # a draft that only stops early has no wrong step to point at
        steps = attempt(rng, problem, mistake, where)
        if believable(steps) and steps[-1].result != problem.answer:
            return steps


def step_labels(draft: tuple[str, ...], right: tuple[str, ...]) -> tuple[bool, ...]:
    """True up to the first step that differs from the right one; False from there on."""
    labels: list[bool] = []
    for index, step in enumerate(draft):
        so_far = all(labels)
        labels.append(so_far and index < len(right) and step == right[index])
    return tuple(labels)
