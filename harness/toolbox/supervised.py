"""Supervised fine-tuning as a tool, for methods whose idea is what is trained or which examples are learnt.

The loop itself, spelled out, is the file of `sft`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.contracts import Model, Problem, Prompt, TrainingData
from harness.meter import Run
from harness.toolbox.training import adamw, completion_loss, cosine_with_warmup, set_rate, update

ANNOTATION = re.compile(r"<<[^<>]*>>")
"""GSM8K's calculator annotations, `<<48/2=24>>`: every sample would teach them."""
Example = tuple[Prompt, str]
"""(what is asked, the completion to learn)"""


def worked_target(problem: Problem, data: TrainingData) -> str:
    """The completion to learn: the worked solution where there is one, annotations of a calculator left out."""
    return ANNOTATION.sub("", data.render_target(problem, bool(problem.rationale)))


def worked_examples(data: TrainingData, *, unworked: bool = True) -> list[Example]:
    """The train split with its worked solutions.

    unworked: whether problems that have no worked solution come along, with their bare answers.
    """
    chosen = [problem for problem in data.problems if problem.rationale or unworked]
    return [(problem.prompt, worked_target(problem, data)) for problem in chosen]


def fine_tune(model: Model, examples: Sequence[Example], run: Run, lr: float, batch_size: int) -> None:
    """Descend the mean of -log p over completion tokens with AdamW, on everything that is not frozen.

    lr: peak rate; it is warmed up and decayed over the budget.

    Raises:
        DivergedError: a loss or gradient is not finite.
        ValueError: there is no example, or none in a batch whose completion fits the context.
    """
    optimizer = adamw(model, lr)
    for batch in run.batches(examples, batch_size):
        loss = completion_loss(model, batch)
        set_rate(optimizer, lr * cosine_with_warmup(run))
        update(optimizer)
        run.log(loss=loss)
