"""Implicit reward model: a policy whose log-ratio to its start tells right from wrong is a judge of every token.

Paper: Yuan et al. 2024 (Free Process Rewards without Process Labels), arXiv:2412.01981, with its cross-entropy loss:
r(y) = beta sum_t log( pi_phi(y_t | .) / pi_ref(y_t | .) ), L = - [ l log sigmoid(r) + (1 - l) log(1 - sigmoid(r)) ],
l = 1 where the answer is right. The reward of a step is the sum over its tokens; scores are sigmoid(r), up to each
step and in all. A sum, not a mean: r grows with length.
Data: train problems; completions are drawn from the start and verified. Trains: every weight. Reference: the start.
Cost: sampling, then two forward passes, of policy and reference, in training and in scoring. The checkpoint holds the
start's weights as well, in a head, because a scorer is given nothing but its checkpoint: twice the memory.
Shapes: B pairs, R = 2B rows, T tokens, W weights. Left out: the pairwise losses, and updates while a policy learns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

from harness import Completion, Model, Prompt, Run, Scores, TrainingData, hookimpl
from harness.toolbox import (
    Sequences,
    accumulate,
    adamw,
    collate,
    cosine_with_warmup,
    frozen_copy,
    ranked_pairs,
    sample_many,
    set_rate,
    step_ends,
    token_logprobs,
    update,
)

HEAD = "start"


def whole_steps(model: Model, tokens: Sequence[int]) -> list[int]:
    """How many tokens reach to the end of each step; the last step takes all that are left, `eos` above all."""
    return [*step_ends(model, tokens)[:-1], len(tokens)]


def weights_of(model: Model) -> list[torch.nn.Parameter]:
    """All that makes the policy: the module's weights and an adapter's, no head's."""
    return [*model.module.parameters(), *(model.adapter.parameters() if model.adapter else ())]


def keep_start(model: Model) -> None:
    """Copy the weights into a frozen head, the only kind of tensor that a checkpoint holds beside them."""
    flat_W = torch.cat([weight.detach().float().flatten() for weight in weights_of(model)])
    head = torch.nn.Linear(len(flat_W), 1, bias=False, device="meta")  # holds no memory of its own
    head.weight = torch.nn.Parameter(flat_W[None], requires_grad=False)
    model.heads[HEAD] = head


@contextmanager
def at_start(model: Model) -> Iterator[Model]:
    """Inside, the model has the weights from the head, which are lent, not copied: every question asks for them."""
    weights, flat_W = weights_of(model), model.heads[HEAD].get_parameter("weight").detach()[0]
    own = [weight.data for weight in weights]
    try:
        for weight, part in zip(weights, torch.split(flat_W, [weight.numel() for weight in weights]), strict=True):
            weight.data = part.view_as(weight).to(weight.dtype)
        yield model
    finally:
        for weight, data in zip(weights, own, strict=True):
            weight.data = data


def token_rewards(model: Model, start_RT: torch.Tensor, rows: Sequences, beta: float) -> torch.Tensor:
    """(R, T) beta log pi_phi / pi_ref of each token of a completion; 0 elsewhere."""
    return beta * (token_logprobs(model, rows) - start_RT)


def learn(model: Model, start: Model, rows: Sequences, beta: float) -> dict[str, float]:
    """Add the gradient of the mean loss over R rows, the right ones before the wrong; the loss, and how they rank."""
    reward_R = torch.zeros(len(rows), device=rows.index.device)
    label_R = (rows.index < len(rows) // 2).float()

    def loss_sum(group: Sequences) -> torch.Tensor:
        with torch.no_grad():
            start_RT = token_logprobs(start, group)
        found_R = token_rewards(model, start_RT, group, beta).sum(-1)
        reward_R[group.index] = found_R.detach()
        return F.binary_cross_entropy_with_logits(found_R, label_R[group.index], reduction="sum")

    loss = accumulate(rows, loss_sum, len(rows))
    right_B, wrong_B = reward_R.chunk(2)
    return {"loss": loss, "ranked": (right_B > wrong_B).float().mean().item()}


@dataclass(frozen=True)
class ImplicitRewardModel:
    name: ClassVar[str] = "implicit-reward-model"
    family: ClassVar[str] = "reinforcement-learning"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    beta: float = 0.05
    """Reward of a log-ratio, 1/nat."""
    samples: int = 8
    """Completions drawn a problem, at temperature 1."""
    problems: int = 8
    """Problems an optimiser step."""
    pairs: int = 2
    """Right completions kept a problem at most, and as many wrong ones: kept all, they would tell of the problem."""
    lr: float = 3e-4
    """Peak learning rate of AdamW; suits models of a million parameters."""

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        start = frozen_copy(model)
        keep_start(model)
        optimizer = adamw(model, self.lr)
        for batch in run.batches(data.problems, self.problems):
            drawn = sample_many(start, [p.prompt for p in batch], run, ids=[p.id for p in batch], n=self.samples)
            groups = list(zip(batch, drawn, strict=True))
            right, wrong = ranked_pairs(start, groups, lambda p, c: data.verify(p, c.text)[0], run, self.pairs)
            facts: dict[str, float] = {"wasted": 1 - 2 * len(right) / (self.samples * len(batch))}
            if right:  # else every problem was solved, or none: nothing to compare
                facts |= learn(model, start, collate(model, right + wrong), self.beta)
                set_rate(optimizer, self.lr * cosine_with_warmup(run))
                update(optimizer)
            run.log(**facts)

    @torch.no_grad()
    def score(self, model: Model, prompt: Prompt, completions: Sequence[Completion], run: Run) -> list[Scores]:
        del run  # the meter sees the forward passes by itself
        ids = model.encode_prompt(prompt)
        rows = collate(model, [(ids, completion.tokens) for completion in completions])
        with at_start(model) as start:
            start_RT = token_logprobs(start, rows)
        reward_RT, scores = token_rewards(model, start_RT, rows, self.beta), []
        for completion, reward_T, mask_T in zip(completions, reward_RT, rows.completion_mask, strict=True):
            reward_t = reward_T[mask_T]
            so_far_t = reward_t.cumsum(-1).sigmoid()  # the loss made it the chance that the answer is right
            steps = [so_far_t[end - 1].item() for end in whole_steps(model, completion.tokens) if end]
            scores.append(Scores(reward_t.sum().sigmoid().item(), tuple(steps)))
        return scores


@hookimpl
def harness_methods() -> list[type]:
    return [ImplicitRewardModel]
