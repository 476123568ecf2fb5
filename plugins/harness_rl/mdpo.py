"""Multi-sample DPO (mDPO): a group of right completions against a group of wrong ones of the same problem.

Paper: Wang et al. 2024, arXiv:2410.12138 (not the multimodal DPO of the same short name). With z(y) the log-ratio
log pi(y)/pi_ref(y), SUMMED over tokens, the loss is - log sigmoid( beta (mean z of the right - mean z of the wrong) ).
The means stand inside the sigmoid: it is the groups that are compared, and the mean of the losses of all pairs would be
another method. With one completion a group it is DPO.
Data: problems and their verifier; completions are drawn from the start, so every pair is of its own distribution. They
are not deduplicated, as a mean over what is drawn often stands for its distribution. Trains: every weight.
Cost: `samples` completions a problem are drawn, and 2 `group` of a problem that has enough of both kinds are read by
policy and reference; `usable` is the share of such problems.
Shapes: P problems, k completions a group, R = 2Pk rows: the right ones first, group after group.
Left out: sampling again where a problem has too few of a kind. The log-sigmoid of a mean of few is a biased estimate of
that of the mean of many; mIPO's square can be corrected, this cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

from harness import Model, Problem, Run, TrainingData, hookimpl
from harness.toolbox import (
    Reward,
    TokenPair,
    adamw,
    collate,
    completion_logprob,
    cosine_with_warmup,
    descend,
    frozen_copy,
    random_reward_twin,
    sample_many,
    set_rate,
    verified,
)


def group_means(ratio_R: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(P,) mean log-ratio of each group: of the right ones, of the wrong ones."""
    right_P, wrong_P = ratio_R.view(2, -1, k).mean(-1)
    return right_P, wrong_P


def mdpo_loss(ratio_R: torch.Tensor, k: int, beta: float) -> torch.Tensor:
    """Scalar from (R,) summed log-ratios in nats; ln 2 where policy = reference."""
    right_P, wrong_P = group_means(ratio_R, k)
    return -F.logsigmoid(beta * (right_P - wrong_P)).mean()


@dataclass(frozen=True)
class MDPO:
    name: ClassVar[str] = "mdpo"
    family: ClassVar[str] = "reinforcement-learning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    problems: int = 12
    """Problems an optimiser step, before those without two whole groups are left out."""
    samples: int = 8
    """Completions drawn a problem, at temperature 1."""
    group: int = 2
    """k, completions a group. A larger one is a better mean, and fewer problems have it."""
    beta: float = 0.1
    """Pull towards the reference, 1/nat; the 0.1 of the paper on DPO."""
    lr: float = 5e-5
    """Peak learning rate; suits models of a million parameters."""

    def __post_init__(self) -> None:
        if not 0 < 2 * self.group <= self.samples:
            msg = f"group is {self.group}, but must be 1 to half of samples, which is {self.samples}"
            raise ValueError(msg)

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        reward, start, optimizer = self.reward(data, run), frozen_copy(model), adamw(model, self.lr)
        for batch in run.batches(data.problems, self.problems):
            rows = self.draw_groups(start, batch, run, reward)
            wasted = 1 - len(rows) / (2 * self.group * len(batch))
            if not rows:  # too few of one kind everywhere: nothing to compare
                run.log(wasted=wasted)
                continue
            sequences = collate(model, rows)
            with torch.no_grad():
                start_R = completion_logprob(start, sequences)
            ratio_R = completion_logprob(model, sequences) - start_R
            loss = mdpo_loss(ratio_R, self.group, self.beta)
            set_rate(optimizer, self.lr * cosine_with_warmup(run))
            descend(loss, optimizer)
            right_P, wrong_P = group_means(ratio_R.detach(), self.group)
            margin, right = (right_P - wrong_P).mean(), right_P.mean()
            run.log(loss=loss.item(), margin=margin.item(), right=right.item(), wasted=wasted)

    def draw_groups(self, start: Model, problems: Sequence[Problem], run: Run, reward: Reward) -> list[TokenPair]:
        """R rows of the problems that have `group` completions of both kinds: the first of each, as they were drawn."""
        right: list[TokenPair] = []
        wrong: list[TokenPair] = []
        drawn = sample_many(start, [p.prompt for p in problems], run, ids=[p.id for p in problems], n=self.samples)
        for problem, completions in zip(problems, drawn, strict=True):
            prompt = start.encode_prompt(problem.prompt)
            # A completion without a token, of a prompt that fills the context, is neither.
            judged = [(c.tokens, reward(problem, c) > 0) for c in completions if c.tokens]
            good, bad = ([(prompt, tokens) for tokens, ok in judged if ok is kind] for kind in (True, False))
            if min(len(good), len(bad)) >= self.group:
                right += good[: self.group]
                wrong += bad[: self.group]
        return right + wrong

    def reward(self, data: TrainingData, run: Run) -> Reward:
        """What makes a completion right: above 0."""
        del run
        return verified(data)


MDPORandomReward = random_reward_twin(MDPO)


@hookimpl
def harness_methods() -> list[type]:
    return [MDPO, MDPORandomReward]
