"""Supervised fine-tuning beside TRL's `SFTTrainer`: whole runs on the same batches, tokenization included."""

from __future__ import annotations

import dataclasses
import statistics
from functools import partial
from typing import Any

from trl import SFTConfig, SFTTrainer

from benchmarks.course import Course, compare, examples, lengths_of, losses, train, worked, world
from benchmarks.limit import gemm_rate, matrix_seconds
from benchmarks.models import SEED, Setting
from benchmarks.pairs import OURS, Figures, Ratio, Side, Work, interleave
from benchmarks.tuned_trl import Rates, options, run_trainer, says
from harness import Problem, Run, TrainingData
from harness.toolbox.batching import group_tokens
from harness_finetuning.sft import SFT

GOALS = {"tiny": 1.5, "smollm2": 1.4}
BATCH = {"tiny": 16, "smollm2": 4}
TRL, GROUPED = "trl", "trl, group_by_length"


def measure(setting: Setting) -> dict[str, Figures]:
    """SFT for some steps."""
    return {"sft": compare_supervised(setting, SFT(batch_size=BATCH[setting.kind]), GOALS[setting.kind])}


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
    sides: dict[str, Side] = {OURS: contest.ours, TRL: partial(contest.trl, "sequential")}
    seconds = interleave({**sides, GROUPED: partial(contest.trl, "group_by_length")}, setting.pairs, setting.clock)
    rate = gemm_rate(setting.model, group_tokens(next(setting.model.parameters()).device))
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
        self.setting, self.method, self.data, self.course, self.given = setting, method, data, course, given
        self.losses: dict[str, list[float]] = {}
        self.set_up: list[float] = []

    def ours(self) -> Work:
        """The method as a stage of a run trains it."""
        model, data = self.setting.model.clone(), dataclasses.replace(self.data, problems=self.course.items)

        def work() -> float:
            self.losses[OURS] = losses(train(self.method, model, data, Run(SEED, budget=self.course.budget)).curve)
            return 1

        return work

    def trl(self, strategy: str) -> Work:
        """TRL, the items in the order of our batches, or in batches of its own of like length."""
        module = self.setting.model.clone().module
        problems, steps, rate = self.course.in_order, len(self.course.batches), self.method.lr
        rows = [
            {"prompt": says("user", p.prompt), "completion": says("assistant", self.data.render_target(p, True))}
            for p in problems
        ]
        arguments = options(self.setting, rate, steps, self.method.batch_size) | {"train_sampling_strategy": strategy}
        rates = Rates([rate * factor for factor in self.course.factors])
        clock = self.setting.clock

        def work() -> float:
            started = clock()
            ready: list[float] = []
            trainer = run_trainer(
                (SFTTrainer, SFTConfig),
                self.setting,
                rows,
                arguments,
                lambda: ready.append(clock() - started),
                model=module,
                callbacks=[rates],
                **self.given,
            )
            if strategy == "sequential":
                self.losses[TRL], self.set_up = losses(trainer.state.log_history), [*self.set_up, *ready]
            return 1

        return work

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
