"""Process reward model: a scalar head says at the end of each step of a completion how likely all is right so far.

Papers: Lightman et al. 2023, arXiv:2305.20050 (checked labels); Wang et al. 2023 (Math-Shepherd), arXiv:2312.08935
(labels by rollouts). L = - mean_k [ c_k log p_k + (1 - c_k) log(1 - p_k) ], p_k = sigmoid(head(h at step k's end)).
Data: the stepwise view; for `monte-carlo` the problems and their verifier instead. Trains: every weight, and the head.
Cost: one training pass over drafts of some steps; `monte-carlo` spends most of its budget on `rollouts` a step.
Shapes: R rows, T tokens, K steps of all rows. Left out: neutral labels, and a judgement of the answer line, which
comes after the last step and of which checked labels say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
    frozen_copy,
    hidden_states,
    sample_many,
    scalar_head,
    set_rate,
    step_ends,
)

HEAD = "process"
ANSWER = re.compile(r"^A:", re.MULTILINE)
AGGREGATES: dict[str, Callable[[torch.Tensor], torch.Tensor]]
AGGREGATES = {"min": torch.min, "product": torch.prod, "last": lambda chance_k: chance_k[-1], "mean": torch.mean}
Draft = tuple[TokenPair, Sequence[int], Sequence[float]]
"""(prompt and completion, how many of its tokens reach to the end of each step, how right it is there)"""


def judged_ends(model: Model, tokens: Sequence[int]) -> list[int]:
    """How many tokens reach to the end of each step, of those before the answer line."""
    return step_ends(model, tokens, upto=len(ANSWER.split(model.decode(tokens), 1)[0]))


def marked(model: Model, pairs: Sequence[TokenPair], ends: Sequence[Sequence[int]]) -> Sequences:
    """A batch whose `completion_mask` is true where steps end and nowhere else; nowhere in a row that does not fit."""
    rows = collate(model, pairs)
    mask_RT = torch.zeros_like(rows.completion_mask)
    for number, counts in enumerate(ends):
        [columns] = rows.completion_mask[number].nonzero(as_tuple=True)
        if len(columns):
            mask_RT[number, columns[[count - 1 for count in counts]]] = True
    return replace(rows, completion_mask=mask_RT)


def step_logits(model: Model, rows: Sequences) -> torch.Tensor:
    """(K,) log-odds that all is right so far, where steps end, row after row."""
    logit_K: torch.Tensor = model.heads[HEAD](hidden_states(model, rows, rows.completion_mask).float()).squeeze(-1)
    return logit_K


@dataclass(frozen=True)
class ProcessRewardModel:
    name: ClassVar[str] = "process-reward-model"
    family: ClassVar[str] = "reinforcement-learning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    needs: ClassVar[tuple[str, ...]] = ("stepwise",)
    labels: str = "checked"
    """`checked`: the view's. `monte-carlo`: the share of rollouts from a step of the start's own that end right."""
    aggregate: str = "min"
    """A completion's score from the chances of its steps: `min`, `product`, `last` or `mean`; a bare answer is 0."""
    rollouts: int = 4
    """Completions a step, at temperature 1, for `monte-carlo`."""
    lead: str = "T: "
    """What a row of the view begins with, before its first step; a space stands between steps."""
    batch_size: int = 16
    """Drafts an optimiser step."""
    lr: float = 1e-3
    """Peak learning rate; suits models of a million parameters."""

    def __post_init__(self) -> None:
        for value, known in ((self.labels, ("checked", "monte-carlo")), (self.aggregate, AGGREGATES)):
            if value not in known:
                msg = f"{self.name} knows no {value!r}, but {', '.join(known)}"
                raise ValueError(msg)

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        start, checked = frozen_copy(model), self.labels == "checked"
        model.heads[HEAD] = scalar_head(model, run.seed("head"))
        optimizer = adamw(model, self.lr)
        for batch in run.batches(list[Any](data.stepwise if checked else data.problems), self.batch_size):
            drafts = [self.draft(model, row) for row in batch] if checked else self.rolled_out(start, batch, data, run)
            rows = marked(model, [pair for pair, _, _ in drafts], [ends for _, ends, _ in drafts])
            fits = rows.completion_mask.any(-1).tolist()
            labels = [label for (_, _, of_one), fit in zip(drafts, fits, strict=True) if fit for label in of_one]
            if not labels:  # no solution of the batch has a step
                run.log(steps=0)
                continue
            logit_K, label_K = step_logits(model, rows), torch.tensor(labels, device=rows.index.device)
            loss = F.binary_cross_entropy_with_logits(logit_K, label_K)
            set_rate(optimizer, self.lr * cosine_with_warmup(run))
            descend(loss, optimizer)
            agreed = ((logit_K > 0) == label_K.round().bool()).float().mean()
            run.log(steps=len(labels), loss=loss.item(), right=label_K.mean().item(), accuracy=agreed.item())

    def draft(self, model: Model, row: Stepwise) -> Draft:
        """A row as a completion; its steps must end where those of a completion to be scored will."""
        steps = [self.lead * (k == 0) + text for k, text in enumerate(row.completions)]
        tokens = model.encode_completion(" ".join(steps))
        ends = judged_ends(model, tokens)
        read = [model.decode(tokens[a:b]).strip() for a, b in pairwise([0, *ends])]
        if read != [text.strip() for text in steps]:
            msg = f"row {row.id}: a step must end with its sentence or line, but {steps} are read as {read}"
            raise ValueError(msg)
        return (model.encode_prompt(row.prompt), tokens), ends, [float(label) for label in row.labels]

    def rolled_out(self, start: Model, batch: Sequence[Problem], data: TrainingData, run: Run) -> list[Draft]:
        """The start's own solutions. Math-Shepherd's soft label: the share of rollouts from a step that end right."""
        drawn = sample_many(start, [p.prompt for p in batch], run, ids=[p.id for p in batch], n=1)
        pairs = [(start.encode_prompt(p.prompt), c.tokens) for p, [c] in zip(batch, drawn, strict=True)]
        ends = [judged_ends(start, tokens) for _, tokens in pairs]
        places = [(row, pairs[row][1][:end]) for row, counts in enumerate(ends) for end in counts]
        requests = [
            SampleRequest((*pairs[row][0], *prefix), seeds, max_new_tokens=run.max_new_tokens)
            for row, prefix in places
            if (seeds := tuple(run.next_draws(batch[row].id, self.rollouts)))
        ]
        labels: list[list[float]] = [[] for _ in batch]
        for (row, prefix), request, ways in zip(places, requests, draw(start, requests), strict=True):
            charge(run, start, request, ways)
            right = [data.verify(batch[row], start.decode((*prefix, *way.tokens)))[0] for way in ways]
            labels[row].append(sum(right) / len(right))
        return list(zip(pairs, ends, labels, strict=True))

    @torch.no_grad()
    def score(self, model: Model, prompt: Prompt, completions: Sequence[Completion], run: Run) -> list[Scores]:
        del run  # the meter sees the forward pass by itself
        pairs = [(model.encode_prompt(prompt), completion.tokens) for completion in completions]
        rows = marked(model, pairs, [judged_ends(model, tokens) for _, tokens in pairs])
        chance_K, counts = step_logits(model, rows).sigmoid(), rows.completion_mask.sum(-1).tolist()
        chances, whole = torch.split(chance_K, counts), AGGREGATES[self.aggregate]
        return [
            Scores(float(whole(chance_k)) if len(chance_k) else 0.0, tuple(chance_k.tolist())) for chance_k in chances
        ]


@hookimpl
def harness_methods() -> list[type]:
    return [ProcessRewardModel]
