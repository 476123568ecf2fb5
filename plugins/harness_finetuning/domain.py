"""Domain fine-tuning: first go on pretraining on plain text of the domain, then fine-tune on its few solved problems.

Paper: Gururangan et al. 2020, arXiv:2004.10964, sec. 3 (domain-adaptive pretraining).
Phase 1: next-token loss on all tokens of the corpus, a share `replay` of the texts being of the general kind, so that
it is not forgotten. Phase 2: the loss of supervised fine-tuning. Each phase warms its learning rate up and decays it.
Data: corpus, general turns, train split. Trains: every weight. Cost: both phases come out of the one budget.
Forgetting, the loss on held-out general text before and after, is measured for every trained row and stands on the
board. Left out: task-adaptive pretraining on the questions themselves, selection of texts near the task.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness import Model, Run, TrainingData, hookimpl
from harness.toolbox import (
    adamw,
    collate_masked,
    completion_loss,
    cosine_with_warmup,
    set_rate,
    update,
    worked_examples,
)

Row = tuple[list[int], list[bool]]
"""Ids, and whether each is learnt."""


def pieces(model: Model, prompt: Sequence[int], text: str) -> list[Row]:
    """A text, in as many rows as the context makes of it; every token is learnt but a row's first, given by nothing."""
    ids, size = [*prompt, *model.encode_completion(text)], model.context
    rows = [ids[first : first + size] for first in range(0, len(ids), size)]
    return [(row, [False] + [True] * (len(row) - 1)) for row in rows if len(row) > 1]


@dataclass(frozen=True)
class Domain:
    name: ClassVar[str] = "domain"
    family: ClassVar[str] = "fine-tuning"
    needs: ClassVar[tuple[str, ...]] = ("corpus",)
    pretraining: float = 0.5
    """Share of the budget that is spent on plain text."""
    replay: float = 0.1
    """Share of general texts among those of phase 1; 0.01 to 0.1 is usual."""
    lr: float = 1e-3
    """Peak learning rate of AdamW in both phases; suits models of a million parameters."""
    batch_size: int = 8
    """Texts or examples an optimiser step."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        self.phase(model, self.texts(model, data, run), run, 0.0, self.pretraining)
        examples, dropped = self.examples(model, data)
        run.ledger.dropped_rows += dropped
        self.phase(model, examples, run, self.pretraining, 1.0)

    def phase(self, model: Model, rows: Sequence[Row], run: Run, begin: float, end: float) -> None:
        """Train on `rows` while the share of the budget that is spent goes from `begin` to `end`."""
        if run.progress >= end:
            return
        optimizer = adamw(model, self.lr)  # a phase's own: moments of the other loss would mislead it
        for batch in run.batches(rows, self.batch_size):
            loss = completion_loss(model, collate_masked(model, batch))
            set_rate(optimizer, self.lr * cosine_with_warmup(run, begin=begin, end=end))
            update(optimizer)
            run.log(loss=loss)
            if run.progress >= end:
                return

    def texts(self, model: Model, data: TrainingData, run: Run) -> list[Row]:
        """The corpus, and so many general turns that they are `replay` of all texts."""
        start = [] if model.tokenizer.bos_token_id is None else [model.tokenizer.bos_token_id]
        rows = [row for text in data.corpus for row in pieces(model, start, text)]
        wanted = round(len(rows) * self.replay / (1 - self.replay)) if data.general else 0
        rng = random.Random(run.seed("replay"))  # noqa: S311 - data order, not secrets
        replayed = rng.choices(data.general, k=wanted) if wanted else []
        return rows + [row for prompt, text in replayed for row in pieces(model, model.encode_prompt(prompt), text)]

    def examples(self, model: Model, data: TrainingData) -> tuple[list[Row], int]:
        """The solved problems, worked out where they can be, of which the reply is learnt; how many did not fit."""
        pairs = [(model.encode_prompt(p), model.encode_completion(text)) for p, text in worked_examples(data)]
        fitting = [(prompt, reply) for prompt, reply in pairs if len(prompt) + len(reply) <= model.context]
        rows = [([*prompt, *reply], [False] * len(prompt) + [True] * len(reply)) for prompt, reply in fitting]
        return rows, len(pairs) - len(rows)


@hookimpl
def harness_methods() -> list[type]:
    return [Domain]
