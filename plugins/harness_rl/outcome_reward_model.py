"""Outcome reward model: a scalar head learns which of two completions of the same question ends in the right answer.

Papers: Cobbe et al. 2021, arXiv:2110.14168, sec. 4.2 (verifiers from the policy's own samples); Ouyang et al. 2022,
arXiv:2203.02155, eq. (1), the Bradley-Terry loss: L = - log sigmoid( r(x, y_right) - r(x, y_wrong) ).
Data: train problems; completions are sampled here, from the policy as it was at the start, and verified.
Trains: every weight of a copy of the policy, and the head. Cost: sampling, then one training pass over kept samples.
Shapes: B pairs, R = 2B rows, D width. Only problems with right and wrong samples teach; pairs are within a problem, so
the difficulty of the question cannot be learnt instead. One pass: a second one overfits.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

from harness import Completion, Model, Problem, Prompt, Run, Scores, TrainingData, hookimpl
from harness.toolbox import (
    Sequences,
    TokenPair,
    adamw,
    collate,
    cosine_with_warmup,
    descend,
    frozen_copy,
    hidden_states,
    sample_many,
    set_rate,
)

HEAD = "outcome"


def preference_loss(right_B: torch.Tensor, wrong_B: torch.Tensor) -> torch.Tensor:
    """Bradley-Terry: scalar from (B,) rewards of the right and of the wrong completion; ln 2 where they are equal."""
    return -F.logsigmoid(right_B - wrong_B).mean()


def rewards(model: Model, rows: Sequences) -> torch.Tensor:
    """(R,) reward of each row, read at its LAST REAL token: what stands behind it is padding."""
    columns_T = torch.arange(rows.input_ids.shape[1], device=rows.index.device)
    hidden_RD = hidden_states(model, rows, columns_T == rows.lengths[:, None] - 1)
    reward_R: torch.Tensor = model.heads[HEAD](hidden_RD.float()).squeeze(-1)
    return reward_R


def reward_head(width: int, seed: int) -> torch.nn.Linear:
    """A small random head: standard deviation 1/sqrt(D+1), as in the details of arXiv:2009.01325's code."""
    head = torch.nn.Linear(width, 1)
    generator = torch.Generator().manual_seed(seed)
    torch.nn.init.normal_(head.weight, std=(width + 1) ** -0.5, generator=generator)
    torch.nn.init.zeros_(head.bias)
    return head


@dataclass(frozen=True)
class OutcomeRewardModel:
    name: ClassVar[str] = "outcome-reward-model"
    family: ClassVar[str] = "reinforcement-learning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    samples: int = 8
    """Completions drawn a problem, at temperature 1."""
    problems: int = 24
    """Problems an optimiser step."""
    pairs: int = 2
    """Pairs kept a problem at most, so that no problem outweighs the others."""
    lr: float = 5e-4
    """Peak learning rate; suits models of a million parameters."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        policy = frozen_copy(model)
        head = reward_head(model.size.width, run.seed("head"))
        model.heads[HEAD] = head.to(next(model.module.parameters()).device)
        optimizer = adamw(model, self.lr)
        for batch in run.batches(data.problems, self.problems):
            drawn = sample_many(policy, [p.prompt for p in batch], run, ids=[p.id for p in batch], n=self.samples)
            right, wrong = self.draw_pairs(policy, data, list(zip(batch, drawn, strict=True)), run)
            if not right:  # every problem solved, or none: nothing to compare
                continue
            right_B, wrong_B = rewards(model, collate(model, right + wrong)).chunk(2)
            loss = preference_loss(right_B, wrong_B)
            set_rate(optimizer, self.lr * cosine_with_warmup(run))
            descend(loss, optimizer)
            run.log(loss=loss.item(), ranked=(right_B > wrong_B).float().mean().item(), pairs=len(right))

    def draw_pairs(
        self, policy: Model, data: TrainingData, drawn: Sequence[tuple[Problem, Sequence[Completion]]], run: Run
    ) -> tuple[list[TokenPair], list[TokenPair]]:
        """Right and wrong completions of the same problems, no completion twice."""
        right: list[TokenPair] = []
        wrong: list[TokenPair] = []
        for problem, completions in drawn:
            prompt = policy.encode_prompt(problem.prompt)
            verdicts = {c.tokens: data.verify(problem, c.text)[0] for c in completions}
            good, bad = ([t for t, ok in verdicts.items() if ok is wanted] for wanted in (True, False))
            generator = random.Random(run.seed("pairs", problem.id))  # noqa: S311 - data order, not secrets
            generator.shuffle(good)
            generator.shuffle(bad)
            kept = min(len(good), len(bad), self.pairs)
            right += [(prompt, tokens) for tokens in good[:kept]]
            wrong += [(prompt, tokens) for tokens in bad[:kept]]
        return right, wrong

    @torch.no_grad()
    def score(self, model: Model, prompt: Prompt, completions: Sequence[Completion], run: Run) -> list[Scores]:
        del run  # the meter sees the forward pass by itself
        ids = model.encode_prompt(prompt)
        reward_R = rewards(model, collate(model, [(ids, c.tokens) for c in completions]))
        return [Scores(r) for r in reward_R.tolist()]


@hookimpl
def harness_methods() -> list[type]:
    return [OutcomeRewardModel]
