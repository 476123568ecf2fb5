"""Reasoning-oriented reinforcement learning: right answers alone teach the base model to think before it answers.

Papers: DeepSeek-AI 2025 (DeepSeek-R1), arXiv:2501.12948, its R1-Zero. The update is that of Liu et al. 2025 (Dr. GRPO),
arXiv:2503.20783: A_i = r_i - mean r within the group, and every token of every completion weighs the same,
L = - 1/(R L_max) sum_i A_i sum_t rho_it: a mean per completion makes long wrong answers cheap, and here length grows.
Data: problems and their verifier; no solution, no cue, no fine-tuning before. Trains: every weight.
Cost: `samples` completions a problem are drawn, and those of groups whose rewards differ trained on once.
Shapes: B problems, n samples each, R = B n rows. Left out: the reward for a format (nothing but right answers pays, so
what it learns about thinking it found by itself) and the KL term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness import Completion, Model, Run, TrainingData, hookimpl
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


def thinks(completion: Completion) -> bool:
    """Whether something stands before the last line, the answer's."""
    return "\n" in completion.text.strip()


@dataclass(frozen=True)
class ReasoningRL:
    name: ClassVar[str] = "reasoning-rl"
    family: ClassVar[str] = "reinforcement-learning"
    after: ClassVar[tuple[str, ...]] = ()
    problems: int = 4
    """Problems an optimiser step."""
    samples: int = 16
    """Completions a problem, at temperature 1: many, as few of a base model's are right."""
    lr: float = 3e-4
    """Peak learning rate of AdamW; suits models of a million parameters."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        reward, start, optimizer = self.reward(data, run), frozen_copy(model), adamw(model, self.lr)
        for step, batch in enumerate(run.batches(data.problems, self.problems)):
            rollouts = roll_out(model, batch, run, self.samples, reward)
            facts = drift(model, start, rollouts, step, run)
            reward_Bn = rollouts.by_problem(rollouts.rewards)
            advantage_Bn = reward_Bn - reward_Bn.mean(-1, keepdim=True)
            rows = len(rollouts.rewards)
            weight_R = rollouts.rewards.new_full((rows,), 1 / (rows * run.max_new_tokens))
            facts |= policy_gradient(model, rollouts.sequences, advantage_Bn.view(-1, 1), weight_R)
            set_rate(optimizer, self.lr * cosine_with_warmup(run))
            update(optimizer)
            wasted = float((advantage_Bn == 0).all(-1).float().mean())  # groups that taught nothing
            thinking = sum(map(thinks, rollouts.completions)) / len(rollouts.completions)
            run.log(**rollouts.facts(), **facts, wasted=wasted, thinking=thinking)

    def reward(self, data: TrainingData, run: Run) -> Reward:
        """What a completion is worth."""
        del run
        return verified(data)


ReasoningRLRandomReward = random_reward_twin(ReasoningRL)


@hookimpl
def harness_methods() -> list[type]:
    return [ReasoningRL, ReasoningRLRandomReward]
