"""Outcome reward model: a scalar head learns which completions of a question end in the right answer.

Papers: Cobbe et al. 2021, arXiv:2110.14168, sec. 4.2 (verifiers from the policy's own samples); Ouyang et al. 2022,
arXiv:2203.02155, eq. (1), the Bradley-Terry loss of `pairs`: L = - log sigmoid( r(x, y_right) - r(x, y_wrong) ). Of
`labels`, as Cobbe's: L = - [ l log sigmoid(r) + (1 - l) log(1 - sigmoid(r)) ], l = 1 where the answer is right.
Data: train problems; completions are sampled here, from the policy as it was at the start, and verified.
Trains: every weight of a copy of the policy, and the head. Cost: sampling, then one training pass over kept samples.
Shapes: B pairs, R = 2B rows, D width. Only problems with right and wrong samples teach; pairs are within a problem, so
the difficulty of the question cannot be learnt instead. One pass: a second one overfits. The score is sigmoid(r): a
chance after `labels`, given as many right as wrong completions; after `pairs` r has no zero, and only ranks.
Left out: Cobbe's label at every token, and his language modelling loss beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

from harness import Completion, Model, Prompt, Run, Scores, TrainingData, hookimpl
from harness.toolbox import (
    adamw,
    collate,
    cosine_with_warmup,
    descend,
    final_values,
    frozen_copy,
    ranked_pairs,
    sample_many,
    scalar_head,
    set_rate,
)

HEAD = "outcome"


def preference_loss(right_B: torch.Tensor, wrong_B: torch.Tensor) -> torch.Tensor:
    """Bradley-Terry: scalar from (B,) rewards of the right and of the wrong completion; ln 2 where they are equal."""
    return -F.logsigmoid(right_B - wrong_B).mean()


def label_loss(right_B: torch.Tensor, wrong_B: torch.Tensor) -> torch.Tensor:
    """Cross-entropy: scalar from the same rewards, each by itself; ln 2 where all are 0."""
    return -(F.logsigmoid(right_B) + F.logsigmoid(-wrong_B)).mean() / 2


LOSSES = {"pairs": preference_loss, "labels": label_loss}


@dataclass(frozen=True)
class OutcomeRewardModel:
    name: ClassVar[str] = "outcome-reward-model"
    family: ClassVar[str] = "reinforcement-learning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    loss: str = "pairs"
    """`pairs`: right ones are to score above wrong ones. `labels`: each completion is to be known for what it is."""
    samples: int = 8
    """Completions drawn a problem, at temperature 1."""
    problems: int = 24
    """Problems an optimiser step."""
    pairs: int = 2
    """Pairs kept a problem at most, so that no problem outweighs the others."""
    lr: float = 5e-4
    """Peak learning rate; suits models of a million parameters."""

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            msg = f"{self.name} knows no loss {self.loss!r}, but {', '.join(LOSSES)}"
            raise ValueError(msg)

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        policy = frozen_copy(model)
        head = model.heads[HEAD] = scalar_head(model, run.seed("head"))
        optimizer = adamw(model, self.lr)
        for batch in run.batches(data.problems, self.problems):
            drawn = sample_many(policy, [p.prompt for p in batch], run, ids=[p.id for p in batch], n=self.samples)
            pairs = list(zip(batch, drawn, strict=True))
            right, wrong = ranked_pairs(policy, pairs, lambda p, c: data.verify(p, c.text)[0], run, self.pairs)
            wasted = 1 - 2 * len(right) / (self.samples * len(batch))
            if not right:  # every problem solved, or none: nothing to compare
                run.log(wasted=wasted)
                continue
            right_B, wrong_B = final_values(model, collate(model, right + wrong), head).chunk(2)
            loss = LOSSES[self.loss](right_B, wrong_B)
            set_rate(optimizer, self.lr * cosine_with_warmup(run))
            descend(loss, optimizer)
            run.log(loss=loss.item(), ranked=(right_B > wrong_B).float().mean().item(), wasted=wasted)

    @torch.no_grad()
    def score(self, model: Model, prompt: Prompt, completions: Sequence[Completion], run: Run) -> list[Scores]:
        del run  # the meter sees the forward pass by itself
        ids = model.encode_prompt(prompt)
        reward_R = final_values(model, collate(model, [(ids, c.tokens) for c in completions]), model.heads[HEAD])
        return [Scores(chance) for chance in reward_R.sigmoid().tolist()]


@hookimpl
def harness_methods() -> list[type]:
    return [OutcomeRewardModel]
