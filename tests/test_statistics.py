"""Statistics against scipy, closed forms and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from labkit import statistics


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# intervals ------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_his_formula(case):
    hits, n = case
    z = scipy.stats.norm.ppf(0.975)
    middle, half = hits + z * z / 2, z * math.sqrt(hits * (n - hits) / n + z * z / 4)
    low, high = statistics.wilson(hits, n)
    assert low == pytest.approx(max(0, (middle - half) / (n + z * z)), abs=1e-12)
    assert high == pytest.approx(min(1, (middle + half) / (n + z * z)), abs=1e-12)
    assert 0 <= low <= hits / n <= high <= 1
    assert high - low > 0


def test_wilson_of_nothing_says_nothing():
    assert all(map(math.isnan, statistics.wilson(0, 0)))


def test_wilson_covers():
    """Over many samples of a known share about 95 % of the intervals hold it."""
    p, n = 0.2, 30
    chance = scipy.stats.binom.pmf(np.arange(n + 1), n, p)  # exact, no simulation needed
    covered = [low <= p <= high for low, high in (statistics.wilson(hits, n) for hits in range(n + 1))]
    assert 0.92 < (chance * covered).sum() < 0.98


def test_the_paired_difference_is_newcombe_s_example():
    """Statistics in Medicine 17:2635: both right 36, one alone 12 and 2, neither 0."""
    found, low, high = statistics.paired_difference(36, 12, 2, 0)
    assert (round(found, 4), round(low, 4), round(high, 4)) == (0.2, 0.0569, 0.3404)
    assert statistics.paired_difference(36, 2, 12, 0) == pytest.approx((-0.2, -high, -low))


def test_a_paired_difference_has_a_width_at_the_ends():
    none, all_won = statistics.paired_difference(0, 0, 0, 50), statistics.paired_difference(0, 50, 0, 0)
    assert none[1] < 0 < none[2]
    assert all_won[0] == 1
    assert all_won[1] < 0.95
    assert all(map(math.isnan, statistics.paired_difference(0, 0, 0, 0)))


def test_the_paired_difference_covers():
    """Of pairs drawn with known chances, about 95 % of the intervals hold the difference."""
    chances, n = np.array([0.4, 0.25, 0.1, 0.25]), 40  # both, first, second, neither
    drawn = np.random.default_rng(0).multinomial(n, chances, size=400)
    intervals = [statistics.paired_difference(*map(int, counts)) for counts in drawn]
    assert 0.92 < np.mean([low <= 0.15 <= high for _, low, high in intervals]) < 0.99


def test_the_percentile_interval_is_scipys_bootstrap():
    values = rng().lognormal(size=(12,))
    weights = statistics.resampled(np.zeros(12, int), 20_000, rng(1))
    low, high = statistics.interval(weights @ values / 12)
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=rng(2))
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), rel=0.02)


def test_intervals_run_along_the_axis_asked_for():
    samples = rng().normal(size=(5, 1000, 2))
    for axis in (0, 1, 2, -1):
        low, high = statistics.interval(samples, axis)
        expected = np.percentile(samples, [2.5, 97.5], axis=axis)
        np.testing.assert_array_equal([low, high], expected)
    low, high = statistics.interval(np.zeros((0, 3)))
    assert low.shape == high.shape == (3,)
    assert np.isnan([low, high]).all()


def coverage(interval, truth: float, draw, trials: int = 300) -> float:
    """How often the interval, from 400 resamplings of 30 documents, holds the truth."""
    held = 0
    for trial in range(trials):
        values = draw(rng(trial))
        weights = statistics.resampled(np.zeros(len(values), int), 400, rng(10_000 + trial))
        low, high = interval(np.array([values.mean()]), (weights @ values / len(values))[:, None])
        held += bool(low[0] <= truth <= high[0])
    return held / trials


@pytest.mark.parametrize(
    "interval",
    [
        lambda observed, samples: statistics.interval(samples),
        statistics.basic_interval,
        statistics.centred_interval,
        lambda observed, samples: statistics.normal_interval(observed, samples[:30]),
    ],
    ids=["percentile", "basic", "centred", "normal"],
)
def test_intervals_over_documents_cover(interval):
    assert 0.89 < coverage(interval, 5.0, lambda draw: draw.gamma(25, 0.2, size=30)) < 0.985


def test_the_basic_interval_is_the_percentile_interval_turned_round():
    samples, observed = rng().normal(3, 0.5, size=(500, 2)), np.array([3.1, 2.7])
    low, high = statistics.basic_interval(observed, samples)
    lower, upper = np.percentile(samples, [2.5, 97.5], axis=0)
    np.testing.assert_allclose([low, high], [2 * observed - upper, 2 * observed - lower])
    assert (np.array(statistics.basic_interval(np.array([0.01]), samples[:, :1])) >= 0).all()


def test_the_centred_interval_takes_off_what_resampling_adds():
    samples = rng().normal(3.0, 0.1, size=(2000, 1))
    plain = statistics.centred_interval(np.array([2.0]), samples)
    assert plain == (pytest.approx(1.804, abs=0.02), pytest.approx(2.196, abs=0.02))


def test_one_resampling_has_no_spread():
    low, high = statistics.normal_interval(np.array([1.0, 2.0]), np.ones((1, 2)))
    assert np.isnan([low, high]).all()


# documents ------------------------------------------------------------------------------------------------------------


def test_resampling_stays_within_kinds_and_is_fair():
    kind_of = np.array([0, 1, 0, 1, 1, 2])
    weights = statistics.resampled(kind_of, 4_000, rng())
    for kind in range(3):
        assert (weights[:, kind_of == kind].sum(1) == (kind_of == kind).sum()).all()
    assert (weights[:, 5] == 1).all()  # the only one of its kind
    np.testing.assert_allclose(weights[:, :5].mean(0), 1, atol=0.05)
    np.testing.assert_allclose(weights[:, [1, 3, 4]].var(0), 3 * (1 / 3) * (2 / 3), atol=0.05)
    assert statistics.resampled(np.zeros(0, int), 3, rng()).shape == (3, 0)


def test_deals_keep_how_many_there_are_of_each():
    labels = np.array([0, 0, 1, 2, 2, 2])
    found = statistics.dealt(labels, 6_000, rng())
    assert (np.sort(found, 1) == np.sort(labels)).all()
    np.testing.assert_allclose((found == 2).mean(0), 0.5, atol=0.03)
    assert statistics.dealt(labels, 0, rng()).shape == (0, 6)
    assert statistics.dealt(labels[:0], 2, rng()).shape == (2, 0)


def test_permutations_within_groups():
    groups = np.array([3, 1, 3, 1, 3, 7])
    orders = np.array([statistics.permuted_within(groups, rng(seed)) for seed in range(200)])
    assert (groups[orders] == groups).all()
    assert (np.sort(orders, 1) == np.arange(6)).all()
    assert {tuple(order[[0, 2, 4]]) for order in orders} == {
        (a, b, c) for a in (0, 2, 4) for b in (0, 2, 4) for c in (0, 2, 4) if len({a, b, c}) == 3
    }


@given(st.lists(st.integers(0, 3), max_size=40), st.floats(0.05, 0.95), st.integers(0, 5))
def test_a_split_takes_its_share_of_every_kind(kinds, share, seed):
    kind_of = np.array(kinds, dtype=np.int64)
    some, others = statistics.split(kind_of, share, rng(seed))
    assert sorted([*some, *others]) == list(range(len(kinds)))
    assert list(some) == sorted(some)
    for kind in set(kinds):
        there, taken = kinds.count(kind), int((kind_of[others] == kind).sum())
        assert (taken == 0) if there == 1 else (1 <= taken < there)
        assert abs(taken - share * there) <= 1


# chance ---------------------------------------------------------------------------------------------------------------


def test_p_values_are_uniform_where_chance_is_all():
    draw = rng()
    found = np.array(
        [statistics.p_value(*(lambda x: (float(x[0]), x[1:]))(draw.normal(size=100))) for _ in range(2_000)]
    )
    assert scipy.stats.kstest(found, "uniform").pvalue > 0.01
    assert found.min() >= 0.01


def test_p_value_is_scipys_of_the_same_permutations():
    a, b = rng(1).normal(0.4, 1, size=12), rng(2).normal(size=12)
    labels = np.array([0] * 12 + [1] * 12)
    both = np.concatenate([a, b])
    observed = float(a.mean() - b.mean())
    deals = statistics.dealt(labels, 4_000, rng(3))
    others = np.array([both[deal == 0].mean() - both[deal == 1].mean() for deal in deals])
    theirs = scipy.stats.permutation_test(
        (a, b), lambda x, y: x.mean() - y.mean(), n_resamples=4_000, alternative="greater", rng=rng(4)
    )
    assert statistics.p_value(observed, others) == pytest.approx(theirs.pvalue, abs=0.02)


def test_what_there_is_no_chance_of_is_missing():
    observed = np.array([0.1, np.nan])
    assert all(np.isnan(each).all() for each in statistics.null(observed, np.zeros((0, 2))))
    mean, high, p = statistics.null(observed, np.array([[0.0, 0.0], [0.2, 0.0]]))
    np.testing.assert_allclose(mean, [0.1, 0])
    np.testing.assert_allclose(high, [0.195, 0])
    assert p[0] == pytest.approx(2 / 3)
    assert math.isnan(p[1])


@given(st.integers(0, 8), st.integers(0, 8), st.integers(0, 8))
def test_hypergeometric_counts_every_deal(hits, drawn, right):
    n = 8
    as_many = sum(
        math.comb(right, h) * math.comb(n - right, drawn - h)
        for h in range(hits, min(right, drawn) + 1)
        if drawn - h <= n - right
    )
    assert statistics.hypergeometric(hits, drawn, right, n) == pytest.approx(as_many / math.comb(n, drawn), abs=1e-12)


def test_ranks_tie_what_rounding_tells_apart():
    x = np.array([[0.3, 0.1 + 0.2], [5.0, -1.0]])
    found = statistics.ranks(x)
    np.testing.assert_allclose(found, [[0, 0], [1.5, -1.5]])
    y = rng().normal(size=50)
    both = statistics.ranks(y), statistics.ranks(y**3 + rng(1).normal(size=50))
    ours = (both[0] * both[1]).sum() / np.sqrt((both[0] ** 2).sum() * (both[1] ** 2).sum())
    assert ours == pytest.approx(scipy.stats.spearmanr(y, y**3 + rng(1).normal(size=50)).statistic)
    assert (statistics.ranks(np.ones((3, 2))) == 0).all()


# information ----------------------------------------------------------------------------------------------------------


def test_information_is_scipys():
    counts = rng().integers(0, 9, size=(3, 4, 5)).astype(float)
    np.testing.assert_allclose(statistics.entropy(counts), scipy.stats.entropy(counts, base=2, axis=-1), atol=1e-12)
    for table in counts:
        of_both = scipy.stats.entropy(table.sum(0), base=2) + scipy.stats.entropy(table.sum(1), base=2)
        assert statistics.mutual_information(table) == pytest.approx(
            of_both - scipy.stats.entropy(table.ravel(), base=2)
        )
    assert statistics.xlogx(np.array([0.0, 1.0, math.e])) == pytest.approx([0, 0, math.e])
    with np.errstate(all="raise"):
        assert np.isnan(statistics.entropy(np.zeros(3)))
        assert np.isnan(statistics.mutual_information(np.zeros((2, 2))))
