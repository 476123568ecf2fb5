"""Products of activations and weights by oneDNN, where the library that torch itself takes is slower.

For float32 torch calls MKL, which leaves half of an AVX-512 processor idle where Intel did not make it. oneDNN comes
with torch, and is as fast on all. What it runs is made for one number of rows, and kept: a new number costs a tenth of
a millisecond, so batches are filled up to a few `steady` ones.
Shapes: R rows, I inputs, O outputs; M, N any.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

FEWEST_ROWS = 24
SMALLEST = 1 << 22
"""Multiplications. With fewer of them, or of rows, a call costs more than it saves."""
FEWEST_STEADY = 96
"""Rows. Of fewer, most products are small anyway, and as many again would be read in vain."""
plain = F.linear


def available() -> bool:
    """Whether torch has oneDNN, and the processor what it is best at."""
    has: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


@contextlib.contextmanager
def fast_products() -> Iterator[None]:
    """Inside, whatever calls `F.linear`, layers with hooks among them, has large products by oneDNN."""
    before = F.linear
    if available():
        F.linear = linear  # type: ignore[assignment]
    try:
        yield
    finally:
        F.linear = before


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """(..., O) of (..., I), (O, I) and (O,): `F.linear`, but for the last bits."""
    size = x.numel()
    if size * weight.shape[0] < SMALLEST or size < FEWEST_ROWS * x.shape[-1]:
        return plain(x, weight, bias)
    fits = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    if not fits or torch.is_autocast_enabled("cpu"):
        return plain(x, weight, bias)
    product = _Product.apply if torch.is_grad_enabled() else _product
    found: torch.Tensor = product(x, weight, bias)
    return found


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    # The op that torch's compiler takes for a linear layer; torch offers no public way to it.
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # noqa: SLF001
    return found


class _Product(torch.autograd.Function):
    """With its gradients, which are such products again and have gradients as well."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        given_x, weight = ctx.saved_tensors
        # What is spread out from fewer numbers, as the gradient of a sum, oneDNN takes seconds to prepare for.
        x, grad = given_x.contiguous(), grad.contiguous()
        for_x, for_weight, for_bias = ctx.needs_input_grad
        x_RI, grad_RO = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        return (
            _laid_out_as(given_x, linear(grad, weight.t())) if for_x else None,
            _laid_out_as(weight, _turned_product(grad_RO, x_RI)) if for_weight else None,
            grad_RO.sum(0) if for_bias else None,
        )


def _turned_product(a_RM: torch.Tensor, b_RN: torch.Tensor) -> torch.Tensor:
    """(M, N) sum over the rows. The narrower side goes first: that one is copied."""
    if a_RM.shape[1] <= b_RN.shape[1]:
        return linear(a_RM.t(), b_RN.t())
    return linear(b_RN.t(), a_RM.t()).t()


def _laid_out_as(given: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """As torch does, for there are those who flatten a gradient."""
    turned = given.ndim == 2 and not given.is_contiguous()  # noqa: PLR2004 - a matrix
    return grad.t().contiguous().t() if turned else grad.contiguous()


def steady(count: int) -> int:
    """How many rows to read for `count` that are wanted: up to an eighth more. Outside `fast_products`, just these."""
    if F.linear is not linear or count < FEWEST_STEADY:
        return count
    step = 1 << (count.bit_length() - 4)
    return -(-count // step) * step


def fill(chosen: torch.Tensor, allowed: torch.Tensor | None = None) -> torch.Tensor:
    """(...) booleans with some more of the `allowed` places, by default any, so that their number is steady."""
    if F.linear is not linear:
        return chosen
    count = int(chosen.sum())
    missing = steady(count) - count
    if not missing:
        return chosen
    spare = ~chosen if allowed is None else allowed & ~chosen
    filled = chosen.clone()
    filled.view(-1)[spare.view(-1).nonzero()[:missing, 0]] = True
    return filled
