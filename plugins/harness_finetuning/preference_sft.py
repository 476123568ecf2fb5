"""Preferred fine-tuning (Preferred-FT): supervised fine-tuning on the better completion of each preference pair.

Paper: Rafailov et al. 2023, arXiv:2305.18290, sec. 6, where it is the baseline that every preference method must beat.
The loss of supervised fine-tuning, the mean of -log pi over completion tokens, with y = the chosen completion.
Data: preference pairs, of which the rejected completions are never read. Trains: every weight.
Cost: one forward and one backward pass a chosen token: half of what a method that reads both completions spends a pair.
Left out: choosing the best epoch, and a weight by how much better the chosen completion is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness import Model, Run, TrainingData, hookimpl
from harness.toolbox import fine_tune


@dataclass(frozen=True)
class PreferenceSFT:
    name: ClassVar[str] = "preference-sft"
    family: ClassVar[str] = "fine-tuning"
    after: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ("pairs",)
    lr: float = 3e-4
    """Peak learning rate of AdamW, as in supervised fine-tuning, so that the data alone differ."""
    batch_size: int = 16
    """Examples an optimiser step."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        # A chosen completion that was set against several rejected ones is one example, not several.
        examples = list(dict.fromkeys((p.prompt, p.chosen) for p in data.pairs))
        fine_tune(model, examples, run, self.lr, self.batch_size)


@hookimpl
def harness_methods() -> list[type]:
    return [PreferenceSFT]
