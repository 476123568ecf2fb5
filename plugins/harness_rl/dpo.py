"""Direct Preference Optimization (DPO): learn from ranked pairs, with no reward model and no sampling.

Paper: Rafailov et al. 2023, arXiv:2305.18290. Eq. (7) is `dpo_loss`.
Data: preference pairs, best of the same distribution as the start. Trains: every weight.
Reference: the model as it was at the start. Cost: two completions a pair through policy and reference.
Shapes: B pairs a batch; R = 2B rows, the B chosen completions first.
Left out: label smoothing (cDPO), and appendix B's RMSprop: this is AdamW under a cosine schedule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

from harness import Model, Pair, Run, TrainingData, hookimpl
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


def dpo_loss(policy_R: torch.Tensor, reference_R: torch.Tensor, beta: float) -> torch.Tensor:
    """Eq. (7): scalar loss from (R,) log-probabilities in nats, SUMMED over tokens; ln 2 where policy = reference."""
    chosen_B, rejected_B = (policy_R - reference_R).chunk(2)  # log pi/pi_ref, each (B,)
    return -F.logsigmoid(beta * (chosen_B - rejected_B)).mean()


@dataclass(frozen=True)
class DPO:
    name: ClassVar[str] = "dpo"
    family: ClassVar[str] = "reinforcement-learning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    needs: ClassVar[tuple[str, ...]] = ("pairs",)
    beta: float = 0.5
    """Pull towards the reference, 1/nat. The paper's 0.1 lets a small model drift: samples lose what greedy wins."""
    lr: float = 2e-4
    """Peak learning rate; suits models of a million parameters (the paper's 1e-6 suits billions)."""
    batch_size: int = 16
    """Pairs an optimiser step."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        reference = frozen_copy(model)
        optimizer = adamw(model, self.lr)
        for pairs in run.batches(data.pairs, self.batch_size):
            rows = whole_pairs(encode_pairs(model, self.rows(pairs)))
            if rows is None:
                continue
            with torch.no_grad():
                reference_R = completion_logprob(reference, rows)
            policy_R = completion_logprob(model, rows)
            loss = dpo_loss(policy_R, reference_R, self.beta)
            set_rate(optimizer, self.lr * cosine_with_warmup(run))
            descend(loss, optimizer)
            chosen_B, rejected_B = (policy_R - reference_R).detach().chunk(2)
            # log pi(chosen) may fall while the margin grows: worth seeing, so both are logged.
            margin, chosen = (chosen_B - rejected_B).mean(), chosen_B.mean()
            run.log(loss=loss.item(), margin=margin.item(), chosen=chosen.item())

    def rows(self, pairs: list[Pair]) -> list[tuple[str, str]]:
        """(prompt, completion) of the chosen completions, then of the rejected ones."""
        return [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]


@hookimpl
def harness_methods() -> list[type]:
    return [DPO]
