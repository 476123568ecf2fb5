"""What the machine can do at most, measured in the same run: the rate of bare matrix products, and that of memory.

A work's share of its limit is the time that its matrix products would take at that rate over the time that it took:
6 N a token trained (2 N forward, 4 N backward), 4 N where next to no weight has a gradient (LoRA), 2 N a token read or
decoded. N counts the parameters, and tokens are real ones, without padding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch
from torch import nn

from benchmarks.pairs import clock_of
from harness.contracts import Device, Model
from harness.toolbox.batching import group_tokens
from harness.toolbox.products import fast_products

REPEATS = 7
"""The fastest counts: a limit is what was reached, and neighbours on the machine only slow it down."""
COPY_BYTES = 1 << 28
SHORTEST_S = 0.02
"""Beside which what a look at the clock costs is nothing."""


def gemm_rate(model: Model, rows: int) -> float:
    """FLOP/s of the products of `rows` tokens with each weight matrix of a layer of `model`, on its device."""
    module: Any = model.module
    weights = [part.weight.detach() for part in module.model.layers[0].modules() if isinstance(part, nn.Linear)]
    inputs = {width: weights[0].new_ones(rows, width) for width in {weight.shape[1] for weight in weights}}
    flops = sum(2.0 * rows * weight.numel() for weight in weights)

    def products() -> None:
        for weight in weights:
            F.linear(inputs[weight.shape[1]], weight)

    with torch.inference_mode(), fast_products():
        return flops / fastest(model.device, products)


def training_rate(model: Model) -> float:
    """FLOP/s of the products of as many tokens as suit one pass of training on the model's device."""
    return gemm_rate(model, group_tokens(torch.device(model.device.name)))


def memory_rate(device: Device) -> float:
    """Bytes a second that the device reads and writes when it copies a large block."""
    block = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device.name)
    target = torch.empty_like(block)
    return 2 * COPY_BYTES / fastest(device, lambda: target.copy_(block))


def fastest(device: Device, work: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs, each long enough for the clock."""
    clock, calls, times = clock_of(device), 1, list[float]()
    while len(times) < REPEATS:
        started = clock()
        for _ in range(calls):
            work()
        took = clock() - started
        if took < SHORTEST_S and not times:
            calls *= 2
        else:
            times.append(took / calls)
    return min(times)


def matrix_seconds(model: Model, rate: float, *, trained: float = 0, read: float = 0, per_trained: int = 6) -> float:
    """Seconds that `trained` tokens, and `read` ones (forward alone), take at `rate`; N leaves an adapter out."""
    parameters = sum(parameter.numel() for parameter in model.module.parameters())
    return (per_trained * trained + 2 * read) * parameters / rate


def decoding_seconds(model: Model, tokens: float, steps: float, rows: int) -> float:
    """Seconds that decoding takes at least: on a processor its products, elsewhere the weights read once a step.

    tokens: prompts, each once, and what was sampled. steps: passes through the weights. rows: decoded side by side.
    """
    if model.device.name == "cpu":
        return matrix_seconds(model, gemm_rate(model, rows), read=tokens)
    size = sum(p.numel() * p.element_size() for p in model.module.parameters())
    return steps * size / memory_rate(model.device)
