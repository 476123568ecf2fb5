"""Compute-optimal scaling: see from a few samples how hard a question is, and spend on it what pays at that difficulty.

Paper: Snell et al. 2024, arXiv:2408.03314, sec. 3: theta*(q, N) = argmax_theta E[ y is right | theta, N, q ], with q
known by its difficulty alone, a quantile of the mean score that a verifier gives to samples of q. Here theta is how
many samples n, `probe` times 1, 2, 4, ..., and who answers: their majority, a vote weighted by scores, or the best
score. The probe tells the bin and is the first of the n. N is the mean n over dev: easy bins pay for hard ones.
Choice: dev problems are answered by every theta; theta* of all bins maximise what is right within N a problem. The
best of many looks better than it is: a theta is worth its gain on the best single one, less one standard error (as in
Breiman et al. 1984, CART), so that a bin leaves that one only for what is clearly better, or to pay for it.
Data: dev, for that choice, made once; bins are of scores, and no answer key tells the difficulty. Cost: `most`
completions and judgements of each of `problems` dev problems, then about `samples` a question, in two rounds.
Left out: beam search and revisions as theta; the same N for every question, and a probe beside it, as in the paper.
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
from harness.toolbox import check_fields, sample, sample_many, vote

KINDS = ("vote", "weighted", "best")
ORDERS = 8
"""Orders in which the samples after the probe might have come: dev tries a theta on the first n of each."""


@dataclass(frozen=True)
class Strategy:
    """theta: how the samples answer, one of `KINDS`, and how many there are."""

    kind: str
    samples: int


def choose(kind: str, chains: Sequence[Completion], scores: Sequence[float]) -> Completion:
    """The chain that answers; a tie goes to the first, and the plain vote looks at no score."""
    if kind == "best":
        return chains[max(range(len(chains)), key=scores.__getitem__)]
    return vote(chains, scores if kind == "weighted" else None)


def shares_right(
    strategies: Sequence[Strategy],
    chains: Sequence[Completion],
    scores: Sequence[float],
    verdicts: Mapping[str, bool],
    orders: Sequence[Sequence[int]],
) -> dict[Strategy, float]:
    """How often each strategy answers right, over orders of the samples; `verdicts` by text."""
    shares = {}
    for strategy in strategies:
        firsts = [order[: strategy.samples] for order in orders]
        said = [choose(strategy.kind, [chains[i] for i in first], [scores[i] for i in first]) for first in firsts]
        shares[strategy] = fmean(verdicts[chain.text] for chain in said)
    return shares


def worth(gains: Sequence[float]) -> float:
    """Sum of the gains in the problems of a bin, less its standard error."""
    return sum(gains) - math.sqrt(len(gains)) * stdev(gains)


def allocate(
    bins: Sequence[Sequence[Mapping[Strategy, float]]], strategies: Sequence[Strategy], budget: int
) -> tuple[Strategy, ...]:
    """A strategy a bin: those worth most together that take at most `budget` samples a problem. Fewer, where they tie.

    bins: how often each strategy is right, of each problem. strategies: those of few samples first.
    """
    problems = [right for of_bin in bins for right in of_bin]
    affordable = [strategy for strategy in strategies if strategy.samples <= budget]
    single = max(affordable, key=lambda strategy: math.fsum(right[strategy] for right in problems))
    plans: dict[int, tuple[float, tuple[Strategy, ...]]] = {0: (0.0, ())}  # the best by what it spends
    for of_bin in bins:
        able = strategies if len(of_bin) > 1 else [single]  # one problem shows nothing
        values = {s: worth([right[s] - right[single] for right in of_bin]) if s != single else 0.0 for s in able}
        longer: dict[int, tuple[float, tuple[Strategy, ...]]] = {}
        for spent, (value, chosen) in plans.items():
            for strategy, more in values.items():
                spends = spent + strategy.samples * len(of_bin)
                if spends <= budget * len(problems) and value + more > longer.get(spends, (-math.inf,))[0]:
                    longer[spends] = value + more, (*chosen, strategy)
        plans = longer
    return plans[max(plans, key=lambda spent: (plans[spent][0], -spent))][1]


@dataclass(frozen=True)
class Allocation:
    """The method once it knows what pays: a strategy for each bin, the hardest first."""

    probe: int
    temperature: float
    edges: tuple[float, ...]
    """Mean scores between the bins, one fewer than there are bins."""
    strategies: tuple[Strategy, ...]

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        chains = sample(model, prompt, run, n=self.probe, temperature=self.temperature)
        scores = [judged.total for judged in run.score(prompt, chains)]
        strategy = self.strategies[bisect_right(self.edges, fmean(scores))]
        with contextlib.suppress(BudgetSpentError):  # then those that are there answer
            if strategy.samples > len(chains):
                more = sample(model, prompt, run, n=strategy.samples - len(chains), temperature=self.temperature)
                chains += more
                scores += [judged.total for judged in run.score(prompt, more)] if strategy.kind != "vote" else []
        return Answer(choose(strategy.kind, chains, scores).text, tuple(chains))


@dataclass(frozen=True)
class ComputeOptimal:
    name: ClassVar[str] = "compute-optimal"
    family: ClassVar[str] = "test-time"
    after: ClassVar[tuple[str, ...]] = ("cot-sft", "process-reward-model")
    needs: ClassVar[tuple[str, ...]] = ("scorer",)
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
        scored = [[s.total for s in run.score(p, chains)] for p, chains in zip(prompts, drawn, strict=True)]
        weighs = min(map(min, scored)) >= 0  # below 0 a score weighs no vote
        strategies = [Strategy(kind, n) for n in sizes for kind in KINDS if weighs or kind != "weighted"]
        means = [fmean(scores[: self.probe]) for scores in scored]
        edges = tuple(np.quantile(means, [k / self.bins for k in range(1, self.bins)]).tolist())
        bins: list[list[dict[Strategy, float]]] = [[] for _ in range(self.bins)]
        for problem, chains, scores, mean in zip(dev, drawn, scored, means, strict=True):
            verdicts = {chain.text: data.verify(problem, chain.text)[0] for chain in chains}
            shuffle = random.Random(run.seed("orders", problem.id))  # noqa: S311 - no secrets
            later = range(self.probe, sizes[-1])
            orders = [[*range(self.probe), *shuffle.sample(later, len(later))] for _ in range(ORDERS)]
            bins[bisect_right(edges, mean)].append(shares_right(strategies, chains, scores, verdicts, orders))
        return Allocation(self.probe, self.temperature, edges, allocate(bins, strategies, self.samples))

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        del model, prompt, run
        msg = f"{self.name} answers by what `prepare` finds on dev"
        raise LookupError(msg)


@hookimpl
def harness_methods() -> list[type]:
    return [ComputeOptimal]
