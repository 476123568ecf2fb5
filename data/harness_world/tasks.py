"""Short tasks on a list of numbers or on one number, in clusters: what instruction tuning is about.

A family is named by the word that asks for it (`largest`, `tens`), and each has one right answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from harness_world.problems import HIGH
from harness_world.wordings import TASK_FORM, TASK_KEYS

LIST_ANSWERS: dict[str, Callable[[list[int]], int]] = {
    "largest": max,
    "smallest": min,
    "first": lambda numbers: numbers[0],
    "last": lambda numbers: numbers[-1],
    "count": len,
    "total": sum,
}
NUMBER_ANSWERS: dict[str, Callable[[int], int]] = {
    "tens": lambda number: number // 10,
    "ones": lambda number: number % 10,
    "next": lambda number: number + 1,
    "previous": lambda number: number - 1,
    "double": lambda number: number * 2,
    "half": lambda number: number // 2,
}
CLUSTER_OF = {key: cluster for cluster, keys in TASK_KEYS.items() for key in keys}
MOST_NUMBERS = 5
"""The longest list."""
TOTAL_MOST = 25
"""The largest term of a total: three of them stay below 100."""


@dataclass(frozen=True)
class Task:
    """One question of a family; `numbers` is how it is written, so that the form can vary."""

    key: str
    numbers: str
    answer: int

    def asked(self, form: str = TASK_FORM) -> str:
        """The question in one form."""
        return form.format(key=self.key, numbers=self.numbers)


def draw_list(rng: Random, key: str) -> list[int]:
    """Different numbers, so that there is one largest; small and few for a total."""
    if key == "total":
        return rng.sample(range(1, TOTAL_MOST + 1), rng.randint(2, 3))
    return rng.sample(range(HIGH + 1), rng.randint(2, MOST_NUMBERS))


def draw_number(rng: Random, key: str) -> int:
    """A number whose answer stays within two digits and is whole."""
    if key == "double":
        return rng.randint(1, HIGH // 2)
    if key == "half":
        return rng.randrange(2, HIGH, 2)
    return rng.randint(10, HIGH - 1)


def draw_task(rng: Random, key: str) -> Task:
    """A task of one family."""
    if key in NUMBER_ANSWERS:
        number = draw_number(rng, key)
        return Task(key, str(number), NUMBER_ANSWERS[key](number))
    numbers = draw_list(rng, key)
    return Task(key, ", ".join(map(str, numbers)), LIST_ANSWERS[key](numbers))
