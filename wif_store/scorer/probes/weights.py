"""The weights of linear probes, in one form: to be saved, read with numpy alone, and pushed along."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wif_store.scorer.stats import Floats


def linear_weights(estimator: Any, train: Any) -> dict[str, Floats] | None:
    """The weights of a linear probe of dense features; None of any other.

    Args:
        estimator: Fitted: with ``coef_`` ``[1, d]`` and ``intercept_`` ``[1]``, or a scikit-learn pipeline of
            a ``StandardScaler`` and such a one.
        train: What it was fitted to, float32 ``[n, d]``.

    Returns:
        float64 ``mean`` ``[d]`` and ``scale`` ``[d]`` of the train rows, ``coef`` ``[d]`` and ``intercept``
        ``[1]``, so that ``((x - mean) / scale) @ coef + intercept`` is what the probe gives. Where the train
        rows do not vary, the scale is 1.
    """
    if not isinstance(train, np.ndarray) or train.ndim != 2:
        return None
    found = _raw(estimator)
    if found is None or found[0].shape != (train.shape[1],):
        return None
    coef, intercept = found
    mean, scale = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
    scale[scale == 0] = 1.0
    return {
        "mean": mean,
        "scale": scale,
        "coef": coef * scale,
        "intercept": np.atleast_1d(intercept + coef @ mean),
    }


def same_scores(weights: Mapping[str, Floats], features: Any, scores: Floats) -> bool:
    """Whether the weights give what the probe gave: an estimator may do more than its ``coef_`` says."""
    found = ((features - weights["mean"]) / weights["scale"]) @ weights["coef"] + weights["intercept"]
    return bool(np.allclose(found, scores, rtol=1e-3, atol=1e-3 * float(np.std(scores))))


def _raw(estimator: Any) -> tuple[Floats, Floats] | None:
    """``coef`` ``[d]`` and the intercept of a linear estimator, in units of what it was given."""
    *before, last = [step for _, step in getattr(estimator, "steps", [("", estimator)])]
    if not hasattr(last, "coef_") or np.size(getattr(last, "intercept_", ())) != 1:
        return None
    coef = np.asarray(last.coef_, dtype=np.float64)
    if coef.ndim == 2 and len(coef) == 1:
        coef = coef[0]
    intercept = np.asarray(last.intercept_, dtype=np.float64).reshape(())
    for step in reversed(before):
        if type(step).__name__ != "StandardScaler":
            return None
        scale = np.ones_like(coef) if step.scale_ is None else step.scale_
        mean = np.zeros_like(coef) if step.mean_ is None else step.mean_
        coef = coef / scale
        intercept = intercept - coef @ mean
    return coef, intercept
