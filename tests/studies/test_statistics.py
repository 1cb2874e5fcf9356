"""The statistics against hand-computed values and independent formulas."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from sot_nlp.studies import statistics


def test_mean_and_sd_by_hand():
    mean, sd = statistics.mean_and_sd([1.0, 2.0, 6.0])
    assert mean == 3.0
    assert sd == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert statistics.mean_and_sd([0.25]) == (0.25, None)


@pytest.mark.parametrize("size", [5, 7, 10])
def test_permutation_equals_all_sign_flips(size):
    source = np.random.default_rng(size)
    first, second = source.normal(0.4, 1, size), source.normal(0, 1, size)
    difference = first - second
    means = [np.mean(difference * signs) for signs in itertools.product((1, -1), repeat=size)]
    one_sided = min(
        np.mean([m >= difference.mean() - 1e-12 for m in means]),
        np.mean([m <= difference.mean() + 1e-12 for m in means]),
    )
    assert statistics.permutation_p(first, second) == pytest.approx(min(1.0, 2 * one_sided))


def test_the_smallest_p_of_five_pairs():
    assert statistics.permutation_p([2, 3, 4, 5, 6], [1, 1, 1, 1, 1]) == pytest.approx(2 / 32)


def test_no_test_below_five_pairs():
    assert statistics.permutation_p([2, 3, 4, 5], [1, 1, 1, 1]) is None
    assert statistics.bootstrap_interval([1.0, 2.0, 3.0, 4.0]) is None
    difference = statistics.paired_difference({1: 0.5, 2: 0.7}, {1: 0.4, 2: 0.5})
    assert difference.too_few
    assert difference.p_value is None
    assert difference.interval is None
    assert difference.mean == pytest.approx(0.15)


def test_swaps_that_are_equally_far_count_whatever_their_rounding():
    # Accuracies on 277 examples: counted in whole examples there is no rounding.
    source = np.random.default_rng(5)
    for _ in range(40):
        first, second = source.integers(140, 180, size=(2, 8))
        swapped = [abs(np.dot(signs, first - second)) for signs in itertools.product((1, -1), repeat=8)]
        expected = np.mean(np.array(swapped) >= abs((first - second).sum()))
        assert statistics.permutation_p(first / 277, second / 277) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("unit", [2.0**-44, 2.0**40])
def test_errors_of_any_unit_give_the_same_p_and_interval(unit):
    first, second = [0.61, 0.58, 0.66, 0.60, 0.57, 0.63], [0.60, 0.59, 0.61, 0.58, 0.55, 0.63]
    scaled = [[unit * value for value in values] for values in (first, second)]
    assert statistics.permutation_p(*scaled) == statistics.permutation_p(first, second) < 1
    differences = [a - b for a, b in zip(first, second, strict=True)]
    interval = statistics.bootstrap_interval(differences)
    assert interval is not None
    assert statistics.bootstrap_interval([unit * d for d in differences]) == tuple(
        unit * end for end in interval
    )


def test_unpaired_lengths_are_refused():
    with pytest.raises(ValueError, match="5 and 6"):
        statistics.permutation_p([1] * 5, [1] * 6)


def test_the_interval_is_as_wide_as_students_t_on_normal_values():
    values = np.random.default_rng(3).normal(size=20)
    low, high = statistics.bootstrap_interval(values)
    half = stats.t.ppf(0.975, 19) * values.std(ddof=1) / math.sqrt(20)
    assert low < values.mean() < high
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)


def test_the_interval_covers_about_as_often_as_it_says():
    source = np.random.default_rng(0)
    trials = 100
    covered = sum(
        low <= 0 <= high
        for low, high in (statistics.bootstrap_interval(source.normal(size=10)) for _ in range(trials))
    )
    assert 0.89 * trials <= covered <= 0.99 * trials


def test_the_interval_is_the_same_each_time_and_exact_without_spread():
    values = [0.1, 0.3, 0.2, 0.4, 0.35]
    assert statistics.bootstrap_interval(values) == statistics.bootstrap_interval(values)
    assert statistics.bootstrap_interval([0.25] * 6) == (0.25, 0.25)
    low, high = statistics.bootstrap_interval([0.0, 0.0, 0.0, 0.0, 1.0])
    assert 0.0 <= low <= 0.2 <= high <= 1.0


@pytest.mark.parametrize("values", [[0.0, -0.01, 0.04, 0.03, -0.08], [0.02, -0.02, -0.05, 0.01, 0.0]])
def test_the_interval_of_percents_is_that_of_shares(values):
    """Whether a resample's mean counts as equal to the mean must not be a matter of rounding."""
    of_percents = statistics.bootstrap_interval([100 * value for value in values])
    assert of_percents == pytest.approx([100 * end for end in statistics.bootstrap_interval(values)])


def test_holm_by_hand():
    # Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, each at least the one before it.
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.02, None, 0.9]) == pytest.approx([0.04, None, 0.9])
    assert statistics.holm([0.8, 0.7]) == [1.0, 1.0]
    assert statistics.holm([]) == []


# Sample sizes of the two-sided paired t-test at 5 % and 80 % power, as G*Power and Cohen's tables give them.
@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_seeds_needed_are_the_textbook_sizes(effect, pairs):
    unit = np.array([-1.0, 1.0]) / math.sqrt(2)  # mean 0, sample deviation 1
    assert statistics.seeds_needed(unit + effect) == pairs
    assert statistics.paired_t_power(effect, pairs) >= 0.8 > statistics.paired_t_power(effect, pairs - 1)


def test_power_equals_simulation():
    samples = np.random.default_rng(1).normal(0.6, 1, (40_000, 12))
    rejected = stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05
    assert statistics.paired_t_power(0.6, 12) == pytest.approx(rejected.mean(), abs=0.01)


def test_seeds_needed_where_no_number_can_be_given():
    assert statistics.seeds_needed([0.1]) is None
    assert statistics.seeds_needed([0.1, -0.1]) is None
    assert statistics.seeds_needed([1.0, -1.0, 1e-4]) is None
    assert statistics.seeds_needed([0.1, 0.1, 0.1]) == 2


def test_mcnemar_by_hand():
    # 1 against 9: 2 (C(10, 0) + C(10, 1)) / 2^10
    assert statistics.mcnemar_p(1, 9) == pytest.approx(22 / 1024)
    assert statistics.mcnemar_p(9, 1) == pytest.approx(22 / 1024)
    assert statistics.mcnemar_p(0, 0) == 1.0
    assert statistics.mcnemar_p(4, 4) == 1.0


def test_paired_difference_takes_the_seeds_that_both_have():
    difference = statistics.paired_difference(
        {3: 0.5, 1: 0.3, 2: 0.4, 4: 0.9, 5: 0.1, 6: 0.2}, {1: 0.1, 2: 0.3, 3: 0.2, 5: 0.3, 6: 0.1, 9: 0.0}
    )
    assert difference.seeds == (1, 2, 3, 5, 6)
    assert difference.differences == pytest.approx((0.2, 0.1, 0.3, -0.2, 0.1))
    assert difference.mean == pytest.approx(0.1)
    assert difference.interval[0] < 0 < difference.interval[1]
    assert statistics.paired_difference({1: 0.1}, {2: 0.1}) is None
