"""Compute-optimal scaling: see from a few samples how hard a question is, and spend on it what pays at that difficulty.

Paper: Snell et al. 2024, arXiv:2408.03314, sec. 3: theta*(q, N) = argmax_theta E[ y is right | theta, N, q ], with q
known by its difficulty alone, a quantile of the score that a verifier gives to samples of q. Here theta is how many
samples n, `probe` times 1, 2, 4, ..., and who answers: their majority, a vote weighted by scores, the best score or the
likeliest words. The probe tells the bin and is the first of the n. N is the mean n over dev: easy bins pay for hard.
Choice: dev problems are answered by every theta; theta* of all bins maximise what is right within N a problem. The best
of many looks better than it is: a theta is worth its gain on the best single one, less a standard error (Breiman et al.
1984, CART), so that a bin leaves that one only for what is clearly better, or to pay for it.
Data: dev, for that choice, made once; bins are of scores, and no answer key tells the difficulty. Cost: `most`
completions and judgements of each of `problems` dev problems, then about `samples` a question, in two rounds.
Left out: the paper's mean score (one sample that convinces tells more), search as theta, a probe beside N.
"""

from __future__ import annotations

import contextlib
import math
import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import ClassVar

import numpy as np

from harness import Answer, BudgetSpentError, Completion, Model, Prompt, Run, TrainingData, hookimpl
from harness.toolbox import RULES, SCORED, check_fields, pick, sample, sample_many, scored

ORDERS = 8
"""Orders in which the samples after the probe might have come: dev tries a theta on the first n of each."""
Strategy = tuple[str, int]
"""theta: (who answers, by one of `RULES`; n)"""
Shares = Mapping[Strategy, float]
"""How often each strategy answers one problem right."""


def shares_right(
    strategies: Sequence[Strategy], orders: Sequence[Sequence[tuple[float, Completion]]], verdicts: Mapping[str, bool]
) -> Shares:
    """`Shares` over orders in which the scored samples might have come; `verdicts` by text."""
    return {(rule, n): fmean(verdicts[pick(order[:n], rule).text] for order in orders) for rule, n in strategies}


def worth(gains: Sequence[float]) -> float:
    """Sum of the gains in the problems of a bin, less its standard error."""
    return sum(gains) - math.sqrt(len(gains)) * stdev(gains)


def allocate(bins: Sequence[Sequence[Shares]], strategies: Sequence[Strategy], budget: int) -> tuple[Strategy, ...]:
    """A strategy a bin, of `strategies`, few samples first: those worth most together within `budget` a problem."""
    problems = [right for of_bin in bins for right in of_bin]
    single = max((s for s in strategies if s[1] <= budget), key=lambda s: math.fsum(right[s] for right in problems))
    plans: dict[int, tuple[float, tuple[Strategy, ...]]] = {0: (0.0, ())}  # the best by what it spends
    for of_bin in bins:
        able = strategies if len(of_bin) > 1 else [single]  # one problem shows nothing
        values = {s: worth([right[s] - right[single] for right in of_bin]) if s != single else 0.0 for s in able}
        shorter, plans = plans, {}
        for spent, (value, chosen) in shorter.items():
            for (rule, n), more in values.items():
                spends = spent + n * len(of_bin)
                if spends <= budget * len(problems) and value + more > plans.get(spends, (-math.inf,))[0]:
                    plans[spends] = value + more, (*chosen, (rule, n))
    return plans[max(plans, key=lambda spent: (plans[spent][0], -spent))][1]  # a tie goes to the cheaper


