"""DPO beside TRL's `DPOTrainer` with the reference computed beforehand: whole runs, that pass included."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

from trl import DPOConfig, DPOTrainer

from benchmarks.course import Course, compare, lengths_of, losses, train, world
from benchmarks.limit import gemm_rate, matrix_seconds
from benchmarks.models import SEED, Setting
from benchmarks.pairs import OURS, Figures, Work, interleave
from benchmarks.tuned_trl import Rates, options, run_trainer, says
from harness import Pair, Run
from harness.toolbox.batching import group_tokens
from harness_rl.dpo import DPO

GOALS = {"tiny": 1.4, "smollm2": 1.3}
BATCH = {"tiny": 16, "smollm2": 4}
TRL = "trl"


def measure(setting: Setting) -> dict[str, Figures]:
    """DPO on some pairs, each read once."""
    method, data = DPO(batch_size=BATCH[setting.kind]), world().training()
    pairs = list(data.pairs)[: method.batch_size * setting.scaled(8, 2, 2)]
    course = Course.of(
        pairs, method.batch_size, lambda p: lengths_of(setting.model, p.prompt, p.chosen, p.rejected), passes=2
    )
    found: dict[str, list[float]] = {}

    def ours() -> Work:
        model, given = setting.model.clone(), dataclasses.replace(data, pairs=course.items)

        def work() -> float:
            found[OURS] = losses(train(method, model, given, Run(SEED, budget=course.budget)).curve)
            return 1

        return work

    def trl() -> Work:
        module = setting.model.clone().module

        def work() -> float:
            found[TRL] = losses(peer(setting, method, course, module).state.log_history)
            return 1

        return work

    seconds = interleave({OURS: ours, TRL: trl}, setting.pairs, setting.clock)
    rate = gemm_rate(setting.model, group_tokens(next(setting.model.parameters()).device))
    read = course.budget / 2  # by the policy, and again by the reference
    least = matrix_seconds(setting.model, rate, trained=read, read=read)
    figures = Figures.of(
        f"run of {len(course.batches)} steps of {method.batch_size} pairs",
        seconds,
        TRL,
        limit_share=least / statistics.median(seconds[OURS]),
        padding=course.padding,
        at_least=GOALS[setting.kind],
        notes=(compare(found[OURS], found[TRL]),),
    )
    return {"dpo": figures}


def peer(setting: Setting, method: DPO, course: Course[Pair], module: Any) -> Any:
    """TRL on the same pairs in the same order."""
    rows = [
        {
            "prompt": says("user", pair.prompt),
            "chosen": says("assistant", pair.chosen),
            "rejected": says("assistant", pair.rejected),
        }
        for pair in course.in_order
    ]
    chosen = {"beta": method.beta, "precompute_ref_log_probs": True}
    arguments = options(setting, method.lr, len(course.batches), method.batch_size) | chosen
    rates = Rates([method.lr * factor for factor in course.factors])
    return run_trainer((DPOTrainer, DPOConfig), setting, rows, arguments, model=module, callbacks=[rates])
