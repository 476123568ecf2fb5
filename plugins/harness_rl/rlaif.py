"""Reinforcement learning from AI feedback (RLAIF): another model says which of two fresh completions is better.

Papers: Lee et al. 2023, arXiv:2309.00267 (a judge's soft preferences, averaged over both orders of the candidates);
Guo et al. 2024, arXiv:2402.04792, for learning from them by online DPO instead of a reward model. With s in [-1, 1] the
judge's P(first) - P(second), and h the difference of the two SUMMED log-ratios to the start,
L = - (1 + s)/2 log sigmoid(beta h) - (1 - s)/2 log sigmoid(- beta h).
The judge compares by `scores`, its mean log-probability a token of each completion: both orders agree, and brevity is
not paid for. Or, if it follows instructions, by `tokens`: its next word, 1 or 2, after a prompt with both candidates.
What cannot be judged is a tie: a next word that is neither, a text that does not fit, or twice the same completion.
Data: problems; the verifier is watched beside the judge, never learnt from. Trains: every weight.
Cost: two completions a problem drawn, and read by policy and start; what the judge reads is booked, not budgeted.
Shapes: B problems, R = 2B rows, V words. Left out: the reasoning that a judge may write before it judges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

from harness import Model, Run, TrainingData, hookimpl
from harness.toolbox import (
    Judge,
    Rollouts,
    adamw,
    check_fields,
    coin,
    compare_by_scores,
    compare_by_tokens,
    completion_logprob,
    cosine_with_warmup,
    descend,
    frozen_copy,
    hold,
    roll_out,
    set_rate,
    verified,
)


def preference(forth_B: torch.Tensor, back_B: torch.Tensor) -> torch.Tensor:
    """(B,) s = P(first) - P(second), the mean of both orders: exactly negated where the candidates are swapped.

    An order about which nothing was said is a tie.
    """
    forth_B, back_B = forth_B.nan_to_num(0.0), back_B.nan_to_num(0.0)
    return ((forth_B / 2).tanh() - (back_B / 2).tanh()) / 2  # tanh(x / 2) = sigmoid(x) - sigmoid(-x)


def soft_dpo_loss(ratio_R: torch.Tensor, preference_B: torch.Tensor, beta: float) -> torch.Tensor:
    """Scalar from (R,) summed log-ratios, the B first completions in front; with s = 1 it is DPO's."""
    first_B, second_B = ratio_R.chunk(2)
    logit_B = beta * (first_B - second_B)
    first, second = (1 + preference_B) / 2, (1 - preference_B) / 2
    return -(first * F.logsigmoid(logit_B) + second * F.logsigmoid(-logit_B)).mean()


def agreement(preference_B: torch.Tensor, rollouts: Rollouts) -> dict[str, float]:
    """How often the judge sides with the verifier, where that tells the two apart, and with the longer completion."""
    facts = {"ties": float((preference_B == 0).float().mean())}
    for name, values_R in (("agreement", rollouts.rewards), ("longer", rollouts.lengths)):
        first_B, second_B = rollouts.by_problem(values_R).unbind(-1)
        sides_B = (preference_B * (first_B - second_B)).sign()[first_B != second_B]
        if len(sides_B):
            facts[name] = float((1 + sides_B).mean() / 2)  # a tie is half right
    return facts


@dataclass(frozen=True)
class RLAIF:
    name: ClassVar[str] = "rlaif"
    family: ClassVar[str] = "reinforcement-learning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    models: ClassVar[tuple[str, ...]] = ("judge",)
    judge: str = "tiny-teacher"
    """The model that judges, frozen; not the policy's own start, which would prefer what it is itself."""
    compare: str = "scores"
    """`scores` or `tokens`, see above."""
    cue: str = "Let's think step by step."
    """Put behind the question for the judge alone, when it scores; empty for one that thinks unasked."""
    temperature: float = 0.1
    """Divides the gap of two scores, in nats a token: the smaller, the more decided the judge."""
    problems: int = 16
    """Problems an optimiser step."""
    beta: float = 0.5
    """Pull towards the start, 1/nat; DPO's."""
    lr: float = 1e-4
    """Peak learning rate; suits models of a million parameters."""

    def __post_init__(self) -> None:
        check_fields(self, ("compare", self.compare in ("scores", "tokens"), "scores or tokens"))

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        judge, start, optimizer = self.open_judge(run), frozen_copy(model), adamw(model, self.lr)
        for batch in run.batches(data.problems, self.problems):
            rollouts = roll_out(model, batch, run, 2, verified(data))
            forth_B, back_B = judge(rollouts)
            drawn = [c.tokens for c in rollouts.completions]
            differ_B = forth_B.new_tensor([a != b for a, b in zip(drawn[::2], drawn[1::2], strict=True)])
            preference_B = preference(forth_B, back_B) * differ_B
            flips = float((forth_B * back_B > 0).float().mean())  # whatever stands in front, or behind, is preferred
            unsaid = float(torch.cat([forth_B, back_B]).isnan().float().mean())
            facts = rollouts.facts() | agreement(preference_B, rollouts) | {"flips": flips, "unsaid": unsaid}
            [kept] = preference_B.nonzero(as_tuple=True)  # a tie asks for nothing
            if len(kept):
                rows = rollouts.sequences.select(torch.cat([2 * kept, 2 * kept + 1]))
                with torch.no_grad():
                    start_R = completion_logprob(start, rows)
                ratio_R = completion_logprob(model, rows) - start_R
                loss = soft_dpo_loss(ratio_R, preference_B[kept], self.beta)
                set_rate(optimizer, self.lr * cosine_with_warmup(run))
                descend(loss, optimizer)
                # The rows are the policy's own, so the mean of their log-ratios estimates its KL to the start.
                facts |= {"loss": loss.item(), "kl": float(ratio_R.detach().sum()) / rows.tokens}
                hold(run, facts["kl"])
            run.log(**facts, wasted=1 - len(kept) / len(batch))

    def open_judge(self, run: Run) -> Judge:
        """What compares the two completions of each problem."""
        judge = run.model(self.judge)
        if self.compare == "tokens":
            return lambda rollouts: compare_by_tokens(judge, rollouts)
        return lambda rollouts: compare_by_scores(judge, rollouts, self.cue, self.temperature)


@dataclass(frozen=True)
class RLAIFRandomReward(RLAIF):
    """The control: the judge is a coin, and no other model is asked."""

    name: ClassVar[str] = "rlaif-random-reward"
    family: ClassVar[str] = "control"
    models: ClassVar[tuple[str, ...]] = ()

    def open_judge(self, run: Run) -> Judge:
        """For certain the first or the second, whatever they say."""
        toss = coin(run)

        def judge(rollouts: Rollouts) -> tuple[torch.Tensor, torch.Tensor]:
            heads = [toss(p, c) for p, c in zip(rollouts.problems, rollouts.completions[::2], strict=True)]
            logit_B = (2 * rollouts.rewards.new_tensor(heads) - 1) * torch.inf
            return logit_B, -logit_B

        return judge


@hookimpl
def harness_methods() -> list[type]:
    return [RLAIF, RLAIFRandomReward]
