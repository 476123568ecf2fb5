"""LoRA beside TRL's `SFTTrainer` with PEFT: the same rank, scale and layers, whole runs on the same batches."""

from __future__ import annotations

from peft import LoraConfig

from benchmarks.models import Setting
from benchmarks.pairs import Figures
from benchmarks.sft import BATCH, compare_supervised
from harness_finetuning.lora import LoRA

GOALS = {"tiny": 1.7, "smollm2": 1.7}


def measure(setting: Setting) -> dict[str, Figures]:
    """LoRA for some steps. A is random on each side, so that only the first loss is the same."""
    method = LoRA(batch_size=BATCH[setting.kind])
    config = LoraConfig(
        r=method.r,
        lora_alpha=method.alpha,
        use_rslora=method.rslora,
        target_modules="all-linear",
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    goal = GOALS[setting.kind]
    return {"lora": compare_supervised(setting, method, goal, per_trained=4, digits=False, peft_config=config)}
