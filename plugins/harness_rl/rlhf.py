"""Reinforcement learning from human feedback (RLHF) in one budget: a reward model, then a policy that pleases it.

Papers: Ouyang et al. 2022, arXiv:2203.02155, eq. (1): the reward model's - log sigmoid(r_better - r_worse), over all
comparisons of a problem's completions. Gao et al. 2022, arXiv:2210.10760: the proxy may rise while the
truth falls, so the curve logs both, and the KL to the start. The policy step is leaner than the paper's PPO, without a
critic: REINFORCE with a leave-one-out baseline (RLOO), Ahmadian et al. 2024, arXiv:2402.14740. The KL is in the loss,
kl_coef sum_t k2_t, k2 = (log pi - log pi_ref)^2 / 2, whose gradient is that of KL(pi || pi_ref).
The reward model is a linear head on the frozen start, of hidden state and log-probabilities (`read_states`): one pass
gives reward and reference. A copy with all weights trained knew less from as few comparisons.
Data: problems; the verifier, in the human's place, says which samples of the start are better, and else is only logged.
Trains: the policy's weights, and the head, which is thrown away. Cost: samples and comparisons; each rollout is read by
the start, and trained on. Left out: the mix of pretraining gradients.
Shapes: B problems, n samples each, R = B n rows; T tokens; M problems whose samples can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

from harness import Model, Run, TrainingData, hookimpl
from harness.toolbox import (
    Reward,
    Rollouts,
    Sequences,
    accumulate,
    adamw,
    check_fields,
    cosine_with_warmup,
    frozen_copy,
    hold,
    kl_estimate,
    random_reward_twin,
    read_states,
    roll_out,
    scalar_head,
    set_rate,
    token_logprobs,
    update,
    verified,
)


def leave_one_out(reward_Bn: torch.Tensor) -> torch.Tensor:
    """(B, n) rewards minus the mean of the OTHER samples of the same problem."""
    return (reward_Bn - reward_Bn.mean(-1, keepdim=True)) * (reward_Bn.shape[1] / (reward_Bn.shape[1] - 1))


def rewards(start: Model, head: torch.nn.Module, rows: Sequences) -> tuple[torch.Tensor, torch.Tensor]:
    """(R,) what the reward model says of each completion, and (R, T) the start's log-probabilities in nats."""
    with torch.no_grad():
        state_RTF, logprob_RT = read_states(start, rows)
    return head(state_RTF[torch.arange(len(rows)), rows.lengths - 1]).squeeze(-1), logprob_RT


def learn_reward(start: Model, head: torch.nn.Module, rollouts: Rollouts) -> dict[str, float]:
    """Add the gradient of eq. (1) over labelled rollouts; none where nothing can be compared."""
    better_Bn = rollouts.by_problem(rollouts.rewards) > 0
    compared_Bnn = better_Bn[:, :, None] & ~better_Bn[:, None, :]
    mixed_B = compared_Bnn.any((1, 2))
    facts = {"wasted": 1 - float(mixed_B.float().mean())}
    if not mixed_B.any():
        return facts
    rows = rollouts.sequences.select(mixed_B.repeat_interleave(rollouts.n).nonzero(as_tuple=True)[0])
    value_Mn = rewards(start, head, rows)[0].view(-1, rollouts.n)
    gap_Mnn, share_Mnn = value_Mn[:, :, None] - value_Mn[:, None, :], compared_Bnn[mixed_B].float()
    share_Mnn /= share_Mnn.sum((1, 2), keepdim=True)  # every problem weighs the same, however it can be compared
    loss = -(share_Mnn * F.logsigmoid(gap_Mnn)).sum() / len(share_Mnn)  # Eq. (1)
    loss.backward()  # type: ignore[no-untyped-call]
    return {**facts, "judge_loss": loss.item(), "ranked": float((share_Mnn * (gap_Mnn > 0)).sum()) / len(share_Mnn)}


