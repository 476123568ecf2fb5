"""Learning from another model's distributions: open the teacher, run both models over the same completions.

What a method keeps for itself is its divergence: how far apart a token's two distributions are.
Shapes: K completion tokens of a group of rows, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from harness.contracts import Model, Prompt
from harness.meter import Run
from harness.toolbox.batching import Sequences, collate
from harness.toolbox.logprobs import completion_logits
from harness.toolbox.training import accumulate

Divergence = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""`divergence(student_KV, teacher_KV)`: (K,) one figure a token, from float32 logits."""
Lesson = tuple[Prompt, Prompt, Sequence[int]]
"""(what the student is asked, what the teacher is asked, ids of the completion that both read)"""


def open_teacher(run: Run, name: str, student: Model) -> Model:
    """The model called `name`, frozen and counted, if its words are those of `student`.

    Raises:
        LookupError: this run can open no model.
        ValueError: the vocabularies differ.
    """
    teacher = run.model(name)
    if teacher.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        msg = (
            f"{teacher.name} cannot teach {student.name} word by word: their vocabularies differ; name another teacher"
        )
        raise ValueError(msg)
    return teacher


def divergence_loss(
    student: Model, teacher: Model, lessons: Sequence[Lesson], divergence: Divergence, groups: int | None = None
) -> float:
    """Mean of `divergence` over the completion tokens of all lessons, in float32, prompts and padding left out.

    Adds its gradient to the student's parameters, group by group; `update` steps.

    Raises:
        DivergedError: the loss is not finite.
        ValueError: a completion fits one model's context and not the other's, or there is no completion token.
    """
    student_rows = collate(student, [(student.encode_prompt(asked), ids) for asked, _, ids in lessons])
    teacher_rows = collate(teacher, [(teacher.encode_prompt(asked), ids) for _, asked, ids in lessons])
    if not torch.equal(student_rows.completion_mask.sum(-1), teacher_rows.completion_mask.sum(-1)):
        msg = f"a completion fits into the context of only one of {teacher.name} and {student.name}"
        raise ValueError(msg)

    def divergence_sum(group: Sequences) -> torch.Tensor:
        student_KV, _ = completion_logits(student, group)
        with torch.no_grad():
            teacher_KV, _ = completion_logits(teacher, teacher_rows.select(group.index))
        words = min(student_KV.shape[-1], teacher_KV.shape[-1])  # what is beyond fills an embedding to a round size
        return divergence(student_KV[:, :words].float(), teacher_KV[:, :words].float()).sum()

    return accumulate(student_rows, divergence_sum, student_rows.tokens, groups)
