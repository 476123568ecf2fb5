"""Instruction tuning: fine-tune on many tasks in many wordings, so that instructions of unseen tasks are followed too.

Papers: Wei et al. 2022 (FLAN), arXiv:2109.01652, sec. 2; Sanh et al. 2022 (T0), arXiv:2110.08207.
The loss of supervised fine-tuning over the mixture p(task) proportional to min(n_task, cap), the examples-proportional
mixing of Raffel et al. 2020, arXiv:1910.10683, sec. 3.5.2: no large task swamps the small ones.
Data: instructions of many tasks, each in several wordings. What it is for shows on tasks of clusters that are held out.
Trains: every weight. Cost: as `sft`. Left out: input inversion, chain-of-thought tasks, zero-loss filtering.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness import Instruction, Model, Run, TrainingData, hookimpl
from harness.toolbox import adamw, completion_loss, cosine_with_warmup, set_rate, update


def mixture(instructions: Sequence[Instruction], cap: int, seed: int) -> list[Instruction]:
    """One pass: of every task all its instructions, or `cap` of them drawn anew, so that the shares hold exactly."""
    tasks: defaultdict[str, list[Instruction]] = defaultdict(list)
    for item in instructions:
        tasks[item.task].append(item)
    rng = random.Random(seed)  # noqa: S311 - data order, not secrets
    return [item for items in tasks.values() for item in rng.sample(items, min(len(items), cap))]


@dataclass(frozen=True)
class InstructionTuning:
    name: ClassVar[str] = "instruction-tuning"
    family: ClassVar[str] = "fine-tuning"
    needs: ClassVar[tuple[str, ...]] = ("instructions",)
    cap: int = 100
    """Most instructions of a task in a pass; FLAN's 30,000 suits tasks of millions."""
    lr: float = 3e-4
    """Peak learning rate of AdamW; suits models of a million parameters."""
    batch_size: int = 16
    """Instructions an optimiser step."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        optimizer = adamw(model, self.lr)
        for number in itertools.count():
            items = mixture(data.instructions, self.cap, run.seed("mixture", number))
            for batch in run.batches(items, self.batch_size, epochs=1):
                loss = completion_loss(model, [(item.prompt, item.completion) for item in batch])
                set_rate(optimizer, self.lr * cosine_with_warmup(run))
                update(optimizer)
                run.log(loss=loss)
            if run.left <= 0:
                return


@hookimpl
def harness_methods() -> list[type]:
    return [InstructionTuning]
