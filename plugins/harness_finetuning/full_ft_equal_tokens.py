"""The control of parameter-efficient fine-tuning: every weight learns from the same examples, over as many tokens.

What LoRA, adapters, prompt and prefix tuning lose or gain by training little shows against this row and no other: `sft`
and `cot-sft` learn other targets. The loss is theirs: L = - sum_bt m_bt log pi(y_bt | x_b, y_b,<t) / sum_bt m_bt.
Data: the train split, with its worked solutions where it has them, in the order in which the others see it.
Trains: every weight. Cost: 6 N a token, where the others cost about 4 N: tokens are equal, FLOPs are not.
Left out: a learning rate scaled to match the others' steps; each row has the one that suits it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness import Model, Run, TrainingData, hookimpl
from harness.toolbox import fine_tune, worked_examples


@dataclass(frozen=True)
class FullFTEqualTokens:
    name: ClassVar[str] = "full-ft-equal-tokens"
    family: ClassVar[str] = "control"
    lr: float = 3e-4
    """Peak learning rate of AdamW; suits models of a million parameters (2e-5 is usual for billions)."""
    batch_size: int = 16
    """Examples an optimiser step."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        fine_tune(model, worked_examples(data), run, self.lr, self.batch_size)


@hookimpl
def harness_methods() -> list[type]:
    return [FullFTEqualTokens]
