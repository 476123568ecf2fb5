"""Confidence: drop traces in which the model was unsure of some stretch, and let the others vote by their confidence.

Paper: Fu et al. 2025 (DeepConf), arXiv:2508.15260. Group confidence: the mean over `window` tokens in a row. Confidence
of a trace: its least group, C = exp( min_i 1/w sum_{i <= t < i + w} log P(y_t) ). The online method: `warm_up` traces
are drawn whole, s = the confidence that the top share `keep` of them reach; every later trace stops once its C falls
below s. a* = argmax_a sum_{i: C_i >= s} C_i 1[a_i = a]. More windows can only lower C: what is stopped could not vote.
Data: none. Cost: `warm_up` completions, and up to `samples` - `warm_up` more, as far as they stay sure.
Deviations: the paper's token confidence is minus the mean log-probability of the 20 likeliest tokens; a completion here
carries that of its own token alone, at the sampling temperature. Its exp is a weight from 0 to 1, and that of CISC
(arXiv:2502.06233) at softmax temperature 1, which a vote need not norm. A trace is looked at after each step, not after
each token. Left out: stopping at a consensus, which self-consistency has, and bottom-10 % and tail confidence.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from harness import Answer, BudgetSpentError, Completion, Model, Prompt, Run, hookimpl
from harness.toolbox import ROOT, check_fields, goes_on, grow, sample, vote


def confidence(logprobs: Sequence[float], window: int) -> float:
    """C, higher where the model is surer; of fewer tokens than a window, from all of them; of none, 0."""
    width = min(window, len(logprobs))
    if width == 0:
        return 0.0
    return math.exp(min(sum(logprobs[i : i + width]) for i in range(len(logprobs) - width + 1)) / width)


def ended(trace: Completion, run: Run) -> bool:
    """Whether a trace came to its end or limit: what the budget cut short was not about to say its answer."""
    return trace.finish == "eos" or len(trace.tokens) >= run.max_new_tokens


@dataclass(frozen=True)
class Confidence:
    name: ClassVar[str] = "confidence"
    family: ClassVar[str] = "test-time"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    samples: int = 16
    """Traces that are begun, those of the warm-up included; the paper's 512."""
    warm_up: int = 6
    """Traces that are drawn whole and set the threshold; the paper's 16. As many as `samples`: none is stopped."""
    window: int = 8
    """Tokens of a group, about a step here; the paper's 2048."""
    keep: float = 0.9
    """Share of the warm-up that reaches the threshold; the paper's .1 (low) or .9 (high)."""
    temperature: float = 0.7
    """Sampling temperature, self-consistency's; at 0 all traces would be the same."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("samples", self.samples >= 1, "at least 1"),
            ("warm_up", 1 <= self.warm_up <= self.samples, f"1 to samples, which is {self.samples}"),
            ("window", self.window >= 1, "at least 1"),
            ("keep", 0 < self.keep <= 1, "above 0 and at most 1"),
            ("temperature", 0 <= self.temperature < math.inf, "0 or above, and finite"),
        )

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        warm = sample(model, prompt, run, n=self.warm_up, temperature=self.temperature)
        least = self.threshold(warm)
        later: list[Completion] = []
        with contextlib.suppress(BudgetSpentError):  # then those that are finished vote
            if self.samples > self.warm_up:
                [begun] = grow(model, prompt, run, [ROOT], self.samples - self.warm_up, self.temperature)
                later = self.sure(begun, least)
            while any(map(goes_on, later)):
                grown = grow(model, prompt, run, later, temperature=self.temperature)
                later = self.sure([trace for [trace] in grown], least)
        able = self.sure(warm, least)
        voters = [trace for trace in (*able, *later) if ended(trace, run)] or able
        weights = [confidence(trace.logprobs, self.window) for trace in voters]
        return Answer(vote(voters, weights).text, tuple(voters))

    def threshold(self, warm: Sequence[Completion]) -> float:
        """s, from this question's own warm-up, of which the surest trace reaches it at least."""
        return float(np.percentile([confidence(trace.logprobs, self.window) for trace in warm], 100 * (1 - self.keep)))

    def sure(self, traces: Sequence[Completion], least: float) -> list[Completion]:
        """Those that did not fall below `least`; one that goes on is judged once it fills a window."""
        return [
            trace
            for trace in traces
            if (goes_on(trace) and len(trace.logprobs) < self.window)
            or confidence(trace.logprobs, self.window) >= least
        ]


@hookimpl
def harness_methods() -> list[type]:
    return [Confidence]
