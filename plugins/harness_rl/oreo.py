"""Offline reasoning optimisation (OREO): policy and value learn, token by token, the soft Bellman equation.

Paper: Wang et al. 2024, arXiv:2412.16145. R is the reward at the end, S_t the sum of log pi/pi_ref from token t on: of
the best policy and its value, V(s_t) = R - beta S_t holds at every t. Both losses are mean_t (V(s_t) + beta S_t - R)^2:
the value's has no gradient through S, the policy's one only through token t's own log-ratio; alpha KL is added to it.
Data: completions of train problems, drawn once from the model as it was at the start, which is the reference as well,
and verified; of each problem as many right ones as wrong ones. Trains: every weight and the value head.
V is a linear head on the policy's own last hidden states, detached: its loss moves V alone, one pass serves both, and
the checkpoint is policy and scorer in one. Added: V also learns R behind the last token, where `score` reads it.
The KL is k3 on the data: from the reference, whose samples they are, to the policy. Cost: `share` goes into the data.
Shapes: R rows, T tokens, K completion tokens, S states, D width. Left out: new data as the policy moves, a trunk of V's
own (a checkpoint holds one model), steps as actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from harness import Completion, Model, Prompt, Run, Scores, TrainingData, hookimpl
from harness.toolbox import (
    Reward,
    Sequences,
    adamw,
    collate,
    contrasts,
    cosine_with_warmup,
    descend,
    final_values,
    hold,
    kl_estimate,
    old_logprobs,
    random_reward_twin,
    read_completions,
    roll_out,
    scalar_head,
    set_rate,
    verified,
)

HEAD = "oreo-value"
Batch = tuple[Sequences, torch.Tensor, torch.Tensor]
"""Rows, their (R,) rewards and the (R, T) log-probabilities of the reference."""


def losses(
    value_RT: torch.Tensor, ratio_RT: torch.Tensor, reward_R: torch.Tensor, mask_RT: torch.Tensor, beta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of value and policy. value: of the state that ends with each token; ratio: log pi/pi_ref, 0 outside the mask."""
    later_RT = (ratio_RT.flip(-1).cumsum(-1).flip(-1) - ratio_RT).detach()  # S behind each token
    value_error_RT = value_RT + beta * later_RT - reward_R[:, None]
    policy_error_RT = value_RT.detach().roll(1, 1) + beta * (ratio_RT + later_RT) - reward_R[:, None]
    return value_error_RT[states(mask_RT)].square().mean(), policy_error_RT[mask_RT].square().mean()


def read(model: Model, rows: Sequences) -> tuple[torch.Tensor, torch.Tensor]:
    """(R, T) values of the states that end with each token and log-probabilities of tokens, as `losses` takes them."""
    hidden_RTD, logprob_RT = read_completions(model, rows)
    value_RT: torch.Tensor = model.heads[HEAD](hidden_RTD.detach()).squeeze(-1)
    return value_RT * states(rows.completion_mask), logprob_RT


def states(mask_RT: torch.Tensor) -> torch.Tensor:
    """(R, T): the tokens that a state of the completion ends with, from the last of the prompt to its own last."""
    return mask_RT | mask_RT.roll(-1, 1)  # a row's first token is prompt: none wraps around


@dataclass(frozen=True)
class OREO:
    name: ClassVar[str] = "oreo"
    family: ClassVar[str] = "reinforcement-learning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    trains_policy: ClassVar[bool] = True
    share: float = 0.4
    """Share of the budget that goes into drawing data."""
    problems: int = 12
    """Problems drawn at a time; what is kept of them is the batch of an optimiser step."""
    samples: int = 8
    """Completions a problem, at temperature 1."""
    kept: int = 2
    """Right completions kept a problem at most, and wrong ones."""
    beta: float = 0.03
    """Price of a nat of log pi/pi_ref, in units of reward."""
    alpha: float = 0.01
    """Weight of the KL, 1/nat. Without it, nothing stops the log-probability of wrong completions from falling."""
    lr: float = 1e-4
    """Peak learning rate of the policy; suits models of a million parameters. At 3e-4 a run ended below its start."""
    value_lr: float = 3e-3
    """Peak learning rate of the value head, which is linear and begins at 0."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        optimizer, head = adamw(model, self.lr), scalar_head(model)
        torch.nn.init.constant_(head.bias, 0.5)  # the mean reward of as many right rows as wrong ones
        model.heads[HEAD] = head
        value_optimizer = torch.optim.AdamW(head.parameters(), weight_decay=0.0)
        for [(rows, reward_R, reference_RT)] in run.batches(self.collect(model, data, run), 1):
            value_RT, logprob_RT = read(model, rows)
            mask_RT, ratio_RT = rows.completion_mask, logprob_RT - reference_RT
            value, policy = losses(value_RT, ratio_RT, reward_R, mask_RT, self.beta)
            kl = kl_estimate(reference_RT, logprob_RT)[mask_RT].mean()
            rate = cosine_with_warmup(run, begin=self.share)
            set_rate(optimizer, self.lr * rate)
            set_rate(value_optimizer, self.value_lr * rate)
            descend(value, value_optimizer)
            descend(policy + self.alpha * kl, optimizer)
            last_R = value_RT.detach().gather(-1, rows.lengths[:, None] - 1).squeeze(-1)
            hold(run, kl.item())
            gap = last_R[reward_R > 0].mean() - last_R[reward_R <= 0].mean()  # what V knows at the end of a row
            run.log(loss=value.item(), kl=kl.item(), gap=gap.item())

    def collect(self, model: Model, data: TrainingData, run: Run) -> list[Batch]:
        """The data, batch by batch."""
        reward, batches = self.reward(data, run), list[Batch]()
        for problems in run.batches(data.problems, self.problems):
            if run.progress >= self.share:
                break
            rollouts = roll_out(model, problems, run, self.samples, reward)
            kept = sorted(row for pair in contrasts(rollouts, self.kept) for row in pair)
            run.log(**rollouts.facts(), wasted=1 - len(kept) / len(rollouts.completions))
            if kept:
                rows = rollouts.sequences.select(torch.tensor(kept, device=rollouts.rewards.device))
                batches.append((rows, rollouts.rewards[kept], old_logprobs(model, rows)))
        if not batches:
            msg = "oreo: no problem drew both right and wrong completions; draw more, or start from a better model"
            raise ValueError(msg)
        return batches

    @torch.no_grad()
    def score(self, model: Model, prompt: Prompt, completions: Sequence[Completion], run: Run) -> list[Scores]:
        del run  # the meter sees the forward pass by itself
        ids = model.encode_prompt(prompt)
        rows = collate(model, [(ids, c.tokens) for c in completions])
        return [Scores(value) for value in final_values(model, rows, model.heads[HEAD]).tolist()]

    def reward(self, data: TrainingData, run: Run) -> Reward:
        """What a completion is worth."""
        del run
        return verified(data)


OREORandomReward = random_reward_twin(OREO)


@hookimpl
def harness_methods() -> list[type]:
    return [OREO, OREORandomReward]
