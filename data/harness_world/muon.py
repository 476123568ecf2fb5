"""Muon: momentum whose update is made orthogonal, for the weight matrices of a network.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon), with the scale of Liu et al. 2025,
arXiv 2502.16982, section 2.2, under which AdamW's rates and weight decay carry over.
`torch.optim.Muon` works in bfloat16, which is some twenty times slower than float32 on a processor
without that type; this one stays in float32 and stacks the matrices of one shape.
Shapes: G matrices of one shape together, R rows, C columns with R <= C.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch

ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic whose iterates take every singular value near 1 (the post, section "Newton-Schulz")."""
SCALE = 0.2
"""Root mean square of an entry of AdamW's update; the factor makes Muon's the same."""


def orthogonal(matrices_GRC: torch.Tensor) -> torch.Tensor:
    """The nearest (semi-)orthogonal matrices, about: U S V' to U V'. Needs R <= C."""
    a, b, c = COEFFICIENTS
    x_GRC: torch.Tensor = matrices_GRC / (matrices_GRC.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(ITERATIONS):
        gram_GRR = x_GRC @ x_GRC.mT
        x_GRC = a * x_GRC + (b * gram_GRR + c * gram_GRR @ gram_GRR) @ x_GRC
    return x_GRC


class Muon(torch.optim.Optimizer):
    """For 2-D parameters; Nesterov momentum, decoupled weight decay."""

    def __init__(
        self, params: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # there is no closure to be called
        """One update of every parameter."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[tuple[torch.Tensor, torch.Tensor]]] = defaultdict(list)
            for weight in group["params"]:
                update = self._direction(weight, group)
                flat = update if weight.shape[0] <= weight.shape[1] else update.mT
                shapes[flat.shape].append((weight, flat))
            for pairs in shapes.values():
                for (weight, _), update in zip(pairs, orthogonal(torch.stack([u for _, u in pairs])), strict=True):
                    wide = weight.shape[0] <= weight.shape[1]
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    size = group["lr"] * SCALE * max(weight.shape) ** 0.5
                    weight.add_(update if wide else update.mT, alpha=-size)

    def _direction(self, weight: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        """Nesterov's look ahead along the running mean of the gradient."""
        state = self.state[weight]
        mean = state.setdefault("mean", torch.zeros_like(weight))
        mean.lerp_(weight.grad, 1 - group["momentum"])
        return weight.grad.lerp(mean, group["momentum"])  # type: ignore[union-attr]