@dataclass(frozen=True)
class RLHF:
    name: ClassVar[str] = "rlhf"
    family: ClassVar[str] = "reinforcement-learning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    judge_share: float = 0.25
    """Share of the budget that goes into the reward model, its samples included; the policy has the problems behind."""
    problems: int = 16
    """Problems an optimiser step, of the reward model and of the policy."""
    judged: int = 8
    """Completions a problem that the reward model compares, at temperature 1."""
    judge_lr: float = 3e-2
    """Peak learning rate of the reward model's AdamW."""
    samples: int = 4
    """Completions a problem that the policy learns from, at temperature 1."""
    lr: float = 3e-4
    """Peak learning rate of the policy's; both suit models of a million parameters."""
    kl_coef: float = 0.05
    """Price of a nat of k2 to the start, summed over the completion, in proxy reward."""

    def __post_init__(self) -> None:
        enough = "2 or more, to have something to compare"
        check_fields(self, ("judged", self.judged > 1, enough), ("samples", self.samples > 1, enough))

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        label, start, centre = self.label(data, run), frozen_copy(model), None
        # The head says 0 of everything: before the first comparison it teaches nothing.
        head = scalar_head(start, features=2)
        judge_optimizer, optimizer = torch.optim.AdamW(head.parameters(), weight_decay=0.0), adamw(model, self.lr)
        for batch in run.batches(data.problems, self.problems):
            if run.progress < self.judge_share:
                facts = learn_reward(start, head, roll_out(start, batch, run, self.judged, label))
                set_rate(judge_optimizer, self.judge_lr * cosine_with_warmup(run, end=self.judge_share))
                update(judge_optimizer)
            else:
                rollouts = roll_out(model, batch, run, self.samples, verified(data))  # logged, never learnt from
                proxy_R, start_RT = torch.no_grad()(rewards)(start, head, rollouts.sequences)
                centre = proxy_R.mean() if centre is None else centre  # the first rollout is the start's own
                facts = self.step(model, start_RT, rollouts, proxy_R - centre)
                hold(run, facts["kl"])
                set_rate(optimizer, self.lr * cosine_with_warmup(run, begin=self.judge_share))
                update(optimizer)
            run.log(**facts)

    def step(self, model: Model, start_RT: torch.Tensor, rollouts: Rollouts, proxy_R: torch.Tensor) -> dict[str, float]:
        """Add the gradient of - sum_i (A_i log pi(y_i) - kl_coef k2_i), over the tokens of all rows."""
        rows, tokens, kl, entropy = rollouts.sequences, max(1, rollouts.sequences.tokens), 0.0, 0.0
        advantage_R = leave_one_out(rollouts.by_problem(proxy_R)).view(-1)
        kl_coef = self.kl_coef if advantage_R.any() else 0.0  # or AdamW would make a step of the KL's rounding errors

        def loss_sum(group: Sequences) -> torch.Tensor:
            nonlocal kl, entropy
            logprob_RT, before_RT = token_logprobs(model, group), start_RT[group.index, : group.input_ids.shape[1]]
            kl += float(kl_estimate(logprob_RT.detach(), before_RT).sum())
            entropy -= float(logprob_RT.detach().sum())
            price_RT = kl_coef * (logprob_RT - before_RT).square() / 2
            return -(advantage_R[group.index] * logprob_RT.sum(-1)).sum() + price_RT.sum()

        # Whole completions are the actions, so their log-probabilities are summed, and one constant divides all.
        accumulate(rows, loss_sum, tokens)
        facts = rollouts.facts() | {"kl": kl / tokens, "entropy": entropy / tokens}
        return facts | {"proxy": float(proxy_R.mean()), "gold": facts.pop("reward")}

    def label(self, data: TrainingData, run: Run) -> Reward:
        """What says which completion is better."""
        del run
        return verified(data)


RLHFRandomReward = random_reward_twin(RLHF, decides="label")


@hookimpl
def harness_methods() -> list[type]:
    return [RLHF, RLHFRandomReward]
