"""Random score: the control of every scorer. A choice by it is worth one sample, and a scorer must beat it.

Data: none. Trains: nothing. Cost: none beyond the completions it is asked about.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness import Completion, Model, Prompt, Run, Scores, hookimpl


@dataclass(frozen=True)
class RandomScore:
    name: ClassVar[str] = "random-score"
    family: ClassVar[str] = "control"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)

    def score(self, model: Model, prompt: Prompt, completions: Sequence[Completion], run: Run) -> list[Scores]:
        del model, prompt  # nothing that could help
        generator = random.Random(run.seed("random-score", run.problem_id))  # noqa: S311 - a control, not a secret
        return [Scores(generator.random()) for _ in completions]


@hookimpl
def harness_methods() -> list[type]:
    return [RandomScore]
