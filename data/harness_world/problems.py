"""Word problems about one owner and one running total, whose text fixes every step.

A problem is a start value and a row of operations. Each operation has several wordings, and each
has one meaning, so the steps follow from the text and can be checked one by one. Distractor
sentences carry numbers that do not count. Nothing here needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from harness_world.wordings import MONEY, NAMES, THINGS, Domain

LOW, HIGH = 0, 99
"""The running total stays in here: two digits at most."""
MIN_AMOUNT, MAX_AMOUNT = 2, 45
"""Amounts of `add` and `take`: 1 would need a singular noun."""
DISTRACTOR_SHARE = 0.35
"""Share of problems with one sentence that does not count."""
SMALL_AMOUNT_SHARE = 0.6
"""Share of amounts of one digit: sums with a carry are what a small model finds hard."""
WEATHER_SHARE = 0.3
"""Share of the distractors that carry no number of a thing."""
WORD_SHARE = 0.5
"""Share of the doublings and halvings among the facts that are asked in words."""
DIGIT = 9
"""The largest amount of one digit."""
THEN_SHARE = 0.1
"""Share of the sentences about the owner that open with `Then`, as follow-up questions do."""
KINDS = ("add", "take", "double", "halve", "groups")
KIND_WEIGHTS = (5, 5, 2, 3, 4)


@dataclass(frozen=True)
class Operation:
    """One change of the running total: `amount` (for groups, `groups` lots of `amount`)."""

    kind: str
    amount: int = 0
    groups: int = 0


@dataclass(frozen=True)
class Step:
    """One line of working; a side step (the product of a group) is no running total."""

    left: int
    sign: str
    right: int
    result: int
    side: bool = False

    def __str__(self) -> str:
        return f"{self.left}{self.sign}{self.right}={self.result}"


@dataclass(frozen=True)
class Problem:
    """A question with the operations that its text describes."""

    question: str
    start: int
    operations: tuple[Operation, ...]
    owner: str = ""
    item: str = ""

    @property
    def steps(self) -> tuple[Step, ...]:
        """The one right working."""
        return work(self.start, self.operations)

    @property
    def answer(self) -> int:
        """The last running total."""
        return self.steps[-1].result


def steps_of(total: int, operation: Operation) -> tuple[Step, ...]:
    """The working of one operation: one step, or two for groups."""
    amount = operation.amount
    if operation.kind == "add":
        return (Step(total, "+", amount, total + amount),)
    if operation.kind == "take":
        return (Step(total, "-", amount, total - amount),)
    if operation.kind == "double":
        return (Step(total, "*", 2, total * 2),)
    if operation.kind == "halve":
        return (Step(total, "/", 2, total // 2),)
    product = operation.groups * amount
    side = Step(operation.groups, "*", amount, product, side=True)
    return (side, Step(total, "+", product, total + product))


def work(total: int, operations: tuple[Operation, ...]) -> tuple[Step, ...]:
    """All the steps of a row of operations from a start value."""
    steps: list[Step] = []
    for operation in operations:
        steps.extend(steps_of(total, operation))
        total = steps[-1].result
    return tuple(steps)


def draw_amount(rng: Random, most: int) -> int:
    """An amount from 2 to `most`, of one digit more often than of two."""
    top = DIGIT if most <= DIGIT or rng.random() < SMALL_AMOUNT_SHARE else MAX_AMOUNT
    return rng.randint(MIN_AMOUNT, min(top, most))


def draw_operation(rng: Random, total: int, kinds: tuple[str, ...] = KINDS) -> Operation | None:
    """One operation that keeps the total in range, or None where the drawn kind cannot."""
    weights = [KIND_WEIGHTS[KINDS.index(kind)] for kind in kinds]
    kind = rng.choices(kinds, weights)[0]
    if kind == "add" and total + MIN_AMOUNT <= HIGH:
        return Operation(kind, draw_amount(rng, HIGH - total))
    if kind == "take" and total >= MIN_AMOUNT:
        return Operation(kind, draw_amount(rng, total))
    if kind == "double" and 0 < total * 2 <= HIGH:
        return Operation(kind)
    if kind == "halve" and total > 0 and total % 2 == 0:
        return Operation(kind)
    if kind == "groups":
        groups, amount = rng.randint(2, 9), rng.randint(2, 9)
        if total + groups * amount <= HIGH:
            return Operation(kind, amount, groups)
    return None


def draw_operations(rng: Random, start: int, n_steps: int) -> tuple[Operation, ...]:
    """Operations that make exactly `n_steps` steps; the total never leaves the range."""
    operations: list[Operation] = []
    total, missing = start, n_steps
    while missing:
        operation = draw_operation(rng, total)
        if operation is None or len(steps := steps_of(total, operation)) > missing:
            continue
        total, missing = steps[-1].result, missing - len(steps)
        operations.append(operation)
    return tuple(operations)


def sentence(rng: Random, operation: Operation, owner: str, item: str, domain: Domain = THINGS) -> str:
    """One wording of an operation."""
    text = rng.choice(domain.wordings[operation.kind])
    if text.startswith("{N}") and rng.random() < THEN_SHARE:
        text = "Then " + text
    return text.format(N=owner, i=item, n=operation.amount, g=operation.groups)


def distractor(rng: Random, owner: str, item: str, domain: Domain) -> str:
    """A sentence that changes nothing: another person, another thing, or the weather."""
    other = rng.choice([name for name in NAMES if name != owner])
    thing = rng.choice([name for name in domain.items if name != item] or [item])
    text = rng.choice(domain.distractors if rng.random() < 1 - WEATHER_SHARE else domain.flavours)
    return text.format(N=owner, M=other, i=item, j=thing, n=rng.randint(2, 40))


def draw_problem(rng: Random, n_steps: int, domain: Domain = THINGS) -> Problem:
    """A problem of exactly `n_steps` steps."""
    owner, item = rng.choice(NAMES), rng.choice(domain.items)
    start = rng.randint(2, 40)
    operations = draw_operations(rng, start, n_steps)
    body = [sentence(rng, operation, owner, item, domain) for operation in operations]
    if rng.random() < DISTRACTOR_SHARE:
        body.insert(rng.randint(0, len(body)), distractor(rng, owner, item, domain))
    first = rng.choice(domain.starts).format(N=owner, i=item, n=start)
    ask = rng.choice(domain.asks).format(N=owner, i=item)
    return Problem(" ".join([first, *body, ask]), start, operations, owner, item)


def draw_narrative(rng: Random, n_steps: int, domain: Domain = MONEY) -> str:
    """A story that asks nothing and says the running total after every sentence: plain text of a domain."""
    owner, item = rng.choice(NAMES), rng.choice(domain.items)
    total = rng.randint(2, 40)
    said = [rng.choice(domain.starts).format(N=owner, i=item, n=total)]
    for operation in draw_operations(rng, total, n_steps):
        total = steps_of(total, operation)[-1].result
        said += [sentence(rng, operation, owner, item, domain), domain.total.format(N=owner, i=item, n=total)]
    return " ".join(said)


def draw_expression(rng: Random) -> Problem:
    """`What is 2+1-3+8?`: sums and differences of three to five small numbers, left to right."""
    start = rng.randint(1, 20)
    operations: list[Operation] = []
    total, n_steps = start, rng.randint(2, 4)
    while len(operations) < n_steps:
        operation = draw_operation(rng, total, ("add", "take"))
        if operation is not None:
            operations.append(operation)
            total = steps_of(total, operation)[-1].result
    signs = {"add": "+", "take": "-"}
    terms = "".join(f"{signs[o.kind]}{o.amount}" for o in operations)
    return Problem(f"What is {start}{terms}?", start, tuple(operations))


def draw_fact(rng: Random) -> Problem:
    """`What is 7*8?`: one bare step, in signs or in a word."""
    while True:
        total = rng.randint(LOW, HIGH)
        operation = draw_operation(rng, total)
        if operation is None:
            continue
        step = steps_of(total, operation)[0]
        question = f"What is {step.left}{step.sign}{step.right}?"
        if operation.kind in ("double", "halve") and rng.random() < WORD_SHARE:
            question = f"What is {'half of' if operation.kind == 'halve' else 'double'} {total}?"
        if operation.kind == "groups":  # a product alone: `amount` taken `groups` times
            return Problem(question, 0, (Operation("groups", operation.amount, operation.groups),))
        return Problem(question, total, (operation,))
