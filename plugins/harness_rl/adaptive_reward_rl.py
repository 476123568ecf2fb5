"""Iterative RL with an adaptive reward model: as the policy moves, the judge is taught anew on what it writes now.

Paper: Shao et al. 2024 (DeepSeekMath), arXiv:2402.03300, algorithm 1 (iterative GRPO), with its 10 % replay.
The budget is cut into iterations. The first share of each teaches the reward model, a copy of the start with a scalar
head, L = - log sigmoid( r(x, y_right) - r(x, y_wrong) ), on pairs of the policy's newest completions and old ones;
the rest updates the policy as GRPO does, A_i = (r_i - mean r) / std r within a group, on what the reward model says.
Data: problems and their verifier, which labels completions for the reward model alone: the policy never sees it.
Trains: every weight of the policy; the reward model, every weight, is dropped at the end. Cost: every completion is
drawn once; those that teach the judge do not teach the policy, and the judge reads the others.
Shapes: B problems, n samples each, R = B n rows. Left out: the KL to a reference that is reset each iteration (its
weight is 0); the KL that is logged is to the start. Advantages have no scale, so a drift of the judge's does no harm.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

from harness import Model, Run, TrainingData, hookimpl
from harness.toolbox import (
    Reward,
    Rollouts,
    TokenPair,
    adamw,
    collate,
    contrasts,
    cosine_with_warmup,
    descend,
    drift,
    final_values,
    frozen_copy,
    policy_gradient,
    random_reward_twin,
    roll_out,
    scalar_head,
    set_rate,
    update,
    verified,
)

HEAD = "adaptive-reward"
EPSILON = 1e-4
"""Beside the standard deviation, as in TRL."""
Ranked = tuple[TokenPair, TokenPair]
"""(right, wrong) completion of one problem"""


def teach(judge: Model, optimizer: torch.optim.Optimizer, pairs: Sequence[Ranked]) -> dict[str, float]:
    """One step of the reward model; none where no problem had both kinds."""
    if not pairs:
        return {}
    rows = collate(judge, [right for right, _ in pairs] + [wrong for _, wrong in pairs])
    right_B, wrong_B = final_values(judge, rows, judge.heads[HEAD]).chunk(2)
    loss = -F.logsigmoid(right_B - wrong_B).mean()
    descend(loss, optimizer)  # no decay: the last iteration's policy is as new to it as the first's
    return {"judge_loss": loss.item(), "ranked": (right_B > wrong_B).float().mean().item()}


@dataclass(frozen=True)
class AdaptiveRewardRL:
    name: ClassVar[str] = "adaptive-reward-rl"
    family: ClassVar[str] = "reinforcement-learning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    iterations: int = 3
    """How often the reward model is taught anew."""
    labelled: float = 0.4
    """Share of each iteration's budget that teaches the reward model."""
    replay: float = 0.1
    """Pairs of before, as a share of the fresh ones; the paper's 0.1."""
    problems: int = 16
    """Problems a step."""
    samples: int = 4
    """Completions a problem, at temperature 1."""
    pairs: int = 2
    """Pairs a problem at most."""
    lr: float = 3e-4
    """Peak learning rate of the policy's AdamW; suits models of a million parameters."""
    judge_lr: float = 5e-4
    """Learning rate of the reward model's."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        label, start, optimizer = self.label(data, run), frozen_copy(model), adamw(model, self.lr)
        judge = model.clone()
        judge.heads[HEAD] = scalar_head(judge, run.seed("head"))
        judge_optimizer, seen = adamw(judge, self.judge_lr), list[Ranked]()
        for step, batch in enumerate(run.batches(data.problems, self.problems)):
            teaches = run.progress * self.iterations % 1 < self.labelled  # where in its iteration the budget stands
            rollouts = roll_out(model, batch, run, self.samples, label)
            facts = drift(model, start, rollouts, step, run)
            if teaches:
                fresh = self.ranked(model, rollouts)
                again = random.Random(run.seed("replay", step)).sample(  # noqa: S311 - data order, not secrets
                    seen, min(len(seen), round(self.replay * len(fresh)))
                )
                facts["wasted"] = 1 - 2 * len(fresh) / len(rollouts.completions)
                facts |= teach(judge, judge_optimizer, [*fresh, *again])
                seen += fresh
            else:
                with torch.no_grad():
                    proxy_R = final_values(judge, rollouts.sequences, judge.heads[HEAD])
                facts |= self.improve(model, rollouts, proxy_R)
                set_rate(optimizer, self.lr * cosine_with_warmup(run))
                update(optimizer)
            run.log(**rollouts.facts(), **facts)  # `reward` is the label's: gold, never the reward model's

    def ranked(self, model: Model, rollouts: Rollouts) -> list[Ranked]:
        """Pairs of a right and a wrong completion of the same problem."""
        prompts = [model.encode_prompt(problem.prompt) for problem in rollouts.problems]
        rows = [(prompts[k // rollouts.n], c.tokens) for k, c in enumerate(rollouts.completions)]
        return [(rows[right], rows[wrong]) for right, wrong in contrasts(rollouts, self.pairs)]

    def improve(self, model: Model, rollouts: Rollouts, proxy_R: torch.Tensor) -> dict[str, float]:
        """GRPO's gradient on the reward model's word: a mean over rows of means over tokens."""
        proxy_Bn = rollouts.by_problem(proxy_R)
        advantage_Bn = (proxy_Bn - proxy_Bn.mean(-1, keepdim=True)) / (proxy_Bn.std(-1, keepdim=True) + EPSILON)
        weight_R = 1 / (len(proxy_R) * rollouts.lengths.clamp(min=1))
        facts = policy_gradient(model, rollouts.sequences, advantage_Bn.view(-1, 1), weight_R)
        return {**facts, "proxy": float(proxy_R.mean())}

    def label(self, data: TrainingData, run: Run) -> Reward:
        """What tells right from wrong for the reward model."""
        del run
        return verified(data)


AdaptiveRewardRLRandomReward = random_reward_twin(AdaptiveRewardRL, decides="label")


@hookimpl
def harness_methods() -> list[type]:
    return [AdaptiveRewardRL, AdaptiveRewardRLRandomReward]