@dataclass(frozen=True)
class Allocation:
    """The method once it knows what pays: a strategy for each bin, the hardest first."""

    probe: int
    temperature: float
    edges: tuple[float, ...]
    """Best scores of a probe between the bins, one fewer than there are bins."""
    strategies: tuple[Strategy, ...]

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        samples = scored(run, prompt, sample(model, prompt, run, self.probe, self.temperature))
        rule, n = self.strategies[bisect_right(self.edges, max(score for score, _ in samples))]
        with contextlib.suppress(BudgetSpentError):  # then those that are there answer
            if n > len(samples):
                more = sample(model, prompt, run, n - len(samples), self.temperature)
                samples += scored(run, prompt, more) if rule in SCORED else [(0.0, chain) for chain in more]
        return Answer(pick(samples, rule).text, tuple(chain for _, chain in samples))


@dataclass(frozen=True)
class ComputeOptimal:
    name: ClassVar[str] = "compute-optimal"
    family: ClassVar[str] = "test-time"
    after: ClassVar[tuple[str, ...]] = ("cot-sft", "process-reward-model")
    needs: ClassVar[tuple[str, ...]] = ("scorer",)
    scales: ClassVar[str] = "samples"
    samples: int = 16
    """N: completions a question, on average over dev, the probe among them."""
    probe: int = 4
    """Completions of every question that tell its difficulty; the paper's 2048, which it does not count."""
    most: int = 32
    """Completions that one question may take, if it is of a hard bin."""
    bins: int = 5
    """Difficulties; the paper's 5."""
    problems: int = 300
    """Dev problems to choose by, or all where there are fewer: of too few in a bin nothing is clearly better."""
    temperature: float = 1.0
    """Sampling temperature, best-of-n's."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("probe", self.probe >= 1, "at least 1"),
            ("samples", self.samples >= self.probe, f"at least probe, which is {self.probe}"),
            ("most", self.most >= self.probe, f"at least probe, which is {self.probe}"),
            ("bins", self.bins >= 1, "at least 1"),
            ("problems", self.problems >= 1, "at least 1"),
            ("temperature", 0 < self.temperature < math.inf, "above 0, and finite"),
        )

    def prepare(self, model: Model, data: TrainingData, run: Run) -> Allocation:
        dev = [problem for problem in data.dev if not problem.earlier]
        if not dev:
            msg = f"{self.name} chooses by dev, and this dataset has no dev problem"
            raise ValueError(msg)
        dev = random.Random(run.seed("dev")).sample(dev, min(self.problems, len(dev)))  # noqa: S311 - no secrets
        sizes = [self.probe << k for k in range((self.most // self.probe).bit_length())]
        ids, prompts = [problem.id for problem in dev], [problem.prompt for problem in dev]
        drawn = sample_many(model, prompts, run, ids, sizes[-1], self.temperature)
        judged = [scored(run, prompt, chains) for prompt, chains in zip(prompts, drawn, strict=True)]
        weighs = all(score >= 0 for samples in judged for score, _ in samples)  # below 0 a score weighs no vote
        strategies = [(rule, n) for n in sizes for rule in RULES if weighs or rule != "weighted"]
        ease = [max(score for score, _ in samples[: self.probe]) for samples in judged]
        edges = tuple(np.quantile(ease, [k / self.bins for k in range(1, self.bins)]).tolist())
        bins: list[list[Shares]] = [[] for _ in range(self.bins)]
        for problem, samples, best in zip(dev, judged, ease, strict=True):
            verdicts = {chain.text: data.verify(problem, chain.text)[0] for _, chain in samples}
            shuffle = random.Random(run.seed("orders", problem.id))  # noqa: S311 - no secrets
            probe, later = samples[: self.probe], samples[self.probe :]
            orders = [probe + shuffle.sample(later, len(later)) for _ in range(ORDERS)]
            bins[bisect_right(edges, best)].append(shares_right(strategies, orders, verdicts))
        return Allocation(self.probe, self.temperature, edges, allocate(bins, strategies, self.samples))

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        del model, prompt, run
        msg = f"{self.name} answers by what `prepare` finds on dev"
        raise LookupError(msg)


@hookimpl
def harness_methods() -> list[type]:
    return [ComputeOptimal]
