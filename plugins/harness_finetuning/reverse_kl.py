"""Reverse-KL distillation: the student writes, and a larger model says at each token what it would have written.

Paper: Gu et al. 2023, arXiv:2306.08543 (MiniLLM), eq. (1): KL(student || teacher) over whole answers, which seeks the
teacher's modes where the forward KL covers all it might say. This is the `single` part of sec. 2.2's gradient:
L = E_{y ~ student} mean_t KL( student(. | x, y_<t) || teacher(. | x, y_<t) ), exact over the words of each token.
Data: the train questions alone. Trains: every weight. The teacher reads the question with a cue, the student without.
Cost: a sample, a training pass over it, and a forward pass of the teacher, which is booked, not budgeted.
Shapes: K sampled tokens, V words, which both models must share.
Left out: the `long` part (credit for where a token leads; what a token leads to is taken as given, and no gradient
goes through sampling), teacher-mixed sampling with its importance weights, and the language-modelling loss on text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

from harness import Model, Run, TrainingData, hookimpl
from harness.toolbox import adamw, cosine_with_warmup, divergence_loss, open_teacher, sample_many, set_rate, update


def reverse_kl(student_KV: torch.Tensor, teacher_KV: torch.Tensor) -> torch.Tensor:
    """(K,) KL(student || teacher) in nats, from logits."""
    student_KV, teacher_KV = F.log_softmax(student_KV, -1), F.log_softmax(teacher_KV, -1)
    return (student_KV.exp() * (student_KV - teacher_KV)).sum(-1)


@dataclass(frozen=True)
class ReverseKLDistillation:
    name: ClassVar[str] = "reverse-kl-distillation"
    family: ClassVar[str] = "fine-tuning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    models: ClassVar[tuple[str, ...]] = ("teacher",)
    teacher: str = "tiny-teacher"
    """A model with the student's vocabulary. By default the embedded world's larger one, which thinks when cued."""
    cue: str = "Let's think step by step."
    """Put behind the question for the teacher alone; empty for a teacher that thinks unasked."""
    lr: float = 3e-4
    """Peak learning rate of AdamW; suits models of a million parameters."""
    batch_size: int = 16
    """Samples an optimiser step, one a problem, at temperature 1."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        teacher = open_teacher(run, self.teacher, model)
        optimizer = adamw(model, self.lr)
        for batch in run.batches(data.problems, self.batch_size):
            drawn = sample_many(model, [p.prompt for p in batch], run, ids=[p.id for p in batch], n=1)
            lessons = [
                (p.prompt, f"{p.prompt} {self.cue}".strip(), completion.tokens)
                for p, [completion] in zip(batch, drawn, strict=True)
            ]
            loss = divergence_loss(model, teacher, lessons, reverse_kl)
            set_rate(optimizer, self.lr * cosine_with_warmup(run))
            update(optimizer)
            run.log(loss=loss)


@hookimpl
def harness_methods() -> list[type]:
    return [ReverseKLDistillation]
