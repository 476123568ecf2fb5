"""Generalised knowledge distillation (GKD): a mixture of divergences, on a mixture of data and the student's samples.

Paper: Agarwal et al. 2023, arXiv:2306.13649. Eq. (1) is `generalised_jsd`; algorithm 1 is `train`: with probability
lambda a batch is written by the student as it is now, otherwise it is the data's.
Data: the train split with its rationales. Trains: every weight. The teacher reads the question with a cue, the student
without. Cost: as `cot-sft` on the data's batches, and sampling on the others; the teacher is booked, not budgeted.
Shapes: K completion tokens, V words, which both models must share.
Left out: reward beside the divergence (sec. 3.2). The mean is over all tokens of a batch, where the paper averages
within each answer first: a long answer weighs more here. No gradient goes through sampling, as in the paper.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

from harness import Model, Problem, Run, TrainingData, hookimpl
from harness.toolbox import (
    adamw,
    cosine_with_warmup,
    divergence_loss,
    open_teacher,
    sample_many,
    set_rate,
    update,
    worked_target,
)


def kl(p_KV: torch.Tensor, q_KV: torch.Tensor) -> torch.Tensor:
    """(K,) KL(p || q) in nats, from log-probabilities."""
    return (p_KV.exp() * (p_KV - q_KV)).sum(-1)


def generalised_jsd(student_KV: torch.Tensor, teacher_KV: torch.Tensor, beta: float) -> torch.Tensor:
    """(K,) eq. (1): beta KL(teacher || M) + (1 - beta) KL(student || M) with M = beta teacher + (1 - beta) student.

    It goes to 0 with beta, as beta times the forward KL; with 1 - beta, as that times the reverse KL. At 0 and at 1 it
    is these KLs themselves, as in TRL.
    """
    student_KV, teacher_KV = F.log_softmax(student_KV, -1), F.log_softmax(teacher_KV, -1)
    if beta == 0:
        return kl(teacher_KV, student_KV)
    if beta == 1:
        return kl(student_KV, teacher_KV)
    mixture_KV = torch.logaddexp(teacher_KV + math.log(beta), student_KV + math.log1p(-beta))
    return beta * kl(teacher_KV, mixture_KV) + (1 - beta) * kl(student_KV, mixture_KV)


@dataclass(frozen=True)
class GKD:
    name: ClassVar[str] = "gkd"
    family: ClassVar[str] = "fine-tuning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    models: ClassVar[tuple[str, ...]] = ("teacher",)
    teacher: str = "tiny-teacher"
    """A model with the student's vocabulary. By default the embedded world's larger one, which thinks when cued."""
    cue: str = "Let's think step by step."
    """Put behind the question for the teacher alone; empty for a teacher that thinks unasked."""
    beta: float = 0.5
    """From the forward KL (0) to the reverse KL (1); the paper tries 0.1, 0.5 and 0.9 beside both ends."""
    student_share: float = 0.5
    """The paper's lambda: share of the batches that the student writes, at temperature 1."""
    lr: float = 3e-4
    """Peak learning rate of AdamW; suits models of a million parameters."""
    batch_size: int = 16
    """Completions an optimiser step, one a problem."""

    def __post_init__(self) -> None:
        for name in ("beta", "student_share"):
            if not 0 <= getattr(self, name) <= 1:
                msg = f"{name} must be from 0 to 1, not {getattr(self, name)}"
                raise ValueError(msg)

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        teacher = open_teacher(run, self.teacher, model)
        divergence = partial(generalised_jsd, beta=self.beta)
        coin = random.Random(run.seed("coin"))  # noqa: S311 - data order, not secrets
        optimizer = adamw(model, self.lr)
        for batch in run.batches([p for p in data.problems if p.rationale], self.batch_size):
            own = coin.random() < self.student_share
            written = self.samples(model, batch, run) if own else self.targets(model, batch, data)
            lessons = [(p.prompt, f"{p.prompt} {self.cue}".strip(), ids) for p, ids in zip(batch, written, strict=True)]
            loss = divergence_loss(model, teacher, lessons, divergence)
            set_rate(optimizer, self.lr * cosine_with_warmup(run))
            update(optimizer)
            run.log(loss=loss, own=float(own))

    def samples(self, model: Model, batch: Sequence[Problem], run: Run) -> list[Sequence[int]]:
        """What the student writes now, one completion a problem."""
        drawn = sample_many(model, [p.prompt for p in batch], run, ids=[p.id for p in batch], n=1)
        return [completion.tokens for [completion] in drawn]

    def targets(self, model: Model, batch: Sequence[Problem], data: TrainingData) -> list[Sequence[int]]:
        """What the data say."""
        return [model.encode_completion(worked_target(p, data)) for p in batch]


@hookimpl
def harness_methods() -> list[type]:
    return [GKD]
