"""What the harness adds to a method: a stage that it trains beside the same loop written out, with nothing around it.

Two lines. `overhead` is the loop alone: the method under the meter, which counts tokens, beside the loop without it.
`overhead-stage` is all that a worker does for a stage: the loop, and beside it hashing, publishing the weights, and
measuring what was forgotten; against a script that loads, trains and saves.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.course import lengths_of, train, world
from benchmarks.models import Setting
from benchmarks.pairs import OURS, Figures, Work, interleave
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


@dataclass(frozen=True)
class Loop:
    """The method trains a copy of the model that is in memory."""

    setting: Setting
    budget: int

    def rates(self) -> list[float]:
        """Of the steps until the budget is spent."""
        model, run, rates = self.setting.model, Run(SEED, budget=self.budget), list[float]()
        for batch in batches():
            run.ledger.trained_tokens += sum(lengths_of(model, prompt, text)[0] for prompt, text in batch)
            rates.append(METHOD.lr * cosine_with_warmup(run))
            if not run.left:
                break
        return rates

    def ours(self) -> Work:
        """As a stage trains it."""
        model, data = self.setting.model.clone(), world().training()

        def work() -> float:
            with arithmetic_for(model.size):
                train(METHOD, model, data, Run(SEED, budget=self.budget))
            return 1

        return work

    def bare(self) -> Work:
        """The loop of a supervised method, written out."""
        model, rates = self.setting.model.clone(), self.rates()
        ready = list(itertools.islice(batches(), len(rates)))

        def work() -> float:
            with arithmetic_for(model.size):
                descend_all(model, zip(ready, rates, strict=True))
            return 1

        return work

    def figures(self) -> Figures:
        """Ours beside the bare loop."""
        seconds = interleave({OURS: self.ours, BARE: self.bare}, self.setting.pairs, self.setting.clock)
        unit = f"loop of {self.budget:,} tokens"
        return Figures.of(unit, seconds, BARE, most_overhead=GOALS[self.setting.kind])


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

    def ours(self) -> Work:
        """The job that a run would give to a worker."""
        device, number = self.setting.model.device.name, len(list(self.start.parent.iterdir()))
        config = RunConfig(
            (CoTSFT.name,), model=str(self.start), dataset=world().name, device=device, train_tokens=self.budget
        )
        [job] = (job for job in make_plan(config, registry.load(), device).jobs if job.kind == "stage")
        store = self.start.parent / f"store-{number}"
        store.mkdir()
        spec = {**job.spec, "key": job.key, "store": str(store)}

        def work() -> float:
            execute(spec, lambda _: None)
            return 1

        return work

    def bare(self) -> Work:
        """A script: load, train, save."""
        loop = Loop(self.setting, self.budget)
        device, rates = self.setting.model.device, loop.rates()
        target = self.start.parent / "bare"

        def work() -> float:
            model = CausalLM.load(self.start, device)
            with arithmetic_for(model.size):
                descend_all(model, zip(batches(), rates, strict=False))
            model.module.save_pretrained(target)  # type: ignore[operator]
            return 1

        return work

    def figures(self) -> Figures:
        """Ours beside the script."""
        pairs = min(STAGE_PAIRS, self.setting.pairs)
        seconds = interleave({OURS: self.ours, BARE: self.bare}, pairs, self.setting.clock)
        unit = f"stage of {self.budget:,} tokens"
        note = "a stage also measures what was forgotten, before and after, which the script does not"
        return Figures.of(unit, seconds, BARE, most_overhead=GOALS[self.setting.kind], notes=(note,))
