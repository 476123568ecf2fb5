"""Adapters: small bottleneck networks behind attention and MLP learn the task; the model itself stays as it is.

Paper: Houlsby et al. 2019, arXiv:1902.00751, sec. 2.1 and fig. 2: two adapters a layer, before each residual addition.
h <- h + W_up act(W_down h + b_down) + b_up; W_up = b_up = 0 at the start, so that training begins at the base model.
Data: the train split, with its worked solutions where it has them. Trains: 2 m d + d + m weights an adapter.
Cost: about 4 N a token in training. The nonlinearity cannot be merged into the weights: every answer is slower, too.
Saved as our own adapter_config.json and adapter_model.safetensors: PEFT has no such adapter for decoders.
Shapes: d width, m bottleneck. Left out: training the layer norms (the paper does; here they stay frozen).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch
from torch import nn

from harness import Model, Run, TrainingData, hookimpl
from harness.toolbox import fine_tune, freeze, linear_layers, read_adapter, worked_examples, write_adapter

KIND = "HOULSBY"
BEHIND = ("o_proj", "down_proj")
"""Last layers of attention and of the MLP: what they give is added to the residual stream."""


class Bottleneck(nn.Module):
    """One adapter, in float32 whatever its layer is in: an identity at first, as W_up and b_up are 0."""

    def __init__(self, width: int, bottleneck: int, generator: torch.Generator) -> None:
        super().__init__()
        self.W_down, self.b_down = nn.Parameter(torch.empty(bottleneck, width)), nn.Parameter(torch.zeros(bottleneck))
        self.W_up, self.b_up = nn.Parameter(torch.zeros(width, bottleneck)), nn.Parameter(torch.zeros(width))
        nn.init.kaiming_uniform_(self.W_down, a=math.sqrt(5), generator=generator)  # else W_up had no gradient

    def change(self, _layer: nn.Module, _inputs: object, h: torch.Tensor) -> torch.Tensor:
        """Sec. 2.1: h + W_up act(W_down h)."""
        inner = F.gelu(F.linear(h.to(self.W_down.dtype), self.W_down, self.b_down))
        return h + F.linear(inner, self.W_up, self.b_up).to(h.dtype)


class Bottlenecks(nn.Module):
    """The adapters of all layers, hooked in behind them."""

    virtual_tokens: int = 0

    def __init__(self, model: Model, bottleneck: int, seed: int = 0) -> None:
        super().__init__()
        layers, generator = linear_layers(model, BEHIND), torch.Generator().manual_seed(seed)
        self.names, self.bottleneck, self.parts = tuple(layers), bottleneck, nn.ModuleList()
        for layer in layers.values():
            part = Bottleneck(layer.out_features, bottleneck, generator).to(layer.weight.device)
            layer.register_forward_hook(part.change)
            self.parts.append(part)

    def save(self, folder: Path) -> None:
        """`parts.i` is the adapter behind the i-th of `layers`."""
        config = {"peft_type": KIND, "bottleneck": self.bottleneck, "layers": self.names}
        write_adapter(folder, config, self.state_dict())


@dataclass(frozen=True)
class Adapters:
    name: ClassVar[str] = "adapters"
    family: ClassVar[str] = "fine-tuning"
    bottleneck: int = 32
    """m: a quarter of the embedded model's width, which makes about as many weights as LoRA's rank 8."""
    lr: float = 4e-3
    """Peak learning rate of AdamW, as LoRA's."""
    batch_size: int = 16
    """Examples an optimiser step."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        freeze(model)
        model.adapter = Bottlenecks(model, self.bottleneck, run.seed("adapters"))
        fine_tune(model, worked_examples(data), run, self.lr, self.batch_size)

    def attach(self, model: Model, folder: Path) -> None:
        config, tensors = read_adapter(folder, KIND)
        adapter = Bottlenecks(model, config["bottleneck"])
        adapter.load_state_dict(tensors)
        model.adapter = adapter


@hookimpl
def harness_methods() -> list[type]:
    return [Adapters]
