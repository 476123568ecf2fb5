"""What every training loop does between its loss and its next batch.

A loop in full, supervised fine-tuning's:

    optimizer = adamw(model, lr)
    for batch in run.batches(examples, size=32):
        loss = completion_loss(model, batch)       # forward and backward, group by group
        set_rate(optimizer, lr * cosine_with_warmup(run))
        update(optimizer)                          # clip, step, zero
        run.log(loss=loss)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch

from harness.contracts import Model, Prompt
from harness.meter import DivergedError, Run
from harness.toolbox.batching import Sequences, encode_pairs, length_groups
from harness.toolbox.logprobs import token_logprobs

FLOOR = 0.1
"""Lowest factor of the schedule: a run of a single step must still learn."""


def finite(name: str, value: torch.Tensor) -> float:
    """`value` as a number.

    Raises:
        DivergedError: it is NaN or infinite.
    """
    number = float(value.detach())
    if not math.isfinite(number):
        msg = f"{name} is {number}"
        raise DivergedError(msg)
    return number


def update(
    optimizer: torch.optim.Optimizer, parameters: Iterable[torch.Tensor] | None = None, max_norm: float = 1.0
) -> float:
    """Clip the gradients to `max_norm` (all of the optimizer's by default), step, zero. Returns the norm before.

    Raises:
        DivergedError: the norm is not finite; the weights are left as they were.
    """
    owned = (p for group in optimizer.param_groups for p in group["params"])
    norm = finite(
        "the gradient norm", torch.nn.utils.clip_grad_norm_(owned if parameters is None else parameters, max_norm)
    )
    optimizer.step()
    optimizer.zero_grad()
    return norm


def descend(
    loss: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[torch.Tensor] | None = None,
    max_norm: float = 1.0,
) -> float:
    """Backward, clip, step, zero. Returns the norm of the gradient before it was clipped.

    Raises:
        DivergedError: the loss or the norm is not finite; the weights are left as they were.
    """
    finite("the loss", loss)
    loss.backward()  # type: ignore[no-untyped-call]
    return update(optimizer, parameters, max_norm)


def adamw(model: Model, lr: float, weight_decay: float = 0.0) -> torch.optim.AdamW:
    """AdamW over every parameter that is not frozen. Decay is off unless asked for: runs are short."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trainable, lr=lr, weight_decay=weight_decay, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def cosine_with_warmup(run: Run, warmup: float = 0.03, begin: float = 0.0, end: float = 1.0) -> float:
    """Factor of the learning rate by share of budget spent: linear up over `warmup`, then a cosine down to `FLOOR`.

    A phase that has only the budget from share `begin` to `end` gets a whole schedule of its own. It is 1 where the
    run has no budget. Best asked for after the forward pass of the batch.
    """
    if run.budget is None:
        return 1.0
    progress = min(1.0, max(0.0, (run.progress - begin) / (end - begin)))
    if progress < warmup:
        shape = progress / warmup
    else:
        shape = 0.5 * (1 + math.cos(math.pi * (progress - warmup) / max(1 - warmup, 1e-9)))
    return FLOOR + (1 - FLOOR) * shape


def frozen_copy(model: Model) -> Model:
    """A copy that no training can change: the reference policy. The meter counts its forward passes as well."""
    copy = model.clone()
    for parameter in copy.parameters():
        parameter.requires_grad_(False)
    return copy


def accumulate(
    sequences: Sequences, loss_sum: Callable[[Sequences], torch.Tensor], denominator: float, groups: int | None = None
) -> float:
    """Backward of sum(loss_sum(group)) / `denominator` over groups of like length. Returns that quotient.

    `loss_sum` returns the sum, never the mean, over its group, so that the gradients are those of the whole batch;
    `group.index` finds a row's advantage or reference.

    Raises:
        DivergedError: a loss is not finite.
        ValueError: `denominator` is not above 0: no row has anything to learn from.
    """
    if denominator <= 0:
        msg = f"the loss is divided by {denominator}: no row has a completion token"
        raise ValueError(msg)
    total = 0.0
    for group in length_groups(sequences, groups):
        loss = loss_sum(group) / denominator
        total += finite("the loss", loss)
        loss.backward()  # type: ignore[no-untyped-call]
    return total


def completion_loss(
    model: Model,
    examples: Sequences | Sequence[tuple[Prompt, str]],
    *,
    backward: bool = True,
    groups: int | None = None,
) -> float:
    """Mean of -log p over the completion tokens of all examples (prompt excluded, `eos` included), in nats.

    Adds its gradient to the parameters', group by group; `update` steps. `backward=False` only measures.

    Raises:
        DivergedError: the loss is not finite.
        ValueError: there is no example, or none with a completion that fits the context.
    """
    sequences = examples if isinstance(examples, Sequences) else encode_pairs(model, examples)

    def negative(group: Sequences) -> torch.Tensor:
        return -token_logprobs(model, group).sum()

    if backward:
        return accumulate(sequences, negative, sequences.tokens, groups)
    with torch.no_grad():
        return sum(float(negative(group)) for group in length_groups(sequences, groups)) / max(1, sequences.tokens)
