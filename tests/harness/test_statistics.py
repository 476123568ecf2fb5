"""Statistics against scipy, against numbers worked out by hand, and against simulated truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.statistics import (
    accuracy_interval,
    best_of,
    bootstrap_mean,
    calibration_error,
    holm,
    mcnemar_exact,
    mean,
    paired,
    percentile,
    rank_ranges,
    sign_flip,
    wilson,
    within_problem_auc,
)

# -- wilson


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 30), (30, 30), (7, 20), (150, 300), (299, 300), (1, 10_000)])
def test_wilson_is_scipys(k, n):
    expected = stats.binomtest(k, n).proportion_ci(0.95, "wilson")
    assert wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_nothing_and_of_nonsense():
    assert wilson(0, 0) == (0.0, 1.0)
    for k, n in [(-1, 5), (6, 5), (1, 0)]:
        with pytest.raises(ValueError, match="proportion"):
            wilson(k, n)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_within_0_and_1(pair):
    low, high = wilson(*pair)
    assert 0 <= low <= pair[0] / pair[1] <= high <= 1


# -- mcnemar


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (0, 5), (5, 5), (3, 12), (40, 60), (700, 600), (0, 2000)])
def test_mcnemar_is_scipys(b, c):
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar_exact(b, c) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_exact(b, c) == mcnemar_exact(c, b)


def test_mcnemar_by_hand():
    assert mcnemar_exact(6, 0) == 2 / 64
    assert mcnemar_exact(1, 5) == 2 * (1 + 6) / 64


# -- bootstrap


def test_bootstrap_repeats_itself_and_depends_on_its_seed():
    values = np.random.default_rng(0).random((80, 3))
    assert bootstrap_mean(values) == bootstrap_mean(values.tolist())
    assert bootstrap_mean(values) != bootstrap_mean(values, seed=1)


def test_bootstrap_is_scipys():
    values = np.random.default_rng(1).random(150)
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=0).confidence_interval
    assert bootstrap_mean(values) == pytest.approx((expected.low, expected.high), abs=0.003)


def test_seeds_of_a_problem_are_no_new_problems():
    once = np.arange(60) % 3 == 0
    assert bootstrap_mean(np.stack([once] * 5, axis=1)) == pytest.approx(bootstrap_mean(once))


def test_bootstrap_of_many_problems_is_that_of_a_normal_mean():
    low, high = bootstrap_mean(np.arange(1_000_000) % 2)
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.0005, 0.5 + 1.96 * 0.0005), abs=5e-5)


@pytest.mark.parametrize("empty", [[], [[]], np.zeros((0, 3)), np.zeros((2, 2, 2))])
def test_there_must_be_values(empty):
    with pytest.raises(ValueError, match="problems by seeds"):
        bootstrap_mean(empty)


def test_accuracy_interval_chooses():
    correct = np.arange(40) % 4 == 0
    assert accuracy_interval(correct[:, None]) == wilson(10, 40)
    assert accuracy_interval(np.ones((40, 3))) == wilson(40, 40)  # never certain
    several = np.stack([correct, ~correct, correct], axis=1)
    assert accuracy_interval(several) == bootstrap_mean(several)


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_hold_the_truth_as_often_as_they_say(seeds):
    """1,000 simulated runs of 100 problems that differ in difficulty: 95 % intervals hold the mean in 92 to 98 %."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(1000):
        chance_P = rng.beta(2, 1, size=100)  # mean 2/3
        low, high = accuracy_interval(rng.random((100, seeds)) < chance_P[:, None])
        held += low <= 2 / 3 <= high
    assert 920 <= held <= 980


# -- paired


