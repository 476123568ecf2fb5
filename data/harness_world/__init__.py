"""The embedded world: a small base model, its teacher, and word problems whose every step can be checked.

No download, minutes. It is a plugin like any other: datasets and models, through the hooks of `harness`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar, overload

from harness import DatasetSpec, Device, Model, ModelSpec, Problem, TrainingData, hookimpl

Row = TypeVar("Row")
HERE = Path(__file__).parent
FILES = HERE / "files"
REPORTS = {"README.md", "figures.json", "training.json"}
MAX_NEW_TOKENS = 96
"""The longest target of the world has fewer tokens; its test holds it to that."""
TRAIN_TOKENS = 128_000
"""Training budget a stage: what two cores can spend on each of forty methods in minutes."""
LIMIT = 500
"""Test problems of an ordinary run, for the same reason; the main test has 1,000 (`--limit 1000`)."""


class Rows(Sequence[Row]):
    """The rows of a file, read when they are first asked for: a stage needs a few of the views, never all."""

    def __init__(self, name: str, parse: Callable[[list[dict[str, object]], str], Sequence[Row]]) -> None:
        self.path, self.parse = FILES / f"{name}.jsonl", parse

    @cached_property
    def rows(self) -> Sequence[Row]:
        """What the file holds."""
        from harness.rows import read_rows  # noqa: PLC0415 - only workers read the files

        return self.parse(read_rows(self.path), str(self.path))

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Row]: ...

    def __getitem__(self, place: int | slice) -> Row | Sequence[Row]:
        return self.rows[place]


@dataclass(frozen=True)
class World:
    """Problems with one right answer each; what is not the domain's own is shared by all datasets."""

    name: str
    test: Sequence[Problem] = field(repr=False)  # the verifier that methods are handed is bound to this
    domain: str = ""
    """What the files of its train and dev splits and of its corpus begin with."""

    def training(self) -> TrainingData:
        """Train and dev with their views; a file is read when somebody looks into it."""
        from harness import rows  # noqa: PLC0415 - only workers read the files

        return TrainingData(
            problems=Rows(f"{self.domain}train", rows.problems).rows,  # now: nobody's training is to be timed with it
            dev=Rows(f"{self.domain}dev", rows.problems),
            verify=self.verify,
            render_target=render_target,
            check_steps=self.check_steps,
            pairs=Rows("pairs", rows.pairs),
            conversations=Rows("conversations", rows.conversations),
            stepwise=Rows("stepwise", rows.stepwise),
            instructions=Rows("instructions", rows.instructions),
            corpus=Rows(f"{self.domain}corpus", rows.texts),
            general=Rows("general", rows.turns),
            general_dev=Rows("general_dev", rows.turns),
        )

    def verify(self, problem: Problem, text: str) -> tuple[bool, str | None]:
        """Whether the last `A:` line of `text` is the problem's answer."""
        from harness_world.verifier import verify  # noqa: PLC0415 - as above

        return verify(problem.answer, text)

    def check_steps(self, problem: Problem, text: str) -> tuple[bool, ...]:
        """Whether all is right up to the end of each step of `text`; empty where that cannot be told."""
        from harness_world.checker import check_steps  # noqa: PLC0415 - as above

        return check_steps(problem.steps, text)


def render_target(problem: Problem, rationale: bool) -> str:
    """The completion to learn: steps and answer line, or the answer line alone."""
    answer = f"A: {problem.answer}"
    return f"{problem.rationale}\n{answer}" if rationale else answer


def load_world(name: str, test: str, domain: str) -> World:
    """One of the datasets."""
    from harness import rows  # noqa: PLC0415 - only workers read the files

    return World(name, Rows(test, rows.problems), domain)


def load_model(name: str, folder: Path, device: Device) -> Model:
    """Load one of the models."""
    from harness.builtin.causal_lm import CausalLM  # noqa: PLC0415 - imports torch, which listing does not need

    return CausalLM.load(str(folder), device, name=name)


def digest(folder: Path) -> str:
    """sha256 over the files of a folder that shape a result: rows or weights, not cards and reports."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and p.name not in REPORTS):
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


@hookimpl
def harness_datasets() -> list[DatasetSpec]:
    """The main test set, the easy one, and those that single methods are about."""

    def spec(name: str, test: str, summary: str, domain: str = "") -> DatasetSpec:
        load = partial(load_world, name, test, domain)
        return DatasetSpec(name, summary, load, partial(digest, FILES), MAX_NEW_TOKENS, TRAIN_TOKENS, LIMIT)

    return [
        spec("tiny-world", "test", "word problems of 3 to 7 steps with checkable answers"),
        spec("tiny-world-easy", "easy", "word problems of 1 to 5 steps with checkable answers"),
        spec("tiny-dialogue", "dialogue", "second questions that go on from the model's own first answer"),
        spec("tiny-money", "money_test", "word problems in words that the base model never read", "money_"),
        spec("tiny-tasks", "held_out_tasks", "instructions of two task clusters that no training data holds"),
    ]


@hookimpl
def harness_models() -> list[ModelSpec]:
    """The base model of the world, and a larger one that knows it better."""

    def spec(name: str, folder: str, summary: str) -> ModelSpec:
        return ModelSpec(name, summary, partial(load_model, name, HERE / folder), partial(digest, HERE / folder))

    return [
        spec("tiny", "base", "a 0.8M-parameter Llama that half knows the embedded world"),
        spec("tiny-teacher", "teacher", "a 1.6M-parameter Llama that knows it better, to be learnt from"),
    ]
