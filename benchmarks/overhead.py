"""What the harness adds to a method: a stage that it trains beside the same loop written out, with nothing around it.

Two lines. `overhead` is the loop alone: the method under the meter, which counts tokens, beside the loop without it.
`overhead-stage` is all that a worker does for a stage, which is the loop, hashing, publishing the weights and measuring
what was forgotten, beside a script that loads, trains and saves.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.course import lengths_of, train, world
from benchmarks.models import Setting
from benchmarks.pairs import OURS, Figures, interleave, whole_run
from harness import Model, Run, registry
from harness.builtin.causal_lm import CausalLM
from harness.builtin.devices import arithmetic_for
from harness.cell import execute
from harness.config import RunConfig
from harness.meter import derive_seed
from harness.plan import make_plan
from harness.toolbox import adamw, completion_loss, cosine_with_warmup, set_rate, update, worked_examples
from harness_finetuning.cot_sft import CoTSFT
from harness_world import TRAIN_TOKENS

METHOD = CoTSFT()
GOALS = {"tiny": 0.02, "smollm2": 0.01}
BARE = "bare loop"
SEED = derive_seed("train", 0)
"""Of a stage of the run with seed 0, so that both sides see the same batches."""
STAGE_PAIRS = 3
Batch = Sequence[tuple[Any, str]]
"""(prompt, completion) of each example"""


def measure(setting: Setting) -> dict[str, Figures]:
    """The loop, and the stage."""
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start"
        setting.model.save(start)
        return {
            "overhead": Loop(setting, setting.scaled(16_000, 2_000, 1_000)).figures(),
            "overhead-stage": Stage(setting, setting.scaled(TRAIN_TOKENS, 4_000, 1_000), start).figures(),
        }


class Loop:
    """The method trains a copy of the model that is in memory."""

    def __init__(self, setting: Setting, budget: int) -> None:
        self.setting, self.budget, self.data = setting, budget, world().training()
        rates = rates_of(setting.model, budget)
        self.steps = list(zip(batches(), rates, strict=False))

    def ours(self, model: CausalLM) -> None:
        """As a stage trains it."""
        with arithmetic_for(model.size):
            train(METHOD, model, self.data, Run(SEED, budget=self.budget))

    def bare(self, model: CausalLM) -> None:
        """The loop of a supervised method, written out."""
        with arithmetic_for(model.size):
            descend_all(model, self.steps)

    def figures(self) -> Figures:
        """Ours beside the bare loop."""
        ready = self.setting.model.clone
        sides = {OURS: whole_run(ready, self.ours), BARE: whole_run(ready, self.bare)}
        seconds = interleave(sides, self.setting.pairs, self.setting.clock)
        unit = f"loop of {self.budget:,} tokens"
        return Figures.of(unit, seconds, BARE, most_overhead=GOALS[self.setting.kind])


def rates_of(model: Model, budget: int) -> list[float]:
    """Learning rates of the steps until the budget is spent."""
    run, rates = Run(SEED, budget=budget), list[float]()
    for batch in batches():
        run.ledger.trained_tokens += sum(lengths_of(model, prompt, text)[0] for prompt, text in batch)
        rates.append(METHOD.lr * cosine_with_warmup(run))
        if not run.left:
            break
    return rates


def batches() -> Iterator[Batch]:
    """Those that the method asks for in a stage, of one epoch."""
    examples = worked_examples(world().training(), unworked=False)
    return Run(SEED).batches(examples, METHOD.batch_size, epochs=1)


def descend_all(model: Model, steps: Iterable[tuple[Batch, float]]) -> None:
    """Train on every batch at its rate."""
    optimizer = adamw(model, METHOD.lr)
    for batch, rate in steps:
        completion_loss(model, batch)
        set_rate(optimizer, rate)
        update(optimizer)


@dataclass(frozen=True)
class Stage:
    """A worker trains a stage of a run, from a folder to a folder."""

    setting: Setting
    budget: int
    start: Path

    def job(self) -> dict[str, Any]:
        """What a run would hand to a worker, with a store of its own."""
        device = self.setting.model.device.name
        config = RunConfig(
            (CoTSFT.name,), model=str(self.start), dataset=world().name, device=device, train_tokens=self.budget
        )
        [job] = (job for job in make_plan(config, registry.load(), device).jobs if job.kind == "stage")
        return {**job.spec, "key": job.key, "store": tempfile.mkdtemp(dir=self.start.parent)}

    def script(self, rates: Sequence[float]) -> None:
        """Load, train, save."""
        model = CausalLM.load(self.start, self.setting.model.device)
        with arithmetic_for(model.size):
            descend_all(model, zip(batches(), rates, strict=False))
        model.module.save_pretrained(self.start.parent / "bare")  # type: ignore[operator]

    def figures(self) -> Figures:
        """Ours beside the script."""
        rates = rates_of(self.setting.model, self.budget)
        sides = {
            OURS: whole_run(self.job, lambda spec: execute(spec, lambda _: None)),
            BARE: whole_run(lambda: rates, self.script),
        }
        seconds = interleave(sides, min(STAGE_PAIRS, self.setting.pairs), self.setting.clock)
        unit = f"stage of {self.budget:,} tokens"
        # What the start knew is measured once a worker: here in the round that warms up.
        note = "a stage also measures what was forgotten, which the script does not"
        return Figures.of(unit, seconds, BARE, most_overhead=GOALS[self.setting.kind], notes=(note,))
