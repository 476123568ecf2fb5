"""LoRA: learn a low-rank change of each weight matrix, and leave the matrix itself as it is.

Papers: Hu et al. 2021, arXiv:2106.09685, sec. 4.1, eq. (3); Kalajdzievski 2023, arXiv:2312.03732 (rsLoRA).
h = W0 x + (alpha / r) B A x; A random, B = 0, so that training begins at the base model. rsLoRA: alpha / sqrt(r).
Data: the train split, with its worked solutions where it has them. Trains: A and B of every linear layer but the
output layer (the paper: query and value alone). Saved as PEFT's LORA.
Cost: about 4 N a token, full fine-tuning 6 N: few weights train, but the backward pass goes through all of them. Merged
into W0, an answer costs what the base model's does.
Shapes: I inputs and O outputs of a layer, r rank. Left out: dropout, a rank or scale of each layer's own, DoRA.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch
from torch import nn

from harness import Model, Run, TrainingData, hookimpl
from harness.toolbox import fine_tune, freeze, linear_layers, read_adapter, worked_examples, write_adapter

KEY = "base_model.model.{}.lora_{}.weight"
"""PEFT's name of a layer's A or B."""


class LowRank(nn.Module):
    """The change of one layer: A (r, I) and B (O, r), in float32 whatever the layer is in."""

    def __init__(self, A: torch.Tensor, B: torch.Tensor, scale: float) -> None:
        super().__init__()
        self.A, self.B, self.scale = nn.Parameter(A.float()), nn.Parameter(B.float()), scale

    def add(self, _layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """Eq. (3), scaled: h = W0 x + scale B A x."""
        change = F.linear(F.linear(inputs[0].to(self.A.dtype), self.A), self.B)
        return output + (self.scale * change).to(output.dtype)

    @torch.no_grad()
    def merge(self, layer: nn.Linear) -> None:
        """W = W0 + scale B A, summed in float32: rounded to bfloat16 first, much of the change would be lost."""
        layer.weight.copy_(layer.weight.float() + self.scale * (self.B @ self.A))


class LowRanks(nn.Module):
    """The changes of all layers, by the layers' names."""

    virtual_tokens: int = 0

    def __init__(self, config: Mapping[str, Any], pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        super().__init__()
        self.config = {"r": config["r"], "lora_alpha": config["lora_alpha"], "use_rslora": config["use_rslora"]}
        scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config["use_rslora"] else config["r"])
        self.changes = {name: LowRank(*pairs[name], scale) for name in sorted(pairs)}
        self.parts = nn.ModuleList(self.changes.values())

    def save(self, folder: Path) -> None:
        """In PEFT's layout."""
        tensors = {KEY.format(name, "A"): change.A for name, change in self.changes.items()}
        tensors |= {KEY.format(name, "B"): change.B for name, change in self.changes.items()}
        targets = sorted({name.rpartition(".")[2] for name in self.changes})
        fixed = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "target_modules": targets}
        write_adapter(folder, {**fixed, **self.config}, tensors)


@dataclass(frozen=True)
class LoRA:
    name: ClassVar[str] = "lora"
    family: ClassVar[str] = "fine-tuning"
    r: int = 8
    """Rank of each change."""
    alpha: int = 64
    """The change is scaled by alpha / sqrt(r), so that another rank needs no other learning rate."""
    rslora: bool = True
    """`false` scales by alpha / r, as the first paper does: the higher the rank, the slower each pair learns."""
    layers: str = "all"
    """`all`, or last names of the layers to change; `q_proj,v_proj` is the paper's choice."""
    merge: bool = True
    """Add the changes to the weights before answering; `false` keeps them beside, which costs time."""
    lr: float = 4e-4
    """Peak learning rate of AdamW; goes with the scale: without `rslora` it wants several times as much."""
    batch_size: int = 16
    """Examples an optimiser step."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        freeze(model)
        self.put(model, self.start(model, run.seed("lora")), merge=False)
        fine_tune(model, worked_examples(data), run, self.lr, self.batch_size)

    def start(self, model: Model, seed: int) -> LowRanks:
        """A random and B = 0: changes of nothing."""
        generator, pairs = torch.Generator().manual_seed(seed), {}
        for name, layer in linear_layers(model, () if self.layers == "all" else self.layers.split(",")).items():
            A, B = torch.empty(self.r, layer.in_features), torch.zeros(layer.out_features, self.r)
            nn.init.kaiming_uniform_(A, a=math.sqrt(5), generator=generator)  # as in the authors' code
            pairs[name] = (A, B)
        return LowRanks({"r": self.r, "lora_alpha": self.alpha, "use_rslora": self.rslora}, pairs)

    def put(self, model: Model, adapter: LowRanks, *, merge: bool) -> None:
        """Merge the changes into the weights of their layers, or hook them in beside."""
        layers = linear_layers(model, adapter.changes)
        for name, change in adapter.changes.items():
            change.to(layers[name].weight.device)
            if merge:
                change.merge(layers[name])
            else:
                layers[name].register_forward_hook(change.add)
        model.adapter = None if merge else adapter

    def attach(self, model: Model, folder: Path) -> None:
        config, tensors = read_adapter(folder, "LORA")
        names = dict.fromkeys(key.removeprefix("base_model.model.").rpartition(".lora_")[0] for key in tensors)
        special = [key for key in ("rank_pattern", "alpha_pattern", "layer_replication") if config.get(key)]
        if special or set(tensors) != {KEY.format(name, part) for name in names for part in "AB"}:
            msg = f"{folder} holds more than A and B of linear layers: {special or sorted(tensors)[:3]}"
            raise ValueError(msg)
        pairs = {name: (tensors[KEY.format(name, "A")], tensors[KEY.format(name, "B")]) for name in names}
        self.put(model, LowRanks({"use_rslora": False, **config}, pairs), merge=self.merge)


@hookimpl
def harness_methods() -> list[type]:
    return [LoRA]
