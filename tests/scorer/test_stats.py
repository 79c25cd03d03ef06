"""The statistics against slow, independent ones."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from wif_store.scorer.stats import Difference, auroc, bootstrap, holm, interval, paired_test, placements


def tied_data(seed, n=60, levels=9):
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 1, rng.integers(2, size=n - 2)]
    return labels, rng.integers(levels, size=n) + labels * rng.integers(3, size=n)


def kernel(labels, scores):
    """Every pair of a 1 and a 0: 1 if ordered, one half if tied."""
    ones, zeros = scores[labels == 1][:, None], scores[labels == 0][None, :]
    return (ones > zeros) + 0.5 * (ones == zeros)


def brute_covariance(labels, first, second):
    """DeLong (1988), equation by equation."""
    a, b = kernel(labels, first), kernel(labels, second)
    by_ones = np.cov(a.mean(axis=1), b.mean(axis=1), ddof=1)[0, 1]
    by_zeros = np.cov(a.mean(axis=0), b.mean(axis=0), ddof=1)[0, 1]
    return by_ones / a.shape[0] + by_zeros / a.shape[1]


@pytest.mark.parametrize("seed", range(20))
def test_auroc_and_variance_equal_independent_ones_on_tied_data(seed):
    labels, scores = tied_data(seed, n=40 + 17 * seed)
    measured = placements(labels, scores)
    assert measured.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert measured.variance == pytest.approx(brute_covariance(labels, scores, scores), abs=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.floats(-1e6, 1e6)), min_size=2, max_size=60))
@settings(max_examples=200, deadline=None)
def test_auroc_equals_sklearn_on_anything(rows):
    labels = np.array([label for label, _ in rows], dtype=int)
    scores = np.array([score for _, score in rows])
    labels[:2] = 0, 1
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert auroc(labels, -scores) == pytest.approx(1 - auroc(labels, scores), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_paired_test_equals_brute_force(seed):
    labels, first = tied_data(seed, n=120)
    second = first + np.random.default_rng(seed + 100).integers(-2, 3, size=120)
    variance = sum(
        sign * brute_covariance(labels, a, b)
        for a, b, sign in ((first, first, 1), (second, second, 1), (first, second, -2))
    )
    expected = roc_auc_score(labels, first) - roc_auc_score(labels, second)
    found = paired_test(placements(labels, first), placements(labels, second), 0.95)
    difference, p = found.value, found.p
    assert difference == pytest.approx(expected, abs=1e-12)
    assert p == pytest.approx(2 * norm.sf(abs(expected) / variance**0.5), abs=1e-9)


def test_a_score_does_not_differ_from_itself_or_a_rescaling():
    labels, scores = tied_data(3)
    assert paired_test(placements(labels, scores), placements(labels, scores * 7 - 2)) == Difference(
        0, 0, 0, 1
    )


@pytest.mark.parametrize(("each", "p"), [(1, 1.0), (2, 1 / 3), (3, 0.1), (10, 2 / 184756)])
def test_a_perfect_order_of_few_examples_proves_little(each, p):
    labels = [1] * each + [0] * each
    up, down = placements(labels, labels), placements(labels, [1 - one for one in labels])
    assert interval(up).p_chance == pytest.approx(p)
    assert paired_test(up, down).p == pytest.approx(p)


def test_holm_equals_the_worked_example_and_is_monotone():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("area", [0.5, 0.65, 0.9])
def test_the_99_percent_interval_covers_what_it_should(area):
    rng = np.random.default_rng(7)
    apart = norm.ppf(area) * 2**0.5
    labels = np.repeat([1, 0], 60)
    hits = 0
    for _ in range(1500):
        found = interval(placements(labels, rng.normal(labels * apart)), 0.99)
        hits += found.low <= area <= found.high
    assert 0.98 <= hits / 1500 <= 0.999


def test_interval_is_wider_at_higher_confidence_and_stays_within_bounds():
    labels, scores = tied_data(1)
    ends = [interval(placements(labels, scores), level) for level in (0.9, 0.99, 0.999)]
    assert all(a.low > b.low and a.high < b.high for a, b in itertools.pairwise(ends))
    assert all(0 < end.low < end.value < end.high < 1 for end in ends)


def test_perfect_separation_still_has_an_interval():
    labels = np.repeat([0, 1], 20)
    found = interval(placements(labels, labels), 0.99)
    assert found.value == found.high == 1.0
    assert found.low == pytest.approx(0.005 ** (1 / 20))
    flipped = interval(placements(labels, 1 - labels), 0.99)
    assert (flipped.value, flipped.low, flipped.high) == (0.0, 0.0, pytest.approx(1 - found.low))


def test_bootstrap_agrees_with_delong_and_repeats():
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], 300)
    scores = np.round(rng.normal(labels * 0.6), 1)
    found = interval(placements(labels, scores), 0.95)
    low, high = bootstrap(labels, scores, 3000, 0.95, seed=1)
    assert (low, high) == pytest.approx((found.low, found.high), abs=0.006)
    assert (low, high) == bootstrap(labels, scores, 3000, 0.95, seed=1)


def test_bootstrap_equals_resampling_by_hand():
    labels, scores = tied_data(4, n=30)
    rng = np.random.default_rng(0)
    ones, zeros = np.flatnonzero(labels), np.flatnonzero(labels == 0)
    drawn = [
        roc_auc_score(labels[rows], scores[rows])
        for rows in (np.r_[rng.choice(ones, len(ones)), rng.choice(zeros, len(zeros))] for _ in range(2000))
    ]
    assert bootstrap(labels, scores, 20000, 0.9) == pytest.approx(np.quantile(drawn, [0.05, 0.95]), abs=0.02)


def test_one_class_and_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="both classes"):
        placements([1, 1], [0.1, 0.2])
    with pytest.raises(ValueError, match="one length"):
        placements([1, 0], [0.1])
