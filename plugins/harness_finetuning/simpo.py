"""Simple Preference Optimization (SimPO): rank pairs by the policy's own MEAN log-probability a token; no reference.

Paper: Meng et al. 2024, arXiv:2405.14734. Eq. (4) is the reward, beta log pi(y|x) / |y|; eq. (6) is `simpo_loss`.
Data: preference pairs, best of the same distribution as the start. Trains: every weight.
Cost: two completions a pair through the policy alone, half of DPO's tokens. Nothing but the learning rate holds the
policy near its start, and it is the setting that matters most: too large a one ends in repetition.
Shapes: B pairs a batch; R = 2B rows, the B chosen completions first.
Left out: the extra supervised loss that the authors' later code offers, and label smoothing.
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
    set_rate,
    whole_pairs,
)


def simpo_loss(logprob_R: torch.Tensor, tokens_R: torch.Tensor, beta: float, gamma: float) -> torch.Tensor:
    """Eq. (6): scalar loss from (R,) summed log-probabilities in nats and the (R,) numbers of tokens they sum over.

    It compares MEANS over the tokens of each completion, and is ln(1 + e^gamma) where those of a pair are equal.
    """
    chosen_B, rejected_B = (logprob_R / tokens_R).chunk(2)  # eq. (3); `eos` counts
    return -F.logsigmoid(beta * (chosen_B - rejected_B) - gamma).mean()


@dataclass(frozen=True)
class SimPO:
    name: ClassVar[str] = "simpo"
    family: ClassVar[str] = "fine-tuning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    needs: ClassVar[tuple[str, ...]] = ("pairs",)
    beta: float = 2.0
    """Scale of the reward, a token/nat; the paper's 2.0 to 2.5. Not comparable with DPO's 0.1, which scales sums."""
    gamma: float = 1.0
    """Margin by which a chosen completion should win, in units of the reward; the authors advise beta / 2."""
    lr: float = 5e-5
    """Peak learning rate; suits models of a million parameters (the paper's 3e-7 to 1e-6 suits billions)."""
    batch_size: int = 16
    """Pairs an optimiser step."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        optimizer = adamw(model, self.lr)
        for pairs in run.batches(data.pairs, self.batch_size):
            rows = whole_pairs(encode_pairs(model, self.rows(pairs)))
            if rows is None:
                continue
            logprob_R, tokens_R = completion_logprob(model, rows), rows.completion_mask.sum(-1)
            loss = simpo_loss(logprob_R, tokens_R, self.beta, self.gamma)
            set_rate(optimizer, self.lr * cosine_with_warmup(run))
            descend(loss, optimizer)
            chosen_B, rejected_B = (logprob_R.detach() / tokens_R).chunk(2)
            margin, chosen = (chosen_B - rejected_B).mean(), chosen_B.mean()
            run.log(loss=loss.item(), margin=margin.item(), chosen=chosen.item())

    def rows(self, pairs: list[Pair]) -> list[tuple[str, str]]:
        """(prompt, completion) of the chosen completions, then of the rejected ones."""
        return [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]


@hookimpl
def harness_methods() -> list[type]:
    return [SimPO]
