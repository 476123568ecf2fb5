"""Proximal policy optimisation (PPO): a critic says what each token was worth, and a clip bounds what a batch may move.

Papers: Schulman et al. 2017, arXiv:1707.06347, eq. (7), the clipped surrogate; Schulman et al. 2015, arXiv:1506.02438,
`gae`: delta_t = R_t + gamma V_{t+1} - V_t, A_t = delta_t + gamma lambda A_{t+1}; what makes it work on text, Huang et
al. 2024, arXiv:2403.17031. R_t = - kl_coef k1_t, k1 = log pi_old - log pi_ref, plus the score at the last token.
Data: problems and their verifier; no solution is ever read. Trains: every weight, and a critic that is thrown away.
Cost: rollouts are read by policy, start and critic, then trained on by policy and critic: a quarter of GRPO's samples.
Shapes: B problems, n samples each, R = B n rows; T tokens; K of them in completions. V_t is V before token t is seen.
Left out: a critic made of a reward model, whitened rewards, an adaptive KL coefficient, an entropy bonus.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from harness import Model, Run, TrainingData, hookimpl
from harness.toolbox import (
    Reward,
    Sequences,
    accumulate,
    adamw,
    cosine_with_warmup,
    frozen_copy,
    hidden_states,
    hold,
    kl_estimate,
    length_groups,
    old_logprobs,
    policy_gradient,
    random_reward_twin,
    roll_out,
    scalar_head,
    set_rate,
    update,
    verified,
)

HEAD = "value"


def gae(
    reward_RT: torch.Tensor, value_RT: torch.Tensor, mask_RT: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(R, T) advantages and returns A + V; 0 outside the mask, whatever stands there: V behind the last token is 0."""
    reward_RT, value_RT = reward_RT.masked_fill(~mask_RT, 0), value_RT.masked_fill(~mask_RT, 0)
    advantage_RT = torch.zeros_like(value_RT)
    after_R = next_R = value_RT.new_zeros(len(value_RT))
    for t in reversed(range(value_RT.shape[1])):
        delta_R = reward_RT[:, t] + gamma * next_R - value_RT[:, t]
        after_R = (delta_R + gamma * lam * after_R) * mask_RT[:, t]
        advantage_RT[:, t], next_R = after_R, value_RT[:, t]
    return advantage_RT, advantage_RT + value_RT


def whiten(value_RT: torch.Tensor, mask_RT: torch.Tensor) -> torch.Tensor:
    """(R, T) of mean 0 and variance 1 over the masked tokens, 0 elsewhere; all 0 where they are equal."""
    centred_RT = value_RT - value_RT[mask_RT].mean()
    return (centred_RT * (centred_RT[mask_RT].square().mean() + 1e-8).rsqrt()).masked_fill(~mask_RT, 0)


def value_loss(value_RT: torch.Tensor, old_RT: torch.Tensor, return_RT: torch.Tensor, clip: float) -> torch.Tensor:
    """(R, T) half the squared error of V or of V held within `clip` of its old self, whichever is larger."""
    held_RT = old_RT + (value_RT - old_RT).clamp(-clip, clip)
    return 0.5 * torch.max((value_RT - return_RT) ** 2, (held_RT - return_RT) ** 2)


def values(critic: Model, rows: Sequences) -> torch.Tensor:
    """(R, T) V before each completion token, read where the token before it stands; 0 elsewhere."""
    before_RT = rows.completion_mask.roll(-1, 1)  # the first token of a row is never learnt, so none wraps around
    value_K: torch.Tensor = critic.heads[HEAD](hidden_states(critic, rows, before_RT).float()).squeeze(-1)
    return value_K.new_zeros(before_RT.shape).masked_scatter(rows.completion_mask, value_K)


@torch.no_grad()
def old_values(critic: Model, rows: Sequences) -> torch.Tensor:
    """(R, T) what the critic says before it learns from the rows, whose `index` is their place."""
    value_RT = torch.zeros(rows.completion_mask.shape, device=rows.index.device)
    for group in length_groups(rows):
        value_RT[group.index, : group.input_ids.shape[1]] = values(critic, group)
    return value_RT


def token_rewards(score_R: torch.Tensor, k1_RT: torch.Tensor, mask_RT: torch.Tensor, kl_coef: float) -> torch.Tensor:
    """(R, T) minus kl_coef k1, and the score on the last masked token of each row: `eos`, not padding."""
    last_RT = mask_RT & ~mask_RT.roll(-1, 1)
    return score_R[:, None] * last_RT - kl_coef * k1_RT * mask_RT


def new_critic(model: Model) -> Model:
    """A copy of the policy whose head says 0 of everything: a random one is long wrong by more than rewards vary."""
    critic = model.clone()
    critic.heads[HEAD] = scalar_head(critic)
    return critic


