"""DAPO: GRPO with a clip that is wider above, batches of groups that teach, a mean over tokens, a fee for length.

Paper: Yu et al. 2025, arXiv:2503.14476. Sec. 3.1, clip-higher: clip(rho, 1 - low, 1 + high), rho = pi / pi_old, so that
rare tokens have room to grow. Sec. 3.2, dynamic sampling: groups all right or all wrong are dropped, and further
problems drawn until the batch is full. Sec. 3.3: the loss is - sum_it min(rho A, clip(rho) A) / sum_i |y_i| over the
batch. Sec. 3.4, soft overlong punishment: `length_penalty`. Sec. 2.4: the reward is 1 or -1. No KL term (sec. 2.3).
Data: problems and their verifier; no solution is ever read. Trains: every weight.
Cost: `samples` completions of each problem drawn, dropped groups included; those kept are trained on once, and all but
the first part's are scored once.
Shapes: B problems, n samples each, R = B n rows, T tokens. Differs: the last draw's surplus of groups is learnt from,
not thrown away; after `draws` draws the batch is what there is. Groups still in hand when the budget ends are lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from harness import Completion, Model, Problem, Run, TrainingData, hookimpl
from harness.toolbox import (
    Rollouts,
    adamw,
    collate,
    cosine_with_warmup,
    drift,
    frozen_copy,
    old_logprobs,
    policy_gradient,
    roll_out,
    set_rate,
    update,
    verified,
)

EPSILON = 1e-4
"""Beside the standard deviation, as in TRL."""
Group = tuple[Problem, Sequence[Completion], torch.Tensor]
"""(problem, its n completions, their (n,) rewards, 1 for right and 0 for wrong)"""


def mixed_groups(rollouts: Rollouts) -> list[Group]:
    """The groups whose rewards differ: of the others, every advantage is 0."""
    reward_Bn, n = rollouts.by_problem(rollouts.rewards), rollouts.n
    groups = [(p, rollouts.completions[b * n : (b + 1) * n], reward_Bn[b]) for b, p in enumerate(rollouts.problems)]
    return [group for group in groups if (group[2] != group[2][0]).any()]


def length_penalty(length_R: torch.Tensor, longest: int, cache: float) -> torch.Tensor:
    """(R,) 0 up to `longest` - `cache` tokens, from there in a line down to -1 at `longest`."""
    return ((longest - cache - length_R) / cache).clamp(-1, 0)


def group_advantages(reward_Bn: torch.Tensor) -> torch.Tensor:
    """(B, n) advantages (r - mean) / std of each group."""
    centred_Bn = reward_Bn - reward_Bn.mean(-1, keepdim=True)
    return centred_Bn / (reward_Bn.std(-1, keepdim=True) + EPSILON)


@dataclass(frozen=True)
class DAPO:
    name: ClassVar[str] = "dapo"
    family: ClassVar[str] = "reinforcement-learning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    problems: int = 8
    """Problems a draw, and groups that fill a batch."""
    samples: int = 8
    """Completions a problem, at temperature 1: the group. At least 2."""
    draws: int = 4
    """Most draws for one batch: where nearly nothing is mixed, no budget would ever fill it."""
    updates: int = 2
    """Parts of a batch, each learnt from in one optimiser step: the clip acts from the second on. The paper has 16."""
    clip_low: float = 0.2
    """How far below 1 the ratio may pay; the paper's."""
    clip_high: float = 0.28
    """How far above 1 the ratio may pay; the paper's."""
    cache: float = 0.2
    """Share of the longest completion over which the penalty grows, above 0; the paper's 4096 of 20480 tokens."""
    lr: float = 3e-4
    """Peak learning rate of AdamW; suits models of a million parameters (the paper's 1e-6 suits billions)."""

    def __post_init__(self) -> None:
        for name, least in (("samples", 2), ("draws", 1), ("updates", 1), ("cache", 1e-3)):
            if getattr(self, name) < least:
                msg = f"{name} of {self.name} must be at least {least}, not {getattr(self, name)}"
                raise ValueError(msg)

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        reward, start, optimizer = verified(data), frozen_copy(model), adamw(model, self.lr)
        kept: list[Group] = []
        draws = 0
        for step, batch in enumerate(run.batches(data.problems, self.problems)):
            rollouts = roll_out(model, batch, run, self.samples, reward)
            mixed = mixed_groups(rollouts)
            kept, draws = kept + mixed, draws + 1
            facts = drift(model, start, rollouts, step, run)
            facts |= {"wasted": 1 - len(mixed) / len(batch), "groups": float(len(kept))}
            if len(kept) >= self.problems or draws == self.draws:
                facts |= self.learn(model, kept, run, optimizer)
                kept, draws = [], 0
            run.log(**rollouts.facts(), **facts)

    def learn(
        self, model: Model, groups: Sequence[Group], run: Run, optimizer: torch.optim.Optimizer
    ) -> dict[str, float]:
        """Update on each part of the batch in turn. Returns facts of the last part, for which the policy had moved."""
        if not groups:
            return {}
        rows = collate(model, [(model.encode_prompt(p.prompt), c.tokens) for p, drawn, _ in groups for c in drawn])
        length_R = rows.completion_mask.sum(-1).float()
        penalty_R = length_penalty(length_R, run.max_new_tokens, self.cache * run.max_new_tokens)
        right_Bn = torch.stack([reward_n for _, _, reward_n in groups])
        advantage_R = group_advantages(2 * right_Bn - 1 + penalty_R.view_as(right_Bn)).flatten()
        places = torch.arange(len(rows), device=rows.index.device).tensor_split(self.updates)
        parts = [rows.select(some) for some in places]
        # Of the policy that drew them, before it moves; for the first part it is the policy in training itself.
        olds = [None, *(old_logprobs(model, part) for part in parts[1:])]
        facts: dict[str, float] = {}
        for some, part, old_RT in zip(places, parts, olds, strict=True):
            weight_R = torch.full_like(length_R[some], self.updates / rows.tokens)
            clip = (self.clip_low, self.clip_high)
            facts = policy_gradient(model, part, advantage_R[some, None], weight_R, old_RT=old_RT, clip=clip)
            set_rate(optimizer, self.lr * cosine_with_warmup(run))
            update(optimizer)
        return facts | {"penalty": float(penalty_R.mean())}


@hookimpl
def harness_methods() -> list[type]:
    return [DAPO]
