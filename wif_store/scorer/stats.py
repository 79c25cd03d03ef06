"""AUROC, how sure it is, and whether two of them differ.

Everything here is numpy and the standard library. ``labels`` are 0 or 1, ``scores`` are finite
numbers, higher where a 1 is likelier. DeLong's variance is computed by midranks (Sun and Xu, 2014)
in ``O(n log n)``, so ties count one half everywhere, as they do in the AUROC itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = npt.NDArray[np.float64]

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Placements:
    """One AUROC with the per-example terms its variance is made of.

    ``positive`` holds for each example labelled 1 the share of the 0s that score below it, and
    ``negative`` for each example labelled 0 the share of the 1s that score above it; ties count one
    half. Both average to ``auroc``. Two of them over the same examples in the same order give the
    covariance of their AUROCs.
    """

    auroc: float
    positive: Floats
    negative: Floats

    @property
    def variance(self) -> float:
        """DeLong's variance of the AUROC."""
        return self.covariance(self)

    def covariance(self, other: Placements) -> float:
        """DeLong's covariance of two AUROCs measured on the same examples."""
        return _covariance(self.positive, other.positive) + _covariance(self.negative, other.negative)


@dataclass(frozen=True, slots=True)
class Auroc:
    """An AUROC with its confidence interval and the test against 0.5.

    ``p_chance`` is two-sided, from the same DeLong standard error.
    """

    value: float
    low: float
    high: float
    standard_error: float
    p_chance: float
    positives: int
    negatives: int


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of two AUROCs of the same examples, with its interval and its two-sided p-value."""

    value: float
    low: float
    high: float
    p: float


def placements(labels: npt.ArrayLike, scores: npt.ArrayLike) -> Placements:
    """Compute the AUROC of ``scores`` and its DeLong terms.

    Args:
        labels: 0 or 1, ``[n]``, with both present.
        scores: finite numbers, ``[n]``.

    Raises:
        ValueError: if the shapes differ or one class is absent.
    """
    truth, values = np.asarray(labels).astype(bool), np.asarray(scores, dtype=np.float64)
    if truth.shape != values.shape or truth.ndim != 1:
        msg = f"labels and scores must be vectors of one length, not {truth.shape} and {values.shape}"
        raise ValueError(msg)
    ones, zeros = values[truth], values[~truth]
    if not len(ones) or not len(zeros):
        msg = f"an AUROC needs both classes, not {len(ones)} ones and {len(zeros)} zeros"
        raise ValueError(msg)
    together = _midranks(np.concatenate([ones, zeros]))
    positive = (together[: len(ones)] - _midranks(ones)) / len(zeros)
    negative = 1.0 - (together[len(ones) :] - _midranks(zeros)) / len(ones)
    return Placements(float(positive.mean()), positive, negative)


def auroc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Return the area under the ROC curve, by ranks, with ties counted one half."""
    return placements(labels, scores).auroc


def interval(measured: Placements, confidence: float = 0.999) -> Auroc:
    """Put a DeLong confidence interval around an AUROC.

    The interval is symmetric on the logit scale, which keeps it inside 0 and 1. By simulation it covers as
    often as it says, in small samples and near 1 too, where the plain
    ``AUROC ± z·SE`` does not. At exactly 0 or 1, where DeLong's variance vanishes, the far end is
    the exact binomial bound for no error in as many trials as the smaller class has members.
    """
    value, error = measured.auroc, measured.variance**0.5
    low, high = _ends(value, error, confidence, min(len(measured.positive), len(measured.negative)))
    return Auroc(
        value,
        low,
        high,
        error,
        _two_sided(value - 0.5, error, len(measured.positive), len(measured.negative)),
        len(measured.positive),
        len(measured.negative),
    )


def paired_test(first: Placements, second: Placements, confidence: float = 0.999) -> Difference:
    """Compare two AUROCs of the same examples with DeLong's paired test: ``first - second``."""
    variance = first.variance + second.variance - 2.0 * first.covariance(second)
    value, error = first.auroc - second.auroc, max(variance, 0.0) ** 0.5
    reach = _NORMAL.inv_cdf((1.0 + confidence) / 2.0) * error
    sizes = len(first.positive), len(first.negative)
    low, high = max(-1.0, value - reach), min(1.0, value + reach)
    return Difference(value, low, high, _two_sided(value, error, *sizes))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given; they control the family-wise error."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.asarray(p_values, dtype=float)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return [float(p) for p in adjusted]


def bootstrap(
    labels: npt.ArrayLike, scores: npt.ArrayLike, draws: int, confidence: float = 0.999, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile interval of ``draws`` stratified resamples of the examples.

    Each class is resampled within itself, so that every draw has the balance of the data.
    """
    truth, values = np.asarray(labels).astype(bool), np.asarray(scores, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    truth, values = truth[order], values[order]
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    ones, zeros = np.flatnonzero(truth), np.flatnonzero(~truth)
    rng = np.random.default_rng(seed)
    measured = np.empty(draws)
    for first in range(0, draws, 256):
        count = min(256, draws - first)
        weights = np.zeros((count, len(values)))
        weights[:, ones] = rng.multinomial(len(ones), np.full(len(ones), 1 / len(ones)), size=count)
        positive = np.add.reduceat(weights, starts, axis=1)
        weights[:] = 0.0
        weights[:, zeros] = rng.multinomial(len(zeros), np.full(len(zeros), 1 / len(zeros)), size=count)
        negative = np.add.reduceat(weights, starts, axis=1)
        below = np.cumsum(negative, axis=1) - negative / 2.0
        measured[first : first + count] = (positive * below).sum(axis=1) / (len(ones) * len(zeros))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(measured, [tail, 1.0 - tail])
    return float(low), float(high)


def _midranks(values: Floats) -> Floats:
    """Return 1-based ranks, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last: Floats = np.cumsum(counts).astype(np.float64)
    shared: Floats = (last - (counts - 1) / 2.0)[inverse]
    return shared


def _covariance(first: Floats, second: Floats) -> float:
    """Return the covariance of the two means (not defined by one example; zero then)."""
    count = len(first)
    if count < 2:
        return 0.0
    return float(np.dot(first - first.mean(), second - second.mean())) / (count - 1) / count


def _two_sided(difference: float, error: float, positives: int, negatives: int) -> float:
    """Return the normal two-sided p-value; equal things never differ, however sure.

    Where the variance vanishes, the p-value is that of the most extreme of all orders of the examples.
    """
    if error < 1e-12:
        return 1.0 if abs(difference) < 1e-12 else min(1.0, 2.0 / math.comb(positives + negatives, positives))
    return 2.0 * _NORMAL.cdf(-abs(difference) / error)


def _ends(value: float, error: float, confidence: float, smaller: int) -> tuple[float, float]:
    """Return the logit interval, or the binomial bound where the logit has no value."""
    tail = (1.0 - confidence) / 2.0
    if not 0.0 < value < 1.0:
        reach = tail ** (1.0 / smaller)
        return (reach, 1.0) if value >= 1.0 else (0.0, 1.0 - reach)
    centre = np.log(value / (1.0 - value))
    half = _NORMAL.inv_cdf(1.0 - tail) * error / (value * (1.0 - value))
    low, high = (1.0 / (1.0 + np.exp(-np.clip([centre - half, centre + half], -700, 700)))).tolist()
    return low, high
