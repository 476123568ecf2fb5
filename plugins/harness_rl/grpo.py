"""Group relative policy optimisation (GRPO): each sample against the mean of its group, no value network.

Paper: Shao et al. 2024 (DeepSeekMath), arXiv:2402.03300, sec. 4.1, outcome supervision.
A_i = (r_i - mean r) / std r within the group of a problem, the same for every token of completion i. The loss is
- mean_i 1/|y_i| sum_t min(rho A, clip(rho, 1 - eps, 1 + eps) A), rho = pi / pi_old.
Data: problems and their verifier; no solution is ever read. Trains: every weight.
Cost: `samples` completions a problem are drawn, and those of groups whose rewards differ trained on once. With one
update a batch pi is pi_old: rho is 1, and the clip has nothing to do.
Shapes: B problems, n samples each, R = B n rows. Left out: the KL term (its weight is 0, as by default in TRL).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from harness import Model, Run, TrainingData, hookimpl
from harness.toolbox import (
    Reward,
    adamw,
    cosine_with_warmup,
    drift,
    frozen_copy,
    policy_gradient,
    random_reward_twin,
    roll_out,
    set_rate,
    update,
    verified,
)

EPSILON = 1e-4
"""Beside the standard deviation, as in TRL."""


def group_advantages(reward_Bn: torch.Tensor) -> torch.Tensor:
    """(B, n) advantages: of mean 0 in each group, and 0 throughout a group whose rewards are equal."""
    centred_Bn = reward_Bn - reward_Bn.mean(-1, keepdim=True)
    return centred_Bn / (reward_Bn.std(-1, keepdim=True) + EPSILON)


@dataclass(frozen=True)
class GRPO:
    name: ClassVar[str] = "grpo"
    family: ClassVar[str] = "reinforcement-learning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    problems: int = 4
    """Problems an optimiser step."""
    samples: int = 16
    """Completions a problem, at temperature 1: the group. At least 2: one alone is its own mean."""
    lr: float = 3e-4
    """Peak learning rate of AdamW; suits models of a million parameters."""

    def __post_init__(self) -> None:
        if self.samples <= 1:
            msg = f"samples of {self.name} must be at least 2, not {self.samples}: a group of one has no advantage"
            raise ValueError(msg)

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        reward, start, optimizer = self.reward(data, run), frozen_copy(model), adamw(model, self.lr)
        for step, batch in enumerate(run.batches(data.problems, self.problems)):
            rollouts = roll_out(model, batch, run, self.samples, reward)
            facts = drift(model, start, rollouts, step, run)
            advantage_Bn = group_advantages(rollouts.by_problem(rollouts.rewards))
            # A mean over rows of means over tokens: within a long completion, every token weighs less.
            weight_R = 1 / (len(rollouts.rewards) * rollouts.lengths.clamp(min=1))
            facts |= policy_gradient(model, rollouts.sequences, advantage_Bn.view(-1, 1), weight_R)
            set_rate(optimizer, self.lr * cosine_with_warmup(run))
            update(optimizer)
            wasted = float((advantage_Bn == 0).all(-1).float().mean())  # groups that taught nothing
            run.log(**rollouts.facts(), **facts, wasted=wasted)

    def reward(self, data: TrainingData, run: Run) -> Reward:
        """What a completion is worth."""
        del run
        return verified(data)


GRPORandomReward = random_reward_twin(GRPO)


@hookimpl
def harness_methods() -> list[type]:
    return [GRPO, GRPORandomReward]