def learn_values(critic: Model, rows: Sequences, old_RT: torch.Tensor, return_RT: torch.Tensor, clip: float) -> float:
    """Add the gradient of the mean of `value_loss` over the rows' tokens; `index` finds rows in the (R, T) tensors."""

    def loss_sum(group: Sequences) -> torch.Tensor:
        before_RT, aim_RT = (x[group.index, : group.input_ids.shape[1]] for x in (old_RT, return_RT))
        return (value_loss(values(critic, group), before_RT, aim_RT, clip) * group.completion_mask).sum()

    return accumulate(rows, loss_sum, rows.tokens)


def minibatches(rows: Sequences, count: int, seeds: Sequence[int]) -> Iterator[Sequences]:
    """The rows, shuffled, in `count` parts, once a seed; `index` still tells where a row stands in the rollouts."""
    for seed in seeds:
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).to(rows.index.device)
        parts = [rows.select(chosen.sort().values) for chosen in order.tensor_split(min(count, len(rows)))]
        yield from (part for part in parts if part.tokens)  # a part may hold only what did not fit the context


@dataclass(frozen=True)
class PPO:
    name: ClassVar[str] = "ppo"
    family: ClassVar[str] = "reinforcement-learning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    problems: int = 8
    """Problems a rollout."""
    samples: int = 2
    """Completions a problem, at temperature 1; few, as no group is needed where a critic is."""
    epochs: int = 1
    """Passes over a rollout."""
    minibatches: int = 2
    """Optimiser steps a pass."""
    lr: float = 2e-4
    """Peak learning rate of the policy's AdamW; suits models of a million parameters."""
    critic_lr: float = 2e-3
    """Peak learning rate of the critic's."""
    warmup: int = 2
    """Rollouts that only the critic learns from: a critic that knows nothing gives advantages that say nothing."""
    lam: float = 1.0
    """GAE's lambda: 1 trusts the rewards, 0 the critic, which knows little in a short run. The discount is 1."""
    clip: float = 0.2
    """How far the ratio may pay on both sides of 1, and how far V may move a rollout; the papers' 0.2."""
    kl_coef: float = 0.05
    """Reward lost a nat of k1 to the start, token by token; arXiv:2403.17031's 0.05."""
    missing_eos: float = -1.0
    """What a completion that was cut at the limit scores, whatever it says; arXiv:2403.17031's -1."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        reward, start, critic = self.reward(data, run), frozen_copy(model), new_critic(model)
        optimizer, critic_optimizer = adamw(model, self.lr), adamw(critic, self.critic_lr)
        for step, batch in enumerate(run.batches(data.problems, self.problems)):
            rollouts = roll_out(model, batch, run, self.samples, reward)
            # Read once, before anything is learnt from them: what ratios and clips are measured from stays.
            rows, mask_RT = rollouts.sequences, rollouts.sequences.completion_mask
            old_RT, start_RT, value_RT = old_logprobs(model, rows), old_logprobs(start, rows), old_values(critic, rows)
            facts = rollouts.facts() | {"kl": float(kl_estimate(old_RT, start_RT).sum()) / max(1, rows.tokens)}
            hold(run, facts["kl"])
            if run.stopped:
                run.log(**facts)
                break
            reward_RT = token_rewards(rollouts.rewards, old_RT - start_RT, mask_RT, self.kl_coef)
            advantage_RT, return_RT = gae(reward_RT, value_RT, mask_RT, 1.0, self.lam)
            advantage_RT, warming = whiten(advantage_RT, mask_RT), step < self.warmup
            seeds = [run.seed("minibatches", step, epoch) for epoch in range(self.epochs)]
            for part in minibatches(rows, self.minibatches, seeds):
                value_clip = math.inf if warming else self.clip  # V starts far from the returns
                facts["value_loss"] = learn_values(critic, part, value_RT, return_RT, value_clip)
                set_rate(critic_optimizer, self.critic_lr * cosine_with_warmup(run))
                update(critic_optimizer)
                if not warming:
                    weight_R = torch.full((len(part),), 1 / part.tokens, device=rows.index.device)  # a mean over tokens
                    old, clip = old_RT[part.index], (self.clip, self.clip)
                    facts |= policy_gradient(model, part, advantage_RT[part.index], weight_R, old_RT=old, clip=clip)
                    set_rate(optimizer, self.lr * cosine_with_warmup(run))
                    update(optimizer)
            run.log(**facts)

    def reward(self, data: TrainingData, run: Run) -> Reward:
        """The verifier, and `missing_eos` where the completion does not end."""
        del run
        right, cut = verified(data), self.missing_eos
        return lambda problem, completion: cut if completion.finish == "length" else right(problem, completion)


PPORandomReward = random_reward_twin(PPO)


@hookimpl
def harness_methods() -> list[type]:
    return [PPO, PPORandomReward]