def test_paired_for_one_seed_is_mcnemar():
    row = np.array([1] * 12 + [0] * 3 + [1] * 20 + [0] * 15)
    start = np.array([0] * 12 + [1] * 3 + [1] * 20 + [0] * 15)
    found = paired(row, start)
    assert found.delta == pytest.approx(9 / 50)
    assert found.p == mcnemar_exact(12, 3)
    assert found.low < found.delta < found.high
    expected = stats.bootstrap((row - start,), np.mean, method="percentile", n_resamples=20_000, rng=0)
    assert (found.low, found.high) == pytest.approx(expected.confidence_interval, abs=0.021)  # steps of 1/50


def test_paired_for_several_seeds_flips_problems():
    rng = np.random.default_rng(8)
    row, start = rng.random((60, 3)) < 0.6, rng.random((60, 3)) < 0.5
    found = paired(row, start)
    assert found.p == sign_flip(row.sum(axis=1) - start.sum(axis=1))
    assert found.delta == pytest.approx(row.mean() - start.mean())
    expected = stats.permutation_test(
        (row.mean(axis=1) - start.mean(axis=1),), np.mean, permutation_type="samples", n_resamples=20_000, rng=0
    )
    assert found.p == pytest.approx(expected.pvalue, abs=0.02)


def test_paired_turned_round_is_turned_round():
    rng = np.random.default_rng(4)
    row, start = rng.random((2, 90, 3)) < 0.5
    one, other = paired(row, start), paired(start, row)  # intervals end on a whole answer of 270
    assert (one.delta, one.low, one.high) == pytest.approx((-other.delta, -other.high, -other.low), abs=1.01 / 270)
    assert one.p == other.p


def test_equal_rows_do_not_differ():
    same = np.arange(30).reshape(10, 3) % 2
    assert paired(same, same).p == 1.0
    assert (paired(same, same).delta, paired(same[:, :1], same[:, :1]).p) == (0.0, 1.0)


def test_rows_of_other_shapes_cannot_be_paired():
    with pytest.raises(ValueError, match="cannot be paired"):
        paired(np.ones((3, 2)), np.ones((3, 1)))


def test_sign_flip_is_exact_where_it_can_be_counted():
    differences = np.array([3, 1, 2, -1, 2, 3, 0, 1])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1).T
    exact = (np.abs(signs @ differences) >= differences.sum()).mean()
    assert sign_flip(differences) == pytest.approx(exact, abs=0.01)


def test_sign_flip_is_never_0():
    assert sign_flip(np.ones(500)) == 1 / 10_001


@pytest.mark.parametrize("seeds", [1, 3])
def test_equal_methods_are_called_different_in_5_of_100(seeds):
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(500):
        chance_P1 = rng.random((120, 1))
        row, start = rng.random((120, seeds)) < chance_P1, rng.random((120, seeds)) < chance_P1
        alarms += paired(row, start).p < 0.05
    assert alarms <= 38  # 7.5 %: McNemar is conservative, the permutation exact


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_real_difference_is_found(seeds):
    rng = np.random.default_rng(6)
    row, start = rng.random((300, seeds)) < 0.75, rng.random((300, seeds)) < 0.55
    found = paired(row, start)
    assert found.p < 0.01
    assert found.low > 0


# -- holm, ranks, auc, percentile


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.2]) == [0.2]


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_keeps_order_and_bounds(pvalues):
    adjusted = holm(pvalues)
    assert all(p <= a <= 1 for p, a in zip(pvalues, adjusted, strict=True))
    assert min(adjusted, default=0) == min(1, len(pvalues) * min(pvalues, default=0))
    assert sorted(adjusted) == [adjusted[i] for i in sorted(range(len(pvalues)), key=lambda i: pvalues[i])]


