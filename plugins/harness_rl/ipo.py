"""Identity preference optimisation (IPO): ranked pairs pull the margin to a finite target, so that it cannot run away.

Paper: Azar et al. 2023, arXiv:2310.12036, eq. (17), the square in `ipo_loss`; its tau is `beta` here, as in TRL.
Log-ratios are MEANS over the tokens of a completion, where DPO has sums: so does TRL, which has it from the authors,
though the paper does not spell it out. With sums, the one target would ask less a token the longer a completion is.
Data: preference pairs, best of the same distribution as the start. Trains: every weight.
Reference: the model as it was at the start. Cost: as DPO's, two completions a pair through policy and reference.
Shapes: B pairs a batch; R = 2B rows, the B chosen completions first.
Left out: preferences other than certain ones, p(chosen > rejected) < 1, which sampled labels stand for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from harness import Model, Run, TrainingData, hookimpl
from harness.toolbox import (
    adamw,
    completion_logprob,
    cosine_with_warmup,
    descend,
    encode_pairs,
    frozen_copy,
    set_rate,
    whole_pairs,
)


def ipo_loss(ratio_R: torch.Tensor, beta: float) -> torch.Tensor:
    """Eq. (17): scalar from (R,) mean log-ratios log pi/pi_ref in nats a token; 0 at a margin of 1/(2 beta)."""
    chosen_B, rejected_B = ratio_R.chunk(2)
    return (chosen_B - rejected_B - 1 / (2 * beta)).square().mean()


@dataclass(frozen=True)
class IPO:
    name: ClassVar[str] = "ipo"
    family: ClassVar[str] = "reinforcement-learning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    needs: ClassVar[tuple[str, ...]] = ("pairs",)
    beta: float = 1.0
    """Pull towards the reference, token/nat: the margin aimed at is 1/(2 beta), here half a nat a token."""
    lr: float = 5e-5
    """Peak learning rate; DPO's, suits models of a million parameters."""
    batch_size: int = 16
    """Pairs an optimiser step."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        reference = frozen_copy(model)
        optimizer = adamw(model, self.lr)
        for pairs in run.batches(data.pairs, self.batch_size):
            examples = [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]
            rows = whole_pairs(encode_pairs(model, examples))
            if rows is None:
                continue
            with torch.no_grad():
                reference_R = completion_logprob(reference, rows)
            ratio_R = (completion_logprob(model, rows) - reference_R) / rows.completion_mask.sum(-1)
            loss = ipo_loss(ratio_R, self.beta)
            set_rate(optimizer, self.lr * cosine_with_warmup(run))
            descend(loss, optimizer)
            chosen_B, rejected_B = ratio_R.detach().chunk(2)
            margin, chosen = (chosen_B - rejected_B).mean(), chosen_B.mean()
            run.log(loss=loss.item(), margin=margin.item(), chosen=chosen.item())


@hookimpl
def harness_methods() -> list[type]:
    return [IPO]
