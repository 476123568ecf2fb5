"""Log-probability: a scorer without training. The policy itself says how likely the words of a completion are.

Paper: Wang et al. 2022, arXiv:2203.11171, eq. (1): S(x, y) = exp( 1/K sum_k log P(t_k | x, t_1, ..., t_k-1) ), K tokens
with `eos`. It is the geometric mean of their probabilities: a number from 0 to 1, and no score for being short, which
the sum would be. P is the policy's own, at temperature 1, whatever temperature sampled. Steps: the same mean up to the
end of each step before the answer line, where steps are checked.
Data: none. Trains: nothing. Cost: one forward pass over prompt and completion.
Left out: any calibration. It is a chance by its range alone: how likely a word is, not how likely the answer is right.
Shapes: R rows, T tokens, K tokens of one completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from harness import Completion, Model, Prompt, Run, Scores, hookimpl
from harness.toolbox import collate, solution_ends, token_logprobs


def mean_chances(logprob_K: torch.Tensor) -> torch.Tensor:
    """(K,) eq. (1) after 1, 2, ... K tokens."""
    return (logprob_K.cumsum(0) / torch.arange(1, len(logprob_K) + 1, device=logprob_K.device)).exp()


@dataclass(frozen=True)
class LogProbability:
    name: ClassVar[str] = "log-probability"
    family: ClassVar[str] = "test-time"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)

    @torch.no_grad()
    def score(self, model: Model, prompt: Prompt, completions: Sequence[Completion], run: Run) -> list[Scores]:
        del run  # the meter sees the forward pass by itself
        ids = model.encode_prompt(prompt)
        rows = collate(model, [(ids, completion.tokens) for completion in completions])
        logprob_RT = token_logprobs(model, rows)
        scores = []
        for completion, logprob_T, mask_T in zip(completions, logprob_RT, rows.completion_mask, strict=True):
            chances = mean_chances(logprob_T[mask_T]).tolist()
            if not chances:  # nothing was said, or it does not fit the context
                scores.append(Scores(0.0))
                continue
            ends = solution_ends(model, completion.tokens)
            scores.append(Scores(chances[-1], tuple(chances[end - 1] for end in ends)))
        return scores


@hookimpl
def harness_methods() -> list[type]:
    return [LogProbability]
