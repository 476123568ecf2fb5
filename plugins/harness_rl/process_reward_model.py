"""Process reward model: a head says at the end of each step of a completion how likely all is right so far.

Papers: Lightman et al. 2023, arXiv:2305.20050 (checked labels); Wang et al. 2023 (Math-Shepherd), arXiv:2312.08935,
eq. (3) (labels by rollouts). c_k = 1 where all is right up to the end of step k, as one of the two says, else 0.
L = - mean_k [ c_k log p_k + (1 - c_k) log(1 - p_k) ], p_k = sigmoid(head(h_k, least_k, sum_k)): the hidden state at the
step's end and, added here, the least and the summed log-probability of the completion's tokens up to there. A model
slips where it is unsure: these two tell more than all the rest. The answer is the last step, right if it verifies: or a
solution that stops too early, in which nothing is wrong yet, would score above those that go on. None is worth 0.
Data: problems, solved by the start, whose steps the dataset checks; or drafts of the stepwise view. Trains: the head
alone, as the weights say the log-probabilities. Cost: sampling and one forward pass; `monte-carlo` spends most on
`rollouts` a step. Shapes: R rows, T tokens, K steps of all rows, D width. Left out: neutral labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

from harness import Completion, Model, Prompt, Run, Scores, TrainingData, hookimpl
from harness.toolbox import (
    Sequences,
    adamw,
    collate,
    cosine_with_warmup,
    descend,
    judged_ends,
    labelled_drafts,
    read_states,
    scalar_head,
    set_rate,
    stepwise_draft,
)

HEAD = "process"
AGGREGATES: dict[str, Callable[[torch.Tensor], torch.Tensor]]
AGGREGATES = {"min": torch.min, "product": torch.prod, "last": lambda chance_k: chance_k[-1], "mean": torch.mean}


def marks(rows: Sequences, ends: Sequence[Sequence[int]]) -> torch.Tensor:
    """(R, T) true at the last token of each step; nowhere in a row that does not fit."""
    ends_RT = torch.zeros_like(rows.completion_mask)
    for number, counts in enumerate(ends):
        [columns] = rows.completion_mask[number].nonzero(as_tuple=True)
        if len(columns):
            ends_RT[number, columns[[count - 1 for count in counts]]] = True
    return ends_RT


def step_logits(model: Model, rows: Sequences, ends_RT: torch.Tensor) -> torch.Tensor:
    """(K,) log-odds that all is right so far, where steps end, row after row."""
    with torch.no_grad():
        state_RTF, _ = read_states(model, rows)
    logit_K: torch.Tensor = model.heads[HEAD](state_RTF[ends_RT]).squeeze(-1)
    return logit_K


@dataclass(frozen=True)
class ProcessRewardModel:
    name: ClassVar[str] = "process-reward-model"
    family: ClassVar[str] = "reinforcement-learning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    labels: str = "checked"
    """`checked`: what the dataset says of each step of the start's solutions; where it can check none, its stepwise
    view. `monte-carlo`: whether any rollout from the step's end, the start's own, ends right."""
    aggregate: str = "min"
    """A completion's score from the chances of its steps: `min`, `product`, `last` or `mean`; 0 without a step."""
    samples: int = 4
    """Solutions a problem, at temperature 1."""
    rollouts: int = 4
    """Completions a step, at temperature 1, for `monte-carlo`."""
    lead: str = "T: "
    """What a row of the view begins with, before its first step; a space stands between steps."""
    batch_size: int = 32
    """Drafts an optimiser step."""
    lr: float = 3e-2
    """Peak learning rate of the head, which is linear and begins at 0."""

    def __post_init__(self) -> None:
        for value, known in ((self.labels, ("checked", "monte-carlo")), (self.aggregate, AGGREGATES)):
            if value not in known:
                msg = f"{self.name} knows no {value!r}, but {', '.join(known)}"
                raise ValueError(msg)

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        model.heads[HEAD] = scalar_head(model, features=2)
        optimizer, view = adamw(model, self.lr), self.labels == "checked" and data.check_steps is None
        if view and not data.stepwise:
            msg = f"{self.name}: this dataset checks no steps and has no stepwise view; set labels=monte-carlo"
            raise ValueError(msg)
        items, size = (data.stepwise, self.batch_size) if view else (data.problems, self.batch_size // self.samples)
        for batch in run.batches(list[Any](items), max(1, size)):
            if view:
                drafts = [stepwise_draft(model, row, self.lead) for row in batch]
            else:
                rollouts = self.rollouts if self.labels == "monte-carlo" else None
                drafts = labelled_drafts(model, batch, data, run, samples=self.samples, rollouts=rollouts)
            rows = collate(model, [draft.pair for draft in drafts])
            ends_RT = marks(rows, [draft.ends for draft in drafts])
            fits = ends_RT.any(-1).tolist()
            labels = [label for draft, fit in zip(drafts, fits, strict=True) if fit for label in draft.labels]
            if not labels:  # no solution of the batch has a step
                run.log(steps=0)
                continue
            logit_K, label_K = step_logits(model, rows, ends_RT), torch.tensor(labels, device=rows.index.device).float()
            loss = F.binary_cross_entropy_with_logits(logit_K, label_K)
            set_rate(optimizer, self.lr * cosine_with_warmup(run))
            descend(loss, optimizer)
            agreed = ((logit_K > 0) == label_K.bool()).float().mean()
            run.log(steps=len(labels), loss=loss.item(), right=label_K.mean().item(), accuracy=agreed.item())

    @torch.no_grad()
    def score(self, model: Model, prompt: Prompt, completions: Sequence[Completion], run: Run) -> list[Scores]:
        del run  # the meter sees the forward pass by itself
        ids, judged = model.encode_prompt(prompt), [judged_ends(model, completion.tokens) for completion in completions]
        rows = collate(model, [(ids, completion.tokens) for completion in completions])
        ends_RT = marks(rows, [ends for ends, _ in judged])
        chances = torch.split(step_logits(model, rows, ends_RT).sigmoid(), ends_RT.sum(-1).tolist())
        scores = []
        for completion, (ends, count), chance_k in zip(completions, judged, chances, strict=True):
            silent = completion.finish != "stop" and len(ends) == count  # and no more will be said
            total = 0.0 if silent or not len(chance_k) else float(AGGREGATES[self.aggregate](chance_k))
            scores.append(Scores(total, tuple(chance_k.tolist()[:count])))
        return scores


@hookimpl
def harness_methods() -> list[type]:
    return [ProcessRewardModel]
