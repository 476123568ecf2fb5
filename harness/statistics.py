"""Statistics of a board: intervals, paired tests, Holm's correction, rank ranges. Deterministic, numpy alone.

The unit of resampling is the problem: answers of several seeds to one problem are not independent, so they are
averaged within the problem, and problems are drawn. Every resample comes from a fixed seed. What it adds up to depends
only on how often each distinct value is drawn, and answers that are right or wrong have few: so many counts are drawn,
not P problems, whose cost would be R P a row.
Shapes: P problems, S seeds, R resamples, V distinct values.
Sources: Wilson 1927; Efron 1979 (bootstrap); McNemar 1947, exact form; Phipson and Smyth 2010 (the +1); Holm 1979.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution: a two-sided 95 % interval
RESAMPLES = 10_000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Paired:
    """A difference of accuracies on the same problems, its 95 % interval and its two-sided p-value."""

    delta: float
    low: float
    high: float
    p: float


def wilson(successes: float, n: int) -> tuple[float, float]:
    """95 % score interval of a proportion; (0, 1) where n is 0.

    Raises:
        ValueError: `successes` is not between 0 and n.
    """
    if not 0 <= successes <= n:
        msg = f"{successes} of {n} is no proportion"
        raise ValueError(msg)
    if n == 0:
        return 0.0, 1.0
    share, square = successes / n, _Z * _Z
    centre = share + square / (2 * n)
    half = _Z * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    scale = 1 + square / n
    # At the ends the bound is exact, and rounding must not move it.
    low = 0.0 if successes == 0 else (centre - half) / scale
    return low, 1.0 if successes == n else (centre + half) / scale


def bootstrap_mean(values_PS: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of (P, S) values, or of (P,); problems are drawn, seeds go with them.

    Raises:
        ValueError: there is no value.
    """
    values = _table(values_PS)
    value_V, count_V = np.unique(values.sum(axis=1), return_counts=True)
    problems = len(values)
    drawn_RV = np.random.default_rng([seed, 0]).multinomial(problems, count_V / problems, size=RESAMPLES)
    low, high = np.percentile(drawn_RV @ value_V / values.size, [2.5, 97.5])
    return float(low), float(high)


def accuracy_interval(correct_PS: ArrayLike) -> tuple[float, float]:
    """95 % interval of an accuracy from (P, S) booleans: Wilson for one seed, bootstrap over problems for several.

    Where no problem differs from any other the bootstrap has nothing to resample and would claim certainty; there
    Wilson's interval over the P problems is given.

    Raises:
        ValueError: there is no value.
    """
    correct = _table(correct_PS)
    problems, seeds = correct.shape
    sums_P = correct.sum(axis=1)
    if seeds == 1 or np.all(sums_P == sums_P[0]):
        return wilson(float(sums_P.sum()) / seeds, problems)
    return bootstrap_mean(correct)


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided p-value for b problems won and c lost: a fair coin's chance of a split at least as uneven."""
    n, term, tail = b + c, 1, 0
    for k in range(min(b, c) + 1):
        tail += term
        term = term * (n - k) // (k + 1)
    return float(min(1.0, 2 * tail / 2**n))  # whole numbers to the last division: exact for any n


def paired(row_PS: ArrayLike, start_PS: ArrayLike, seed: int = 0) -> Paired:
    """Compare correctness of a row and its start, (P, S) each: the same problems and the same seeds in the same order.

    p is McNemar's for one seed; for several it is a sign-flip permutation of the per-problem mean differences, 10,000
    flips, counted with +1 so that it is never 0.

    Raises:
        ValueError: the shapes differ, or there is no value.
    """
    row, start = _table(row_PS), _table(start_PS)
    if row.shape != start.shape:
        msg = f"{row.shape} and {start.shape} cannot be paired"
        raise ValueError(msg)
    difference = row - start
    low, high = bootstrap_mean(difference, seed)
    if row.shape[1] == 1:
        p = mcnemar_exact(int((difference > 0).sum()), int((difference < 0).sum()))
    else:
        p = sign_flip(difference.sum(axis=1), seed)
    return Paired(float(difference.mean()), low, high, p)


