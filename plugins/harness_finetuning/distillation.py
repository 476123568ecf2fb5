"""Knowledge distillation: learn, at every token of a worked solution, the whole distribution of a larger model.

Papers: Hinton et al. 2015, arXiv:1503.02531, sec. 2 (soft targets, T^2); Kim & Rush 2016, arXiv:1606.07947, sec. 3.1
(word by word). L = T^2 mean_t KL( softmax(z_teacher / T) || softmax(z_student / T) ), the forward KL.
Data: the train split with its rationales, as `cot-sft`, its control: same targets, same order, as many student tokens.
The teacher reads the question with a cue that the student never sees, so that thinking unasked is learnt as well.
Trains: every weight. Cost: a forward pass of the teacher beside each token trained on; it is booked, not budgeted.
Shapes: K completion tokens, V words, which both models must share.
Left out: the weighted sum with the hard targets (the targets are read, their tokens are not the labels), and keeping
the teacher's distributions for a second epoch: budgets here end before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

from harness import Model, Run, TrainingData, hookimpl
from harness.toolbox import adamw, cosine_with_warmup, divergence_loss, open_teacher, set_rate, update, worked_examples


def forward_kl(student_KV: torch.Tensor, teacher_KV: torch.Tensor, temperature: float) -> torch.Tensor:
    """(K,) T^2 KL(teacher || student) in nats: `T^2` undoes the 1/T^2 by which softening shrinks the gradients."""
    student_KV = F.log_softmax(student_KV / temperature, -1)
    teacher_KV = F.log_softmax(teacher_KV / temperature, -1)
    return temperature**2 * (teacher_KV.exp() * (teacher_KV - student_KV)).sum(-1)


@dataclass(frozen=True)
class Distillation:
    name: ClassVar[str] = "distillation"
    family: ClassVar[str] = "fine-tuning"
    models: ClassVar[tuple[str, ...]] = ("teacher",)
    teacher: str = "tiny-teacher"
    """A model with the student's vocabulary. By default the embedded world's larger one, which thinks when cued."""
    cue: str = "Let's think step by step."
    """Put behind the question for the teacher alone; empty for a teacher that thinks unasked."""
    temperature: float = 2.0
    """T: above 1, unlikely words weigh more. Hinton et al. use 2 to 20 on classifiers, Kim & Rush 1."""
    lr: float = 3e-4
    """Peak learning rate of AdamW; suits models of a million parameters."""
    batch_size: int = 16
    """Examples an optimiser step."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        teacher = open_teacher(run, self.teacher, model)
        divergence = partial(forward_kl, temperature=self.temperature)
        examples = worked_examples(data, unworked=False)
        optimizer = adamw(model, self.lr)
        for batch in run.batches(examples, self.batch_size):
            lessons = [(asked, f"{asked} {self.cue}".strip(), model.encode_completion(said)) for asked, said in batch]
            loss = divergence_loss(model, teacher, lessons, divergence)
            set_rate(optimizer, self.lr * cosine_with_warmup(run))
            update(optimizer)
            run.log(loss=loss)


@hookimpl
def harness_methods() -> list[type]:
    return [Distillation]
