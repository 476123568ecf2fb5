"""Process reward model: a head says at the end of each step of a completion how likely all is right so far.

Papers: Lightman et al. 2023, arXiv:2305.20050 (checked labels); Wang et al. 2023 (Math-Shepherd), arXiv:2312.08935,
eq. (3), labels by rollouts: c_k = 1 where any rollout from the end of step k ends right, else 0.
L = - mean_k [ c_k log p_k + (1 - c_k) log(1 - p_k) ], p_k = sigmoid(head(h_k, least_k, sum_k)): the hidden state at the
step's end and, added here, the least and the summed log-probability of the completion's tokens up to there. A model
slips where it is unsure: these two tell more than all the rest. The answer is the last step, right if it verifies: or a
solution that stops too early, in which nothing is wrong yet, would score above those that go on.
Data: problems, solved by the start, whose steps the dataset checks; or drafts of the stepwise view. Trains: the head
alone, as the weights say the log-probabilities. Cost: sampling and one forward pass; `monte-carlo` spends most on
`rollouts` a step. Shapes: R rows, T tokens, K steps of all rows, D width. Left out: neutral labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

from harness import Completion, Model, Problem, Prompt, Run, Scores, Stepwise, TrainingData, hookimpl
from harness.toolbox import (
    SampleRequest,
    Sequences,
    TokenPair,
    adamw,
    charge,
    collate,
    cosine_with_warmup,
    descend,
    draw,
    read_states,
    sample_many,
    scalar_head,
    set_rate,
    solution_ends,
    step_ends,
)

HEAD = "process"
AGGREGATES: dict[str, Callable[[torch.Tensor], torch.Tensor]]
AGGREGATES = {"min": torch.min, "product": torch.prod, "last": lambda chance_k: chance_k[-1], "mean": torch.mean}
Draft = tuple[TokenPair, Sequence[int], Sequence[bool]]
"""(prompt and completion, how many of its tokens reach to the end of each step, whether all is right up to there)"""


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


def checked(model: Model, problem: Problem, completion: Completion, data: TrainingData) -> tuple[bool, ...]:
    """Whether all is right up to each step's end, as the dataset says, and then the answer; empty if it cannot tell."""
    said = data.check_steps(problem, completion.text) if data.check_steps else ()
    if len(said) != len(solution_ends(model, completion.tokens)):
        return ()
    answers = len(step_ends(model, completion.tokens)) - len(said)
    return (*said, *[data.verify(problem, completion.text)[0]] * answers)


@dataclass(frozen=True)
class ProcessRewardModel:
    name: ClassVar[str] = "process-reward-model"
    family: ClassVar[str] = "reinforcement-learning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    labels: str = "checked"
    """`checked`: what the dataset says of each step of the start's solutions; where it can check none, its stepwise
    view. `monte-carlo`: whether any rollout from the step's end, the start's own, ends right."""
    aggregate: str = "min"
    """A completion's score from the chances of its steps: `min`, `product`, `last` or `mean`; a bare answer is 0."""
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
            drafts = [self.draft(model, row) for row in batch] if view else self.solved(model, batch, data, run)
            rows = collate(model, [pair for pair, _, _ in drafts])
            ends_RT = marks(rows, [ends for _, ends, _ in drafts])
            fits = ends_RT.any(-1).tolist()
            labels = [label for (_, _, of_one), fit in zip(drafts, fits, strict=True) if fit for label in of_one]
            if not labels:  # no solution of the batch has a step
                run.log(steps=0)
                continue
            logit_K, label_K = step_logits(model, rows, ends_RT), torch.tensor(labels, device=rows.index.device).float()
            loss = F.binary_cross_entropy_with_logits(logit_K, label_K)
            set_rate(optimizer, self.lr * cosine_with_warmup(run))
            descend(loss, optimizer)
            agreed = ((logit_K > 0) == label_K.bool()).float().mean()
            run.log(steps=len(labels), loss=loss.item(), right=label_K.mean().item(), accuracy=agreed.item())

    def draft(self, model: Model, row: Stepwise) -> Draft:
        """A row as a completion; its steps must end where those of a completion to be scored will."""
        steps = [self.lead * (k == 0) + text for k, text in enumerate(row.completions)]
        tokens = model.encode_completion(" ".join(steps))
        ends = step_ends(model, tokens)
        read = [model.decode(tokens[a:b]).strip() for a, b in pairwise([0, *ends])]
        if read != [text.strip() for text in steps]:
            msg = f"row {row.id}: a step must end with its sentence or line, but {steps} are read as {read}"
            raise ValueError(msg)
        return (model.encode_prompt(row.prompt), tokens), ends, row.labels

    def solved(self, model: Model, batch: Sequence[Problem], data: TrainingData, run: Run) -> list[Draft]:
        """Solutions of the start's own; one whose steps are not told apart or cannot be labelled has none to learn."""
        drawn = sample_many(model, [p.prompt for p in batch], run, ids=[p.id for p in batch], n=self.samples)
        found = [(p, c, step_ends(model, c.tokens)) for p, of_one in zip(batch, drawn, strict=True) for c in of_one]
        if self.labels == "checked" and data.check_steps:
            labels = [checked(model, problem, completion, data) for problem, completion, _ in found]
        else:
            labels = self.rolled_out(model, found, data, run)
        return [
            ((model.encode_prompt(p.prompt), c.tokens), *((ends, right) if len(right) == len(ends) else ((), ())))
            for (p, c, ends), right in zip(found, labels, strict=True)
        ]

    def rolled_out(
        self, model: Model, found: Sequence[tuple[Problem, Completion, Sequence[int]]], data: TrainingData, run: Run
    ) -> list[tuple[bool, ...]]:
        """Math-Shepherd's eq. (3): whether any rollout from the end of a step ends right."""
        places = [(problem, (*c.tokens[:end],)) for problem, c, ends in found for end in ends]
        requests = [
            SampleRequest(
                (*model.encode_prompt(problem.prompt), *prefix),
                tuple(run.next_draws(problem.id, self.rollouts)),
                max_new_tokens=run.max_new_tokens,
            )
            for problem, prefix in places
        ]
        right: list[bool] = []
        for (problem, prefix), request, ways in zip(places, requests, draw(model, requests), strict=True):
            charge(run, model, request, ways)
            right.append(any(data.verify(problem, model.decode((*prefix, *way.tokens)))[0] for way in ways))
        labels = iter(right)
        return [tuple(next(labels) for _ in ends) for _, _, ends in found]

    @torch.no_grad()
    def score(self, model: Model, prompt: Prompt, completions: Sequence[Completion], run: Run) -> list[Scores]:
        del run  # the meter sees the forward pass by itself
        pairs = [(model.encode_prompt(prompt), completion.tokens) for completion in completions]
        rows = collate(model, pairs)
        ends_RT = marks(rows, [step_ends(model, tokens) for _, tokens in pairs])
        chances = torch.split(step_logits(model, rows, ends_RT).sigmoid(), ends_RT.sum(-1).tolist())
        whole = AGGREGATES[self.aggregate]
        return [
            Scores(
                float(whole(chance_k)) if len(chance_k) else 0.0,
                tuple(chance_k.tolist()[: len(solution_ends(model, completion.tokens))]),
            )
            for completion, chance_k in zip(completions, chances, strict=True)
        ]


@hookimpl
def harness_methods() -> list[type]:
    return [ProcessRewardModel]
