"""TRL as somebody tunes it who knows this machine: without that it is many times slower, and beating it says nothing.

No mixed precision on a processor, no gradient checkpointing, fused AdamW, data in the given order, our learning rates.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
from transformers import TrainerCallback

from benchmarks.models import SEED, Setting
from harness.toolbox import set_rate


class Rates(TrainerCallback):
    """Sets the rate of each step, so that the weights stay the same as ours."""

    def __init__(self, rates: Sequence[float]) -> None:
        self.rates = rates

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Called between the clipping of the gradients and the step."""
        del args, control
        set_rate(given["optimizer"], self.rates[state.global_step])


def options(setting: Setting, rate: float, steps: int, rows: int) -> dict[str, Any]:
    """Arguments that all of TRL's trainers are given. rows: a batch."""
    on_cpu = setting.model.device.name == "cpu"
    return {
        "use_cpu": on_cpu,
        "bf16": not on_cpu,
        "gradient_checkpointing": False,
        "optim": "adamw_torch_fused",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "lr_scheduler_type": "constant",
        "learning_rate": rate,
        "max_steps": steps,
        "per_device_train_batch_size": rows,
        "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": not on_cpu,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": SEED,
    }


def run_trainer(
    kinds: tuple[Any, Any],
    setting: Setting,
    rows: Sequence[Mapping[str, Any]],
    arguments: Mapping[str, Any],
    ready: Callable[[], object] = lambda: None,
    **given: Any,
) -> Any:
    """Make one of TRL's trainers and train; the trainer. kinds: its class and that of its arguments.

    ready: called when it is made and has its data, before the first step.
    """
    make, configure = kinds
    datasets.disable_caching()  # each run reads and tokenizes anew, as ours does
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(
            args=configure(output_dir=folder, **arguments),
            train_dataset=datasets.Dataset.from_list([dict(row) for row in rows]),
            processing_class=copy.deepcopy(setting.model.tokenizer),
            **given,
        )
        ready()
        trainer.train()
    return trainer


def says(role: str, text: str) -> list[dict[str, str]]:
    """A turn of a conversation."""
    return [{"role": role, "content": text}]
