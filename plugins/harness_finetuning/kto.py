"""Kahneman-Tversky Optimization (KTO): learn from single completions marked good or bad, judged against a baseline.

Paper: Ethayarajh et al. 2024, arXiv:2402.01306, sec. 4.1. Its loss L_KTO is `kto_loss`, its estimate of z0 is
`reference_point`: how far, on average, the policy has come to favour completions that do not belong to their prompt.
Data: preference pairs taken apart: every chosen completion is desirable, every rejected one undesirable. Both of a pair
come in one batch, but no term compares them. Trains: every weight. Reference: the model as it was at the start.
Cost: twice DPO's tokens: matched and mismatched completions, both through policy and reference; one in four has a
backward pass.
Shapes: B pairs a batch; R = 2B rows, the B desirable completions first; M mismatched rows.
Left out: unequal numbers of desirable and undesirable completions, which the two weights are for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

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


def reference_point(ratio_M: torch.Tensor) -> torch.Tensor:
    """z0: the mean of (M,) SUMMED log-ratios of mismatched rows, never below 0, without gradient; 0 of no row."""
    return ratio_M.detach().sum().clamp(min=0) / max(1, len(ratio_M))


def kto_loss(
    ratio_R: torch.Tensor, z0: torch.Tensor, beta: float, desirable: float = 1.0, undesirable: float = 1.0
) -> torch.Tensor:
    """L_KTO: scalar from (R,) log-ratios log pi/pi_ref in nats, SUMMED over tokens, desirable ones in the first half.

    Each row costs its weight times 1 - sigmoid: half its weight where its log-ratio is z0.
    """
    good_B, bad_B = ratio_R.chunk(2)
    good = desirable * (1 - F.sigmoid(beta * (good_B - z0)))
    bad = undesirable * (1 - F.sigmoid(beta * (z0 - bad_B)))
    return torch.cat([good, bad]).mean()


def mismatched(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each prompt with the completion of the row behind it, unless that one has the same prompt."""
    turned = rows[1:] + rows[:1]
    return [(prompt, other) for (prompt, _), (owner, other) in zip(rows, turned, strict=True) if owner != prompt]


@dataclass(frozen=True)
class KTO:
    name: ClassVar[str] = "kto"
    family: ClassVar[str] = "fine-tuning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    needs: ClassVar[tuple[str, ...]] = ("pairs",)
    beta: float = 0.1
    """Slope of the value, 1/nat: the larger, the sooner gains and losses saturate. The paper's 0.1; scales sums."""
    desirable: float = 1.0
    """Weight of desirable completions, the paper's lambda_D."""
    undesirable: float = 1.0
    """Weight of undesirable completions, lambda_U; the paper wants the weighted numbers of both to be about equal."""
    lr: float = 3e-5
    """Peak learning rate; suits models of a million parameters. At three times as much, one seed of three collapsed."""
    batch_size: int = 8
    """Pairs an optimiser step: half of DPO's, as each costs twice the tokens. Of a batch of one question z0 is 0."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        reference = frozen_copy(model)
        optimizer = adamw(model, self.lr)
        for pairs in run.batches(data.pairs, self.batch_size):
            examples = [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]
            rows = whole_pairs(encode_pairs(model, examples))
            if rows is None:
                continue
            z0 = self.baseline(model, reference, mismatched(examples))
            with torch.no_grad():
                reference_R = completion_logprob(reference, rows)
            ratio_R = completion_logprob(model, rows) - reference_R
            loss = kto_loss(ratio_R, z0, self.beta, self.desirable, self.undesirable)
            set_rate(optimizer, self.lr * cosine_with_warmup(run))
            descend(loss, optimizer)
            good_B, bad_B = ratio_R.detach().chunk(2)
            margin, chosen = (good_B - bad_B).mean(), good_B.mean()
            run.log(loss=loss.item(), margin=margin.item(), chosen=chosen.item(), z0=z0.item())

    @torch.no_grad()
    def baseline(self, model: Model, reference: Model, examples: list[tuple[str, str]]) -> torch.Tensor:
        """z0 of a batch, 0 where it has no mismatched row."""
        if not examples:
            return torch.zeros(())
        rows = encode_pairs(model, examples)
        ratio_M = completion_logprob(model, rows) - completion_logprob(reference, rows)
        return reference_point(ratio_M[rows.completion_mask.any(-1)])  # a completion that does not fit says nothing


@hookimpl
def harness_methods() -> list[type]:
    return [KTO]