def test_rank_ranges_by_hand():
    assert rank_ranges([(0.8, 0.9), (0.5, 0.6), (0.55, 0.7), (0.1, 0.2)]) == [(1, 1), (2, 3), (2, 3), (4, 4)]
    assert rank_ranges([(0.1, 0.5), (0.5, 0.9)]) == [(1, 2), (1, 2)]  # touching overlaps
    assert rank_ranges([]) == []


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda pair: tuple(sorted(pair))), max_size=30))
@settings(max_examples=50)
def test_rank_ranges_count_those_that_are_apart(intervals):
    for (low, high), (best, worst) in zip(intervals, rank_ranges(intervals), strict=True):
        assert best == 1 + sum(other > high for other, _ in intervals)
        assert worst == len(intervals) - sum(other < low for _, other in intervals)
        assert best <= worst


def test_auc_by_hand():
    assert within_problem_auc([([0.9, 0.1], [True, False])]) == (1.0, 1)
    assert within_problem_auc([([0.5, 0.5], [True, False])]) == (0.5, 1)
    assert within_problem_auc([([1, 2, 3, 2], [False, True, False, False])]) == ((1 + 0 + 0.5) / 3, 1)
    # A problem that is all right or all wrong says nothing; the others count alike, whatever their size.
    groups = [([1.0, 2.0], [True, True]), ([5.0, 1.0], [True, False]), ([1, 2, 3], [True, False, False]), ([], [])]
    assert within_problem_auc(groups) == (0.5, 2)
    assert within_problem_auc([]) == (None, 0)


def test_auc_is_mann_whitney():
    rng = np.random.default_rng(7)
    scores, labels = rng.integers(0, 9, 60), rng.random(60) < 0.4
    expected = stats.mannwhitneyu(scores[labels], scores[~labels]).statistic / (labels.sum() * (~labels).sum())
    assert within_problem_auc([(scores.tolist(), labels.tolist())]) == (pytest.approx(expected), 1)


# -- best of k


def test_the_best_of_k_is_the_mean_over_every_choice_of_k():
    rng = np.random.default_rng(7)
    scores, labels = rng.integers(0, 4, 8).tolist(), (rng.random(8) < 0.4).tolist()
    for k in range(1, 9):
        chances = []
        for chosen in itertools.combinations(range(8), k):
            top = max(scores[i] for i in chosen)
            tied = [labels[i] for i in chosen if scores[i] == top]
            chances.append(sum(tied) / len(tied))
        assert best_of(scores, labels, k) == pytest.approx(sum(chances) / len(chances))


@pytest.mark.parametrize("k", [0, 3])
def test_more_than_there_are_cannot_be_chosen_from(k):
    with pytest.raises(ValueError, match=f"best of {k} cannot be told from 2"):
        best_of([0.1, 0.2], [True, False], k)


# -- calibration


def test_calibration_by_hand():
    """Bins .2 to .3 and .9 to 1: gaps |.25 + .25 - 1| and |.9 + 1 - 2| of four values."""
    chances, labels = [0.25, 0.25, 0.9, 1.0], [True, False, True, True]
    assert calibration_error(chances, labels) == pytest.approx((0.5 + 0.1) / 4)
    assert calibration_error(chances, labels, bins=1) == pytest.approx(abs(2.4 - 3) / 4)


def test_a_scorer_that_is_right_about_itself_has_a_small_error():
    rng = np.random.default_rng(3)
    chances = rng.random(20_000)
    assert calibration_error(chances.tolist(), (rng.random(20_000) < chances).tolist()) < 0.02
    assert calibration_error(chances.tolist(), (rng.random(20_000) < 0.5).tolist()) > 0.2


@pytest.mark.parametrize("chances", [[], [0.5, 1.1], [-0.1, 0.5], [math.nan, 0.5]])
def test_what_is_no_chance_has_no_calibration(chances):
    assert calibration_error(chances, [True] * len(chances)) is None


def test_the_mean_of_nothing_is_none():
    assert mean([]) is None
    assert mean([True, False]) == 0.5


def test_percentile_is_linear():
    assert percentile([4, 1, 3, 2], 50) == 2.5
    assert percentile([7], 95) == 7
    with pytest.raises(ValueError, match="no value"):
        percentile([], 50)
