"""Reinforcement learning from human feedback (RLHF) in one budget: a reward model, then a policy that pleases it.

Papers: Ouyang et al. 2022, arXiv:2203.02155, eq. (1): the reward model's - log sigmoid(r_better - r_worse). Gao et al.
2022, arXiv:2210.10760: the proxy may rise while the truth falls, so the curve logs both, and the KL to the start. The
policy step is leaner than the paper's PPO, without a critic: REINFORCE with a leave-one-out baseline (RLOO), Ahmadian
et al. 2024, arXiv:2402.14740. The KL is in the reward: R_i = r_i - kl_coef sum_t k1_t, k1 = log pi - log pi_ref.
Data: problems; the verifier, in the human's place, says which of two samples of the start is better, and is otherwise
only logged. Trains: every weight of the policy, and of a reward model that is thrown away. Cost: samples and pairs;
each rollout is read by reward model, policy and start, and trained on. Left out: the mix of pretraining gradients.
Shapes: B problems, n samples each, R = B n rows; T tokens; P pairs.
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
    cosine_with_warmup,
    final_values,
    frozen_copy,
    kl_estimate,
    old_logprobs,
    policy_gradient,
    random_reward_twin,
    roll_out,
    scalar_head,
    set_rate,
    update,
    verified,
)

HEAD = "proxy"


def leave_one_out(reward_Bn: torch.Tensor) -> torch.Tensor:
    """(B, n) rewards minus the mean of the OTHER samples of the same problem."""
    return (reward_Bn - reward_Bn.mean(-1, keepdim=True)) * (reward_Bn.shape[1] / (reward_Bn.shape[1] - 1))


def pairs(rollouts: Rollouts) -> list[tuple[int, int]]:
    """(better, worse): rows of completions of the same problem, no completion twice."""
    labels, found = (rollouts.rewards > 0).tolist(), list[tuple[int, int]]()
    for first in range(0, len(labels), rollouts.n):
        rows = {rollouts.completions[row].tokens: row for row in range(first, first + rollouts.n)}.values()
        found += zip([r for r in rows if labels[r]], [r for r in rows if not labels[r]], strict=False)
    return found


def learn_reward(judge: Model, rollouts: Rollouts) -> dict[str, float]:
    """Add the gradient of eq. (1) over the pairs of labelled rollouts; none where nothing can be compared."""
    found = pairs(rollouts)
    wasted = 1 - 2 * len(found) / len(rollouts.completions)
    if not found:
        return {"wasted": wasted}
    rows = rollouts.sequences.select(torch.tensor(found, device=rollouts.rewards.device).T.flatten())
    better_P, worse_P = final_values(judge, rows, judge.heads[HEAD]).chunk(2)
    loss = -torch.nn.functional.logsigmoid(better_P - worse_P).mean()  # Eq. (1)
    loss.backward()  # type: ignore[no-untyped-call]
    return {"wasted": wasted, "judge_loss": loss.item(), "ranked": float((better_P > worse_P).float().mean())}


@dataclass(frozen=True)
class RLHF:
    name: ClassVar[str] = "rlhf"
    family: ClassVar[str] = "reinforcement-learning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    judge_share: float = 0.4
    """Share of the budget that goes into the reward model, its samples included; the policy has the problems behind."""
    problems: int = 16
    """Problems an optimiser step, of the reward model and of the policy."""
    samples: int = 4
    """Completions a problem, at temperature 1; few, so that no problem gives many more pairs than another."""
    lr: float = 3e-4
    """Peak learning rate of AdamW, the reward model's and the policy's; suits models of a million parameters."""
    kl_coef: float = 0.05
    """Proxy reward lost a nat of k1 to the start, summed over the completion."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        if self.samples <= 1:
            msg = f"rlhf: samples is {self.samples}; set it to 2 or more, as a completion is compared with the others"
            raise ValueError(msg)
        label, start, judge, centre = self.label(data, run), frozen_copy(model), model.clone(), None
        head = judge.heads[HEAD] = scalar_head(
            judge
        )  # it says 0 of everything: before the first pair it teaches nothing
        judge_optimizer, optimizer = adamw(judge, self.lr), adamw(model, self.lr)
        for batch in run.batches(data.problems, self.problems):
            if run.progress < self.judge_share:
                facts = learn_reward(judge, roll_out(start, batch, run, self.samples, label))
                set_rate(judge_optimizer, self.lr * cosine_with_warmup(run, end=self.judge_share))
                update(judge_optimizer)
            else:
                rollouts = roll_out(model, batch, run, self.samples, verified(data))  # logged, never learnt from
                with torch.no_grad():
                    proxy_R = final_values(judge, rollouts.sequences, head)
                centre = proxy_R.mean() if centre is None else centre  # the first rollout is the start's own
                facts = self.step(model, start, rollouts, proxy_R - centre)
                set_rate(optimizer, self.lr * cosine_with_warmup(run, begin=self.judge_share))
                update(optimizer)
            run.log(**facts)

    def step(self, model: Model, start: Model, rollouts: Rollouts, proxy_R: torch.Tensor) -> dict[str, float]:
        rows, tokens = rollouts.sequences, max(1, rollouts.sequences.tokens)
        old_RT, start_RT = old_logprobs(model, rows), old_logprobs(start, rows)
        reward_R = proxy_R - self.kl_coef * (old_RT - start_RT).sum(-1)  # k1, without gradient
        advantage_R = leave_one_out(rollouts.by_problem(reward_R)).view(-1)
        # Whole completions are the actions, so their log-probabilities are summed, and one constant divides all.
        facts = policy_gradient(model, rows, advantage_R[:, None], torch.full_like(reward_R, 1 / tokens))
        facts |= rollouts.facts() | {"kl": float(kl_estimate(old_RT, start_RT).sum()) / tokens}
        return facts | {"proxy": float(proxy_R.mean()), "gold": facts.pop("reward")}

    def label(self, data: TrainingData, run: Run) -> Reward:
        """What says which completion is better."""
        del run
        return verified(data)


RLHFRandomReward = random_reward_twin(RLHF, decides="label")


@hookimpl
def harness_methods() -> list[type]:
    return [RLHF, RLHFRandomReward]
