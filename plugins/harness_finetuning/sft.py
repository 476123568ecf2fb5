"""Supervised fine-tuning (SFT): raise the log-probability of reference answers, given the question.

Paper: Ouyang et al. 2022, arXiv:2203.02155, sec. 3.5 (stage 1 of InstructGPT).
L = - sum_bt m_bt log pi(y_bt | x_b, y_b,<t) / sum_bt m_bt; m is 1 on the answer and its end token, 0 on the question.
Data: the train split, answers alone (`cot-sft` learns the worked solutions). Trains: every weight.
Cost: one forward and one backward pass a token. Left out: packing, weight decay, a search for the best epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness import Model, Run, TrainingData, hookimpl
from harness.toolbox import adamw, completion_loss, cosine_with_warmup, set_rate, update


@dataclass(frozen=True)
class SFT:
    name: ClassVar[str] = "sft"
    family: ClassVar[str] = "fine-tuning"
    lr: float = 1e-3
    """Peak learning rate of AdamW; suits models of a million parameters (2e-5 is usual for billions)."""
    batch_size: int = 16
    """Examples an optimiser step."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        examples = [(p.prompt, data.render_target(p, False)) for p in data.problems]
        optimizer = adamw(model, self.lr)
        for batch in run.batches(examples, self.batch_size):  # ends when the budget does
            loss = completion_loss(model, batch)  # the equation above, and its gradient
            set_rate(optimizer, self.lr * cosine_with_warmup(run))
            update(optimizer)
            run.log(loss=loss)


@hookimpl
def harness_methods() -> list[type]:
    return [SFT]
