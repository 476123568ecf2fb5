"""Sequence-level distillation: a larger model writes the solutions, and the student is fine-tuned on the right ones.

Paper: Kim & Rush 2016, arXiv:1606.07947, sec. 3.2: KL between distributions over whole answers, with the teacher's
replaced by what it writes: L = - sum_t log pi(y_t | x, y_<t) / |y| over y that the teacher wrote. Only text goes from
one to the other, so their vocabularies may differ.
Data: the train questions; their answers decide which solutions are kept, their rationales are not read.
Trains: every weight. Cost: the teacher's samples, drawn as they are needed; they are booked, not budgeted.
Left out: beam search, the paper's way to the teacher's mode (greedy or a sample stands for it), and sec. 3.3's
interpolation with the data. The filter is not the paper's: STaR's, Zelikman et al. 2022, arXiv:2203.14465.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness import Model, Problem, Run, TrainingData, hookimpl
from harness.toolbox import adamw, completion_loss, cosine_with_warmup, sample_many, set_rate, update


@dataclass(frozen=True)
class SequenceDistillation:
    name: ClassVar[str] = "sequence-distillation"
    family: ClassVar[str] = "fine-tuning"
    models: ClassVar[tuple[str, ...]] = ("teacher",)
    teacher: str = "tiny-teacher"
    """Any model: only its text is read. By default the embedded world's larger one, which the cue makes think."""
    cue: str = "Let's think step by step."
    """Put behind the question for the teacher alone; empty for a teacher that thinks unasked."""
    asked: int = 128
    """Problems the teacher is asked at once: many side by side take it little longer than few."""
    samples: int = 1
    """Solutions the teacher writes a problem, of which one is learnt."""
    temperature: float = 1.0
    """Of the teacher's samples; at 0 all are the same."""
    verified: bool = True
    """Keep only what ends in the right answer."""
    lr: float = 3e-4
    """Peak learning rate of AdamW; suits models of a million parameters."""
    batch_size: int = 16
    """Solutions an optimiser step."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        teacher = run.model(self.teacher)
        optimizer = adamw(model, self.lr)
        for problems in run.batches(data.problems, self.asked):
            taught = self.solutions(teacher, problems, data, run)
            for first in range(0, len(taught), self.batch_size):
                if run.left <= 0:
                    return
                loss = completion_loss(model, taught[first : first + self.batch_size])
                set_rate(optimizer, self.lr * cosine_with_warmup(run))
                update(optimizer)
                run.log(loss=loss, solved=len(taught) / len(problems))

    def solutions(
        self, teacher: Model, problems: Sequence[Problem], data: TrainingData, run: Run
    ) -> list[tuple[str, str]]:
        """(question, the teacher's solution), at most one a problem: the first that was ended, and right if asked."""
        asked = [f"{p.prompt} {self.cue}".strip() for p in problems]
        drawn = sample_many(
            teacher, asked, run, ids=[p.id for p in problems], n=self.samples, temperature=self.temperature
        )
        kept = []
        for problem, completions in zip(problems, drawn, strict=True):
            ended = (c.text for c in completions if c.finish == "eos")  # one cut short would be learnt as if it ended
            good = (t for t in ended if not self.verified or data.verify(problem, t)[0])
            kept += [(problem.prompt, text) for text in list(good)[:1]]
        return kept


@hookimpl
def harness_methods() -> list[type]:
    return [SequenceDistillation]
