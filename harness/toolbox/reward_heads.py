"""Scalar heads over hidden states: how reward models and critics read a completion, and what teaches them to rank.

Shapes: R rows, D width.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch

from harness.contracts import Completion, Model, Problem
from harness.meter import Run
from harness.toolbox.batching import Sequences, TokenPair
from harness.toolbox.logprobs import hidden_states, read_completions


def scalar_head(model: Model, seed: int | None = None, features: int = 0) -> torch.nn.Linear:
    """A linear head on the model's device, for hidden states or those and further `features`.

    Its weights are random with a standard deviation of 1/sqrt(D + 1), or without a `seed` 0: it says 0 of everything.
    """
    width = model.size.width + features
    head = torch.nn.Linear(width, 1)
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    if seed is not None:
        torch.nn.init.normal_(head.weight, std=(width + 1) ** -0.5, generator=torch.Generator().manual_seed(seed))
    return head.to(next(model.module.parameters()).device)


def final_values(model: Model, rows: Sequences, head: torch.nn.Module) -> torch.Tensor:
    """(R,) what `head` says of each row at its LAST REAL token: what stands behind it is padding."""
    columns_T = torch.arange(rows.input_ids.shape[1], device=rows.index.device)
    hidden_RD = hidden_states(model, rows, columns_T == rows.lengths[:, None] - 1)
    value_R: torch.Tensor = head(hidden_RD.float()).squeeze(-1)
    return value_R


def read_states(model: Model, rows: Sequences) -> tuple[torch.Tensor, torch.Tensor]:
    """(R, T, D + 2) what a linear head can read at each token, and (R, T) log-probabilities in nats.

    Beside the hidden state: the least and the summed log-probability of the completion's tokens up to there. A model
    slips where it is unsure, so these two tell more of what is right than all the rest.
    """
    hidden_RTD, logprob_RT = read_completions(model, rows)
    so_far_RT2 = torch.stack([logprob_RT.cummin(-1).values, logprob_RT.cumsum(-1)], -1)  # prompts say 0, the most
    return torch.cat([hidden_RTD, so_far_RT2], -1), logprob_RT


def ranked_pairs(
    model: Model,
    drawn: Sequence[tuple[Problem, Sequence[Completion]]],
    is_right: Callable[[Problem, Completion], bool],
    run: Run,
    most: int,
) -> tuple[list[TokenPair], list[TokenPair]]:
    """Right and wrong completions of the same problems, at most `most` of each a problem and no completion twice.

    Pairs are within a problem, so that nothing can be learnt from how hard a problem is.
    """
    right: list[TokenPair] = []
    wrong: list[TokenPair] = []
    for problem, completions in drawn:
        prompt = model.encode_prompt(problem.prompt)
        verdicts = {c.tokens: is_right(problem, c) for c in completions}
        good, bad = ([t for t, ok in verdicts.items() if ok is wanted] for wanted in (True, False))
        generator = random.Random(run.seed("pairs", problem.id))  # noqa: S311 - data order, not secrets
        generator.shuffle(good)
        generator.shuffle(bad)
        kept = min(len(good), len(bad), most)
        right += [(prompt, tokens) for tokens in good[:kept]]
        wrong += [(prompt, tokens) for tokens in bad[:kept]]
    return right, wrong
