"""The probe that is an estimator of its own and small: the difference of class means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin

if TYPE_CHECKING:
    from wif_store.scorer.stats import Floats


class MeanDifference(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Project onto the line from the mean of the failures to the mean of the successes.

    Raw features, nothing to tune. The score is zero half way between the means.

    Attributes:
        coef_: the difference of the means, ``[1, d]``.
        intercept_: ``[1]``.
    """

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """Fit to ``X`` ``[n, d]`` and ``y`` (two classes)."""
        features, target = np.asarray(X, dtype=np.float64), np.asarray(y)
        self.classes_ = np.unique(target)
        low, high = (features[target == label].mean(axis=0) for label in self.classes_)
        self.coef_ = (high - low)[None]
        self.intercept_ = -self.coef_ @ (high + low) / 2.0
        self.n_features_in_ = features.shape[1]
        return self

    def decision_function(self, X: npt.ArrayLike) -> Floats:
        """Return the signed projection of ``X`` ``[n, d]``: float64 ``[n]``."""
        scores: Floats = np.asarray(X, dtype=np.float64) @ self.coef_[0] + self.intercept_[0]
        return scores

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.generic]:
        """Return the class whose mean is nearer along the line."""
        chosen: npt.NDArray[np.generic] = self.classes_[(self.decision_function(X) > 0).astype(int)]
        return chosen
