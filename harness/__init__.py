"""harness: what each post-training method buys, and what it costs, on one model, data and budget."""

from harness.contracts import (
    Adapter,
    Answer,
    Completion,
    Conversation,
    Dataset,
    DatasetSpec,
    Device,
    DeviceSpec,
    Instruction,
    Message,
    Method,
    Metric,
    Model,
    ModelSize,
    ModelSpec,
    Pair,
    Problem,
    Prompt,
    Scores,
    Stepwise,
    TrainingData,
)
from harness.hookspecs import hookimpl
from harness.meter import BudgetSpentError, DivergedError, Ledger, Run

__version__ = "0.1.0"

__all__ = [
    "Adapter",
    "Answer",
    "BudgetSpentError",
    "Completion",
    "Conversation",
    "Dataset",
    "DatasetSpec",
    "Device",
    "DeviceSpec",
    "DivergedError",
    "Instruction",
    "Ledger",
    "Message",
    "Method",
    "Metric",
    "Model",
    "ModelSize",
    "ModelSpec",
    "Pair",
    "Problem",
    "Prompt",
    "Run",
    "Scores",
    "Stepwise",
    "TrainingData",
    "hookimpl",
]
