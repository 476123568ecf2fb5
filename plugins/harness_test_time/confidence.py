"""Confidence: drop traces in which the model was unsure of some stretch, and let the others vote by their confidence.

Paper: Fu et al. 2025 (DeepConf), arXiv:2508.15260. Group confidence: the mean over `window` tokens in a row. Confidence
of a trace: its least group, C = exp( min_i 1/w sum_{i <= t < i + w} log P(y_t) ). The online method: `warm_up` traces
are drawn whole, s = the confidence that the top share `keep` of them reach; every later trace stops once its C falls
below s. a* = argmax_a sum_{i: C_i >= s} C_i 1[a_i = a]. More windows can only lower C: what is stopped could not vote.
No more are drawn once a* has the share `consensus` of the sum.
Data: none. Cost: `warm_up` completions, and up to `samples` - `warm_up` more, as far as they stay sure, in rounds of as
many as the warm-up has.
Deviations: the paper's token confidence is minus the mean log-probability of the 20 likeliest tokens; a completion here
carries that of its own token alone, at the sampling temperature. Its exp is a weight from 0 to 1, and that of CISC
(arXiv:2502.06233) at softmax temperature 1, which a vote need not norm. A trace is looked at after each step, not after
each token, and the consensus after each round, not after each trace. Left out: bottom-10 % and tail confidence.
"""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from harness import Answer, BudgetSpentError, Completion, Model, Prompt, Run, hookimpl
from harness.toolbox import ROOT, check_fields, ended, final_answer, goes_on, grow, sample, vote


def confidence(logprobs: Sequence[float], window: int) -> float:
    """C, higher where the model is surer; of fewer tokens than a window, from all of them; of none, 0."""
    width = min(window, len(logprobs))
    if width == 0:
        return 0.0
    return math.exp(min(sum(logprobs[i : i + width]) for i in range(len(logprobs) - width + 1)) / width)


@dataclass(frozen=True)
class Confidence:
    name: ClassVar[str] = "confidence"
    family: ClassVar[str] = "test-time"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    scales: ClassVar[str] = "samples"
    samples: int = 16
    """Traces that are begun, those of the warm-up included; the paper's 512."""
    warm_up: int = 4
    """Traces that are drawn whole and set the threshold; the paper's 16. As many as `samples`: none is stopped."""
    window: int = 8
    """Tokens of a group, about a step here; the paper's 2048."""
    keep: float = 0.9
    """Share of the warm-up that reaches the threshold; the paper's .1 (low) or .9 (high)."""
    consensus: float = 0.7
    """Share of the vote at which no more traces are begun: 1 is never. The paper's tau of .95 saves less of so few."""
    temperature: float = 0.7
    """Sampling temperature, self-consistency's; at 0 all traces would be the same."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("samples", self.samples >= 1, "at least 1"),
            ("warm_up", 1 <= self.warm_up <= self.samples, f"1 to samples, which is {self.samples}"),
            ("window", self.window >= 1, "at least 1"),
            ("keep", 0 < self.keep <= 1, "above 0 and at most 1"),
            ("consensus", 1 / 2 < self.consensus <= 1, "above .5, and at most 1"),
            ("temperature", 0 <= self.temperature < math.inf, "0 or above, and finite"),
        )

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        warm = sample(model, prompt, run, n=self.warm_up, temperature=self.temperature)
        # What the budget cut off was not about to say its answer, sure as it may have been.
        warm = [trace for trace in warm if run.left or ended(trace, run)] or warm
        least, begun = self.threshold(warm), len(warm)
        traces = self.sure(warm, least)
        with contextlib.suppress(BudgetSpentError):  # then those that are finished vote
            while begun < self.samples and not self.agreed(traces):
                count = self.samples - begun if self.consensus == 1 else min(self.warm_up, self.samples - begun)
                begun += count
                traces += self.grown(model, prompt, run, count, least)
        voters = [trace for trace in traces if ended(trace, run)] or self.sure(warm, least)
        return Answer(vote(voters, self.weights(voters)).text, tuple(voters))

    def grown(self, model: Model, prompt: Prompt, run: Run, count: int, least: float) -> list[Completion]:
        """What is left of so many new traces; those that the budget cuts off are left as they are."""
        [begun] = grow(model, prompt, run, [ROOT], count, self.temperature)
        traces = self.sure(begun, least)
        while any(map(goes_on, traces)):
            traces = self.sure(
                [trace for [trace] in grow(model, prompt, run, traces, temperature=self.temperature)], least
            )
        return traces

    def weights(self, traces: Sequence[Completion]) -> list[float]:
        """C of each."""
        return [confidence(trace.logprobs, self.window) for trace in traces]

    def agreed(self, traces: Sequence[Completion]) -> bool:
        """Whether the leading answer has its share of the vote."""
        weights = defaultdict[str, float](float)
        for trace, weight in zip(traces, self.weights(traces), strict=True):
            if (answer := final_answer(trace.text)) is not None:
                weights[answer] += weight
        return self.consensus < 1 and max(weights.values(), default=0.0) >= self.consensus * sum(weights.values()) > 0

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
