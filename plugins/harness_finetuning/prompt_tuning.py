"""Prompt tuning: learn the vectors of a few tokens that stand before every prompt, and nothing else.

Paper: Lester et al. 2021, arXiv:2104.08691, sec. 2: the model reads [P; E(x)], and only P learns, by the loss on y.
P begins as the embeddings of words: of real prompts here (the paper: of frequent words, or of the class labels).
Data: the train split, with its worked solutions where it has them. Trains: P, k x d weights. Saved as PEFT's
PROMPT_TUNING. Known to be weak on small models (the paper's fig. 1): a low row on the board is a finding, not a fault.
Cost: about 4 N a token in training, and k tokens more a prompt, in training and for every answer; they count as tokens.
Shapes: k virtual tokens, d width. Left out: ensembles of prompts, Adafactor (this is AdamW).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from harness import Model, Run, TrainingData, hookimpl
from harness.toolbox import (
    VirtualTokens,
    embedding_layer,
    fine_tune,
    first_tokens,
    freeze,
    read_adapter,
    worked_examples,
    write_adapter,
)


class SoftPrompt(nn.Module):
    """P (k, d), in float32, put in the place of the virtual tokens' embeddings."""

    def __init__(self, model: Model, P: torch.Tensor) -> None:
        super().__init__()
        embedding = embedding_layer(model)
        self.P, self.virtual_tokens = nn.Parameter(P.to(embedding.weight.device, torch.float32)), len(P)
        self.places = VirtualTokens(embedding)
        embedding.register_forward_hook(self.put)

    def put(self, _embedding: nn.Module, _inputs: object, embedded: torch.Tensor) -> torch.Tensor:
        """[P; E(x)]: what the first layer reads."""
        return self.places.fill(embedded, self.P)

    def save(self, folder: Path) -> None:
        """In PEFT's layout."""
        config = {
            "peft_type": "PROMPT_TUNING",
            "task_type": "CAUSAL_LM",
            "num_virtual_tokens": self.virtual_tokens,
            "token_dim": self.P.shape[1],
            "num_transformer_submodules": 1,
        }
        write_adapter(folder, config, {"prompt_embeddings": self.P})


@dataclass(frozen=True)
class PromptTuning:
    name: ClassVar[str] = "prompt-tuning"
    family: ClassVar[str] = "fine-tuning"
    k: int = 16
    """Virtual tokens; the paper tries 1 to 150 and settles on 100, longer than the embedded world's prompts."""
    lr: float = 3e-1
    """Peak learning rate of AdamW: far above full fine-tuning's, as a few embeddings do all; the paper's 0.3."""
    batch_size: int = 16
    """Examples an optimiser step."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        freeze(model)
        model.adapter = SoftPrompt(model, self.start(model, data, run))
        fine_tune(model, worked_examples(data), run, self.lr, self.batch_size)

    def start(self, model: Model, data: TrainingData, run: Run) -> torch.Tensor:
        """Embeddings of the first k tokens of prompts: from random vectors, like no word, small models hardly learn."""
        ids = first_tokens(model, data.problems, self.k, run.seed("words"))
        return embedding_layer(model).weight[ids].detach()

    def attach(self, model: Model, folder: Path) -> None:
        _, tensors = read_adapter(folder, "PROMPT_TUNING")
        model.adapter = SoftPrompt(model, tensors["prompt_embeddings"])


@hookimpl
def harness_methods() -> list[type]:
    return [PromptTuning]
