"""Trust region policy optimisation (TRPO): the longest natural-gradient step that stays within a KL of delta.

Paper: Schulman et al. 2015, arXiv:1502.05477, app. C: raise mean rho A, rho = pi / pi_old, while mean KL(pi_old || pi)
<= delta. With g the gradient of the one and F the Hessian of the other, conjugate gradient solves F v = g, the step is
sqrt(2 delta / v^T F v) v, and a line search shortens it until both hold in fact. A is the reward less its group's mean:
no value network. Data: problems and their verifier. Trains: the last `linears` linear layers (attention, MLP) alone.
Cost: sampling; a trained pass over groups whose rewards differ, a scored one a try of the line search, and a trained
one over `fisher_rows` rows a product F v, read anew so that it is counted (all but its second backward pass).
Shapes: R rows, K completion tokens, V words, P weights. Left out: a KL to the start, learning rates (delta rules).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from harness import Model, Run, TrainingData, hookimpl
from harness.toolbox import (
    Reward,
    Sequences,
    completion_logits,
    drift,
    frozen_copy,
    linear_layers,
    random_reward_twin,
    roll_out,
    verified,
)

BACKTRACK, TRIES = 0.8, 10
"""The line search: what each try leaves of the step, and how many there are at most."""
Weights = Sequence[torch.Tensor]


def conjugate_gradient(product: Callable[..., torch.Tensor], target_P: torch.Tensor, iterations: int) -> torch.Tensor:
    """(P,) the v that comes nearest to F v = target with so many products; whatever is left, v^T F v = v^T target."""
    solution_P, residual_P, direction_P = torch.zeros_like(target_P), target_P, target_P
    first = square = target_P @ target_P
    for _ in range(iterations):
        if square <= 1e-10 * first:
            break
        product_P = product(direction_P)
        length = square / (direction_P @ product_P)
        solution_P, residual_P = solution_P + length * direction_P, residual_P - length * product_P
        before, square = square, residual_P @ residual_P
        direction_P = residual_P + square / before * direction_P
    return solution_P


def read(model: Model, rows: Sequences) -> torch.Tensor:
    """(K, V) log-probabilities in the places where the completions' tokens are predicted."""
    return completion_logits(model, rows)[0].float().log_softmax(-1)


def mean_kl(old_KV: torch.Tensor, new_KV: torch.Tensor) -> torch.Tensor:
    """KL(old || new) in nats a token, over the whole vocabulary."""
    return (old_KV.exp() * (old_KV - new_KV)).sum(-1).mean()


def mean_gain(rows: Sequences, advantage_R: torch.Tensor, old_KV: torch.Tensor, new_KV: torch.Tensor) -> torch.Tensor:
    """(rho - 1) A: by how much rho A, a token, is above the old policy's."""
    row_K, column_K = rows.completion_mask.nonzero(as_tuple=True)
    logratio_K = (new_KV - old_KV).gather(-1, rows.input_ids[row_K, column_K, None]).squeeze(-1)
    return ((logratio_K.exp() - 1) * advantage_R[row_K]).mean()


def fisher_product(model: Model, rows: Sequences, weights: Weights, vector_P: torch.Tensor) -> torch.Tensor:
    """F v = grad( (grad KL)^T v ) where the policy stands: KL and gradient are 0 there, and the Hessian is F."""
    with sdpa_kernel(SDPBackend.MATH):  # fused attention kernels have no second backward pass
        new_KV = read(model, rows)
        grad_P = parameters_to_vector(torch.autograd.grad(mean_kl(new_KV.detach(), new_KV), weights, create_graph=True))
        return parameters_to_vector(torch.autograd.grad(grad_P @ vector_P, weights))


@dataclass(frozen=True)
class TRPO:
    name: ClassVar[str] = "trpo"
    family: ClassVar[str] = "reinforcement-learning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    problems: int = 8
    """Problems a step."""
    samples: int = 8
    """Completions a problem, at temperature 1: the group."""
    delta: float = 0.01
    """Most that a step may move the policy: mean KL in nats a token. 0.01 is common."""
    damping: float = 0.1
    """Added to F's diagonal, where its few rows say too little. 0.1 is common."""
    iterations: int = 6
    """Products F v a step."""
    fisher_rows: int = 8
    """Rows that F is estimated on."""
    linears: int = 14
    """Linear layers that train, counted from the last: seven are a block of Llama's. 0: all of them."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        reward, start, weights = self.reward(data, run), frozen_copy(model), self.unfreeze(model)
        for number, batch in enumerate(run.batches(data.problems, self.problems)):
            rollouts = roll_out(model, batch, run, self.samples, reward)
            facts = rollouts.facts() | drift(model, start, rollouts, number, run)
            mean_B = rollouts.by_problem(rollouts.rewards).mean(-1)
            advantage_R = rollouts.rewards - mean_B.repeat_interleave(rollouts.n)
            [kept] = (advantage_R.ne(0) & rollouts.lengths.ne(0)).nonzero(as_tuple=True)
            if len(kept):  # else the rewards of every group are equal
                facts |= self.step(model, weights, rollouts.sequences.select(kept), advantage_R[kept])
            run.log(**facts, wasted=1 - len(kept) / len(advantage_R))

    def unfreeze(self, model: Model) -> Weights:
        """The weights that train, once all others are frozen."""
        model.module.float()  # in bfloat16, conjugate gradient diverges
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        return [linear.weight.requires_grad_() for linear in [*linear_layers(model).values()][-self.linears :]]

    def step(self, model: Model, weights: Weights, rows: Sequences, advantage_R: torch.Tensor) -> dict[str, float]:
        """Move the weights, or leave them as they were, bit for bit."""
        some = rows.select(torch.linspace(0, len(rows) - 1, min(self.fisher_rows, len(rows))).long())
        new_KV = read(model, rows)
        old_KV = new_KV.detach()
        slope_P = parameters_to_vector(torch.autograd.grad(mean_gain(rows, advantage_R, old_KV, new_KV), weights))
        natural_P = conjugate_gradient(
            lambda v: fisher_product(model, some, weights, v) + self.damping * v, slope_P, self.iterations
        )
        start_P, curvature = parameters_to_vector(weights).detach(), float(natural_P @ slope_P)
        for tries in range(TRIES if curvature > 0 else 0):  # v^T F v: without a metric there is no trust region
            vector_to_parameters(start_P + BACKTRACK**tries * (2 * self.delta / curvature) ** 0.5 * natural_P, weights)
            with torch.no_grad():
                new_KV = read(model, rows)
            gain, kl = float(mean_gain(rows, advantage_R, old_KV, new_KV)), float(mean_kl(old_KV, new_KV))
            if gain > 0 and kl <= self.delta:
                return {"accepted": 1.0, "gain": gain, "step_kl": kl, "tries": tries + 1}
        vector_to_parameters(start_P, weights)
        return {"accepted": 0.0}

    def reward(self, data: TrainingData, run: Run) -> Reward:
        """What a completion is worth."""
        del run
        return verified(data)


TRPORandomReward = random_reward_twin(TRPO)


@hookimpl
def harness_methods() -> list[type]:
    return [TRPO, TRPORandomReward]
