"""Odds Ratio Preference Optimization (ORPO): fine-tune on chosen completions and push the rejected away, in one stage.

Paper: Hong et al. 2024, arXiv:2403.07691. Eq. (4) is `log_odds`, eqs. (6) and (7) are `orpo_loss`.
Data: preference pairs. Trains: every weight. Start: the base. ORPO is monolithic: its first term IS the supervised
stage, so none comes before it, and there is no reference.
Cost: two completions a pair through the policy alone, no stage before.
Shapes: B pairs a batch; R = 2B rows, the B chosen completions first.
Differs: the first term counts completion tokens only, as everywhere in this harness. The authors' code (unless told
otherwise) and TRL count the prompt's as well.
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

SURE = -1e-6
"""Mean log-probabilities above this one, nats a token, count as this one in log(1 - P), which has no bound."""


def log_odds(mean_R: torch.Tensor) -> torch.Tensor:
    """Eq. (4) in logarithms: log P - log(1 - P) with P = exp(mean log-probability a token); float32, finite at P = 1.

    log(1 - P) is log1p(-exp(m)) written as log(-expm1(m)): the first rounds exp(m) to 1 when m is near 0, and then is
    minus infinity with no gradient.
    """
    mean_R = mean_R.float()
    return mean_R - torch.log(-torch.expm1(mean_R.clamp(max=SURE)))


def orpo_loss(logprob_R: torch.Tensor, tokens_R: torch.Tensor, weight: float) -> torch.Tensor:
    """Eq. (6): scalar loss from (R,) summed log-probabilities in nats and the (R,) numbers of tokens they sum over.

    The first term is a mean over all chosen tokens of the batch. The second, eq. (7), compares MEANS over the tokens
    of each completion; it is `weight` ln 2 where both completions of a pair are equally likely a token.
    """
    supervised = -logprob_R.chunk(2)[0].sum() / tokens_R.chunk(2)[0].sum()
    odds_chosen_B, odds_rejected_B = log_odds(logprob_R / tokens_R).chunk(2)
    return supervised - weight * F.logsigmoid(odds_chosen_B - odds_rejected_B).mean()


@dataclass(frozen=True)
class ORPO:
    name: ClassVar[str] = "orpo"
    family: ClassVar[str] = "fine-tuning"
    after: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ("pairs",)
    weight: float = 0.1
    """Weight of the odds ratio, the paper's lambda; 0.1 to 0.25 there, by model."""
    lr: float = 3e-4
    """Peak learning rate, as in supervised fine-tuning, which this is also (the paper's 8e-6 suits billions)."""
    batch_size: int = 12
    """Pairs an optimiser step."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        optimizer = adamw(model, self.lr)
        for pairs in run.batches(data.pairs, self.batch_size):
            rows = whole_pairs(encode_pairs(model, self.rows(pairs)))
            if rows is None:
                continue
            logprob_R, tokens_R = completion_logprob(model, rows), rows.completion_mask.sum(-1)
            loss = orpo_loss(logprob_R, tokens_R, self.weight)
            set_rate(optimizer, self.lr * cosine_with_warmup(run))
            descend(loss, optimizer)
            mean_R = logprob_R.detach() / tokens_R
            odds_chosen_B, odds_rejected_B = log_odds(mean_R).chunk(2)
            margin, chosen = (odds_chosen_B - odds_rejected_B).mean(), mean_R.chunk(2)[0].mean()
            run.log(loss=loss.item(), margin=margin.item(), chosen=chosen.item())

    def rows(self, pairs: list[Pair]) -> list[tuple[str, str]]:
        """(prompt, completion) of the chosen completions, then of the rejected ones."""
        return [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]


@hookimpl
def harness_methods() -> list[type]:
    return [ORPO]
