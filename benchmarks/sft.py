"""Supervised fine-tuning beside TRL's `SFTTrainer`: whole runs on the same batches, tokenization included."""

from __future__ import annotations

import dataclasses
import statistics
from functools import partial
from typing import Any

from trl import SFTConfig, SFTTrainer

from benchmarks.course import Course, compare, examples, lengths_of, losses, train, worked, world
from benchmarks.limit import matrix_seconds, training_rate
from benchmarks.models import SEED, Setting
from benchmarks.pairs import OURS, Figures, Ratio, interleave, whole_run
from benchmarks.tuned_trl import Rates, options, run_trainer, says
from harness import Problem, Run, TrainingData
from harness.builtin.causal_lm import CausalLM
from harness_finetuning.sft import SFT

GOALS = {"tiny": 1.5, "smollm2": 1.4}
BATCH = {"tiny": 16, "smollm2": 4}
RATES = {"tiny": SFT.lr, "smollm2": 2e-5}
TRL, GROUPED = "trl", "trl, group_by_length"


def measure(setting: Setting) -> dict[str, Figures]:
    """SFT for some steps."""
    method = SFT(lr=RATES[setting.kind], batch_size=BATCH[setting.kind])
    return {"sft": compare_supervised(setting, method, GOALS[setting.kind])}


def compare_supervised(
    setting: Setting, method: Any, goal: float, *, per_trained: int = 6, digits: bool = True, **given: Any
) -> Figures:
    """A method that learns worked solutions, beside `SFTTrainer` with what it is `given` besides.

    per_trained: FLOPs a token and parameter. digits: whether both sides' losses must be the same throughout.
    """
    data, size = worked(world().training()), method.batch_size
    count = size * setting.scaled(16, 4, 2)
    problems = examples(setting, data, count)
    course = Course.of(problems, size, lambda p: lengths_of(setting.model, p.prompt, data.render_target(p, True)))
    contest = Supervised(setting, method, data, course, given)
    sides = {
        OURS: whole_run(setting.model.clone, contest.ours),
        TRL: whole_run(setting.model.clone, partial(contest.trl, strategy="sequential")),
        GROUPED: whole_run(setting.model.clone, partial(contest.trl, strategy="group_by_length")),
    }
    seconds = interleave(sides, setting.pairs, setting.clock)
    rate = training_rate(setting.model)
    least = matrix_seconds(setting.model, rate, trained=course.budget, per_trained=per_trained)
    return Figures.of(
        f"run of {len(course.batches)} steps of {size}",
        seconds,
        TRL,
        limit_share=least / statistics.median(seconds[OURS]),
        padding=course.padding,
        at_least=goal,
        notes=contest.notes(seconds, digits=digits),
    )


class Supervised:
    """The two sides, and what they leave to be told."""

    def __init__(
        self, setting: Setting, method: Any, data: TrainingData, course: Course[Problem], given: dict[str, Any]
    ) -> None:
        self.setting, self.method, self.course, self.given = setting, method, course, given
        self.data = dataclasses.replace(data, problems=course.items)
        self.rows = [
            {"prompt": says("user", p.prompt), "completion": says("assistant", data.render_target(p, True))}
            for p in course.in_order
        ]
        self.losses: dict[str, list[float]] = {}
        self.set_up: list[float] = []

    def ours(self, model: CausalLM) -> None:
        """The method as a stage of a run trains it."""
        run = train(self.method, model, self.data, Run(SEED, budget=self.course.budget))
        self.losses[OURS] = losses(run.curve)

    def trl(self, model: CausalLM, strategy: str) -> None:
        """TRL, the rows in the order of our batches, or in batches of its own of like length."""
        clock, rate = self.setting.clock, self.method.lr
        started, ready = clock(), list[float]()
        chosen = {"train_sampling_strategy": strategy}
        trainer = run_trainer(
            (SFTTrainer, SFTConfig),
            self.setting,
            self.rows,
            options(self.setting, rate, len(self.course.batches), self.method.batch_size) | chosen,
            lambda: ready.append(clock() - started),
            model=model.module,
            callbacks=[Rates([rate * factor for factor in self.course.factors])],
            **self.given,
        )
        if strategy == "sequential":
            self.losses[TRL], self.set_up = losses(trainer.state.log_history), [*self.set_up, *ready]

    def notes(self, seconds: dict[str, list[float]], *, digits: bool) -> tuple[str, ...]:
        """Losses, the peer's set-up, and the peer with batches of its own."""
        mine, theirs = self.losses[OURS], self.losses[TRL]
        set_up = statistics.median(self.set_up[1:])
        steps = [whole - before for whole, before in zip(seconds[TRL], self.set_up[1:], strict=True)]
        return (
            compare(mine, theirs) if digits else compare(mine[:1], theirs[:1]),
            f"TRL's set-up takes {set_up:.2f} s of its run; without it {Ratio.of(steps, seconds[OURS])}",
            f"against TRL with group_by_length, which makes other batches: {Ratio.of(seconds[GROUPED], seconds[OURS])}",
        )