def sign_flip(differences_P: ArrayLike, seed: int = 0) -> float:
    """Two-sided p-value that (P,) differences are symmetric about 0: the share of sign flips as far out as they are."""
    differences = np.asarray(differences_P, dtype=np.float64)
    observed = abs(float(differences.sum()))
    size_V, count_V = np.unique(np.abs(differences), return_counts=True)
    positive_RV = np.random.default_rng([seed, 1]).binomial(count_V, 0.5, size=(RESAMPLES, len(count_V)))
    flipped_R = np.abs((2 * positive_RV - count_V) @ size_V)
    return (1 + int((flipped_R >= observed - 1e-6 * max(1.0, observed)).sum())) / (1 + RESAMPLES)


def holm(pvalues: Sequence[float]) -> list[float]:
    """Adjust p-values for their number, step-down: in the order given, each at least its own p and at most 1."""
    adjusted, least = [0.0] * len(pvalues), 0.0
    for rank, index in enumerate(sorted(range(len(pvalues)), key=lambda i: pvalues[i])):
        least = max(least, min(1.0, (len(pvalues) - rank) * pvalues[index]))
        adjusted[index] = least
    return adjusted


def rank_ranges(intervals: Sequence[tuple[float, float]]) -> list[tuple[int, int]]:
    """Best and worst rank of each (low, high) interval, 1 for the highest: rows whose intervals overlap share ranks."""
    lows, highs = sorted(low for low, _ in intervals), sorted(high for _, high in intervals)
    n = len(intervals)
    return [
        (1 + n - int(np.searchsorted(lows, high, side="right")), n - int(np.searchsorted(highs, low, side="left")))
        for low, high in intervals
    ]


def within_problem_auc(groups: Sequence[tuple[Sequence[float], Sequence[bool]]]) -> tuple[float | None, int]:
    """Mean over problems of P(score of a right sample > score of a wrong one), a tie counting half.

    groups: one (scores, labels) a problem. Only problems with both right and wrong samples say anything; returns how
    many those are, and None where there is none.
    """
    areas = []
    for scores, labels in groups:
        right = [score for score, label in zip(scores, labels, strict=True) if label]
        wrong = sorted(score for score, label in zip(scores, labels, strict=True) if not label)
        if right and wrong:
            won_twice = sum(bisect_left(wrong, score) + bisect_right(wrong, score) for score in right)
            areas.append(won_twice / (2 * len(right) * len(wrong)))
    return (math.fsum(areas) / len(areas) if areas else None), len(areas)


def best_of(scores: Sequence[float], labels: Sequence[bool], k: int) -> float:
    """Chance that the best-scored of k samples is right, over every choice of k of them; a tie is broken by a coin.

    Raises:
        ValueError: there are fewer than k samples, or k is 0.
    """
    n = len(scores)
    if not 0 < k <= n:
        msg = f"the best of {k} cannot be told from {n} samples"
        raise ValueError(msg)
    share: defaultdict[float, list[bool]] = defaultdict(list)
    for score, label in zip(scores, labels, strict=True):
        share[score].append(label)
    rank, right = 0, 0.0
    for score in sorted(share, reverse=True):
        tied = share[score]
        won = math.comb(n - rank, k) - math.comb(n - rank - len(tied), k)  # choices whose best is one of these
        right += won * sum(tied) / len(tied)
        rank += len(tied)
    return right / math.comb(n, k)


def calibration_error(chances: Sequence[float], labels: Sequence[bool], bins: int = 10) -> float | None:
    """Expected calibration error: how far chances are from what came true, in bins of equal width, weighed by size.

    Source: Guo et al. 2017, arXiv:1706.04599, eq. (3). None where there is no value, or one is no chance from 0 to 1.
    """
    if not chances or not all(0 <= chance <= 1 for chance in chances):
        return None
    gaps = [0.0] * bins
    for chance, label in zip(chances, labels, strict=True):
        gaps[min(bins - 1, int(chance * bins))] += chance - label
    return math.fsum(map(abs, gaps)) / len(chances)


def mean(values: Iterable[float]) -> float | None:
    """The mean, None where there is no value."""
    numbers = [float(value) for value in values]
    return math.fsum(numbers) / len(numbers) if numbers else None


def percentile(values: Sequence[float], q: float) -> float:
    """Return the q-th percentile (0 to 100), linear between neighbours.

    Raises:
        ValueError: there is no value.
    """
    if not len(values):
        msg = "no value has no percentile"
        raise ValueError(msg)
    return float(np.percentile(np.asarray(values, dtype=np.float64), q))


def _table(values: ArrayLike) -> Floats:
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or not table.size:  # noqa: PLR2004 - problems by seeds
        msg = f"need problems by seeds, not {table.shape}"
        raise ValueError(msg)
    return table
