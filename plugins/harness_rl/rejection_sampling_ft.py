"""Rejection-sampling fine-tuning (RFT, RAFT): sample, keep what is right, fine-tune on it; again from there.

Papers: Yuan et al. 2023 (RFT), arXiv:2308.01825: right, distinct samples of a problem are its training data. Dong et
al. 2023 (RAFT), arXiv:2304.06767: in rounds, each sampling from the policy that the last one trained. Kept of a round:
D = {(x, y_i): y_i ~ pi(.|x), i <= n, r(x, y_i) = 1}, each text once a problem, at most `most` a problem. The loss is
the mean of - log pi over the tokens of a batch of D; nothing is learnt from what is wrong.
Data: problems and their verifier; no solution is ever read. Trains: every weight. A round CONTINUES from the last one's
weights; it does not restart from the base (as RFT and STaR do).
Cost: `samples` completions a problem, and one training pass over those kept. Left out: RFT's temperature of 0.7 (this
is 1), its worked solutions beside the samples, and its comparison by equations: two texts that differ are distinct.
A right answer may end a wrong derivation; nothing here can tell.
Shapes: B problems, n samples each, R = B n rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from harness import Model, Run, TrainingData, hookimpl
from harness.toolbox import (
    Reward,
    Rollouts,
    adamw,
    completion_loss,
    cosine_with_warmup,
    random_reward_twin,
    roll_out,
    set_rate,
    update,
    verified,
)


def keep(rollouts: Rollouts, most: int) -> list[int]:
    """Rows to learn from: right, ended by the model itself, no text twice in a problem, the first `most` of each.

    A completion that was cut at the limit has no `eos`: learning it would teach not to stop.
    """
    kept: list[int] = []
    for first in range(0, len(rollouts.completions), rollouts.n):
        distinct: dict[str, int] = {}
        for row in range(first, first + rollouts.n):
            completion = rollouts.completions[row]
            if rollouts.rewards[row] > 0 and completion.finish == "eos":
                distinct.setdefault(completion.text, row)
        kept += list(distinct.values())[:most]
    return kept


@dataclass(frozen=True)
class RejectionSamplingFT:
    name: ClassVar[str] = "rejection-sampling-ft"
    family: ClassVar[str] = "reinforcement-learning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    problems: int = 16
    """Problems a round."""
    samples: int = 8
    """Completions drawn a problem, at temperature 1."""
    most: int = 4
    """Completions kept a problem at most, so that easy problems do not outweigh the others."""
    batch_size: int = 32
    """Completions an optimiser step."""
    lr: float = 3e-4
    """Peak learning rate of AdamW; suits models of a million parameters."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        reward, optimizer = self.reward(data, run), adamw(model, self.lr)
        for batch in run.batches(data.problems, self.problems):
            rollouts = roll_out(model, batch, run, self.samples, reward)
            kept = keep(rollouts, self.most)
            solved = len({row // rollouts.n for row in kept})
            run.log(**rollouts.facts(), coverage=solved / len(batch), wasted=1 - len(kept) / len(rollouts.completions))
            if not kept:  # no problem solved: there is nothing right to learn from
                continue
            for rows in run.batches(kept, self.batch_size, epochs=1):
                index = torch.tensor(rows, device=rollouts.rewards.device)
                loss = completion_loss(model, rollouts.sequences.select(index))
                set_rate(optimizer, self.lr * cosine_with_warmup(run))
                update(optimizer)
                run.log(loss=loss)

    def reward(self, data: TrainingData, run: Run) -> Reward:
        """Whether a completion is right, 1 or 0."""
        del run
        return verified(data)


RejectionSamplingFTRandomReward = random_reward_twin(RejectionSamplingFT)


@hookimpl
def harness_methods() -> list[type]:
    return [RejectionSamplingFT, RejectionSamplingFTRandomReward]
