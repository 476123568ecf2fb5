"""Chain-of-thought SFT: fine-tune on worked solutions, so that the model thinks before it answers, unasked.

Papers: Wei et al. 2022, arXiv:2201.11903 (rationales help); Ho et al. 2022, arXiv:2212.10071 (fine-tuning on them).
The loss of supervised fine-tuning with y = rationale, delimiter, answer. A problem without a rationale is left out, and
so are the calculator annotations of GSM8K (`<<48/2=24>>`), which every sample would teach.
Data: the train split with its rationales. Trains: every weight.
Cost: rationales have several times the tokens of answers, so an equal budget sees fewer problems than `sft`.
Left out: rationales that the model wrote itself (STaR), filtering by length or style.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness import Model, Run, TrainingData, hookimpl
from harness.toolbox import fine_tune, worked_examples


@dataclass(frozen=True)
class CoTSFT:
    name: ClassVar[str] = "cot-sft"
    family: ClassVar[str] = "fine-tuning"
    lr: float = 3e-4
    """Peak learning rate of AdamW; suits models of a million parameters (2e-5 is usual for billions)."""
    batch_size: int = 16
    """Examples an optimiser step."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        fine_tune(model, worked_examples(data, unworked=False), run, self.lr, self.batch_size)


@hookimpl
def harness_methods() -> list[type]:
    return [CoTSFT]
