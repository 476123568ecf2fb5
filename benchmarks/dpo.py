"""DPO beside TRL's `DPOTrainer` with the reference computed beforehand: whole runs, that pass included."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

from trl import DPOConfig, DPOTrainer

from benchmarks.course import Course, compare, lengths_of, losses, train, world
from benchmarks.limit import matrix_seconds, training_rate
from benchmarks.models import SEED, Setting
from benchmarks.pairs import OURS, Figures, interleave, whole_run
from benchmarks.tuned_trl import Rates, options, run_trainer, says
from harness import Pair, Run
from harness.builtin.causal_lm import CausalLM
from harness_rl.dpo import DPO

GOALS = {"tiny": 1.4, "smollm2": 1.3}
BATCH = {"tiny": 16, "smollm2": 4}
RATES = {"tiny": DPO.lr, "smollm2": 1e-6}
TRL = "trl"


def measure(setting: Setting) -> dict[str, Figures]:
    """DPO on some pairs, each read once."""
    method, data = DPO(lr=RATES[setting.kind], batch_size=BATCH[setting.kind]), world().training()
    pairs = list(data.pairs)[: method.batch_size * setting.scaled(8, 2, 2)]
    course = Course.of(
        pairs, method.batch_size, lambda p: lengths_of(setting.model, p.prompt, p.chosen, p.rejected), passes=2
    )
    given, found = dataclasses.replace(data, pairs=course.items), dict[str, list[float]]()

    def ours(model: CausalLM) -> None:
        found[OURS] = losses(train(method, model, given, Run(SEED, budget=course.budget)).curve)

    def trl(model: CausalLM) -> None:
        found[TRL] = losses(peer(setting, method, course, model.module).state.log_history)

    sides = {OURS: whole_run(setting.model.clone, ours), TRL: whole_run(setting.model.clone, trl)}
    seconds = interleave(sides, setting.pairs, setting.clock)
    read = course.budget / 2  # by the policy, and again by the reference
    least = matrix_seconds(setting.model, training_rate(setting.model), trained=read, read=read)
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
