"""Dr. GRPO (GRPO done right): GRPO without the two divisions that bias it.

Paper: Liu et al. 2025, arXiv:2503.20783, sec. 3: A_i = r_i - mean r within the group of a problem, not divided by the
group's standard deviation, which weighs problems that are nearly always or nearly never solved most; and a completion's
sum over tokens is divided by a constant, not by its own length, which makes a long wrong answer cheap. The loss is
- 1 / (R L_max) sum_i sum_t min(rho A, clip(rho, 1 - eps, 1 + eps) A), rho = pi / pi_old.
Data: problems and their verifier; no solution is ever read. Trains: every weight.
Cost: `samples` completions a problem are drawn, and those of groups whose rewards differ trained on once. With one
update a batch pi is pi_old: rho is 1, and the clip has nothing to do.
Shapes: B problems, n samples each, R = B n rows. Left out: several updates a batch; the KL term (the paper has none
either).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from harness import Model, Run, TrainingData, hookimpl
from harness.toolbox import (
    adamw,
    cosine_with_warmup,
    drift,
    frozen_copy,
    policy_gradient,
    roll_out,
    set_rate,
    update,
    verified,
)


def centred_rewards(reward_Bn: torch.Tensor) -> torch.Tensor:
    """(B, n) advantages r - mean: of mean 0 in each group, in the unit of the reward."""
    return reward_Bn - reward_Bn.mean(-1, keepdim=True)


@dataclass(frozen=True)
class DrGRPO:
    name: ClassVar[str] = "dr-grpo"
    family: ClassVar[str] = "reinforcement-learning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    problems: int = 8
    """Problems an optimiser step."""
    samples: int = 8
    """Completions a problem, at temperature 1: the group. At least 2: one alone is its own mean."""
    lr: float = 3e-4
    """Peak learning rate of AdamW; suits models of a million parameters (the paper's 1e-6 suits billions)."""

    def __post_init__(self) -> None:
        if self.samples <= 1:
            msg = f"samples of {self.name} must be at least 2, not {self.samples}: a group of one has no advantage"
            raise ValueError(msg)

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        reward, start, optimizer = verified(data), frozen_copy(model), adamw(model, self.lr)
        for step, batch in enumerate(run.batches(data.problems, self.problems)):
            rollouts = roll_out(model, batch, run, self.samples, reward)
            facts = drift(model, start, rollouts, step, run)
            advantage_Bn = centred_rewards(rollouts.by_problem(rollouts.rewards))
            # L_max is the longest completion allowed, not the batch's longest: every token weighs the same, always.
            weight_R = torch.full_like(rollouts.rewards, 1 / (len(rollouts.rewards) * run.max_new_tokens))
            facts |= policy_gradient(model, rollouts.sequences, advantage_Bn.view(-1, 1), weight_R)
            set_rate(optimizer, self.lr * cosine_with_warmup(run))
            update(optimizer)
            wasted = float((advantage_Bn == 0).all(-1).float().mean())  # groups that taught nothing
            run.log(**rollouts.facts(), **facts, wasted=wasted)


@hookimpl
def harness_methods() -> list[type]:
    return [DrGRPO]
