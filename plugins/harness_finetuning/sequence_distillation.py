"""Sequence-level distillation: a larger model writes the solutions, and the student is fine-tuned on the right ones.

Paper: Kim & Rush 2016, arXiv:1606.07947, sec. 3.2: KL between distributions over whole answers, with the teacher's
replaced by what it writes: L = - sum_t log pi(y_t | x, y_<t) / |y| over y that the teacher wrote. Only text goes from
one to the other, so their vocabularies may differ.
Data: the train questions; their answers decide which solutions are kept, their rationales are not read.
Trains: every weight. Cost: the teacher's samples, drawn once; they are booked, not budgeted.
Left out: beam search, the paper's way to the teacher's mode (greedy or a sample stands for it), and sec. 3.3's
interpolation with the data. The filter is not the paper's: STaR's, Zelikman et al. 2022, arXiv:2203.14465.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness import Model, Problem, Run, TrainingData, hookimpl
from harness.toolbox import fine_tune, sample_many


@dataclass(frozen=True)
class SequenceDistillation:
    name: ClassVar[str] = "sequence-distillation"
    family: ClassVar[str] = "fine-tuning"
    models: ClassVar[tuple[str, ...]] = ("teacher",)
    teacher: str = "tiny-teacher"
    """Any model: only its text is read. By default the embedded world's larger one, which the cue makes think."""
    cue: str = "Let's think step by step."
    """Put behind the question for the teacher alone; empty for a teacher that thinks unasked."""
    problems: int = 900
    """Problems the teacher is given; its solutions are gone through as often as the budget allows."""
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
        rng = random.Random(run.seed("problems"))  # noqa: S311 - data order, not secrets
        problems = rng.sample(data.problems, min(self.problems, len(data.problems)))
        taught = self.solutions(run.model(self.teacher), problems, data, run)
        if not taught:
            msg = f"the teacher {self.teacher} solved none of {len(problems)} problems: nothing to learn from"
            raise ValueError(msg)
        run.log(solved=len(taught) / len(problems))
        fine_tune(model, taught, run, self.lr, self.batch_size)

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
