"""Probes of the features of a sparse autoencoder: many, most of them zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

from wif_store.scorer.stats import Floats, auroc

if TYPE_CHECKING:
    from collections.abc import Sequence

C_GRID: Final = (1e-3, 1e-2, 0.1, 1.0, 10.0)
K_GRID: Final = (1, 4, 16, 64, 256)

Validation = tuple[Any, npt.ArrayLike]


class SaeLogistic(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Logistic regression with an L1 penalty, which gives most features no weight.

    Features are divided by their largest value on train, so that zeros stay zeros.

    Args:
        grid: The inverse penalties to try.

    Attributes:
        C_: The chosen inverse penalty; of equal ones the strongest penalty wins.
        coef_: ``[1, features]``, in units of the features as they are given.
        intercept_: ``[1]``.
    """

    def __init__(self, grid: Sequence[float] = C_GRID) -> None:
        """Keep the parameters as they are; scikit-learn's ``clone`` reads them back."""
        self.grid = grid

    def fit(self, X: Any, y: npt.ArrayLike, validation: Validation) -> Self:
        """Fit every ``C`` to ``X`` sparse ``[n, features]`` and keep the best on ``validation``."""
        scaler = MaxAbsScaler()
        features = scaler.fit_transform(sparse.csr_matrix(X, dtype=np.float64))
        best = -1.0
        for c in sorted(self.grid):
            # The strongest penalties may leave no weight at all, which ranks nothing.
            model = LogisticRegression(C=c, l1_ratio=1.0, solver="liblinear", random_state=0, max_iter=1000)
            model.fit(features, y)
            coef = model.coef_ / scaler.scale_
            found = auroc(np.asarray(validation[1]) == model.classes_[-1], validation[0] @ coef[0])
            if found > best and (coef.any() or c == max(self.grid)):
                best, self.C_, self.coef_, self.intercept_ = found, float(c), coef, model.intercept_
        self.classes_, self.n_features_in_ = model.classes_, features.shape[1]
        return self

    def decision_function(self, X: Any) -> Floats:
        """Return the log-odds of the second class for ``X`` sparse ``[n, features]``: float64 ``[n]``."""
        scores: Floats = X @ self.coef_[0] + self.intercept_[0]
        return scores


class SaeK(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Logistic regression on the ``k`` features whose means differ most between the classes on train.

    Args:
        grid: The numbers of features to try.

    Attributes:
        k_: The chosen number; of equal ones the least wins.
        features_: The ``k_`` features, the one of the largest difference first.
        coef_: ``[1, features]``, zero but for those, in units of the features as they are given.
        intercept_: ``[1]``.
    """

    def __init__(self, grid: Sequence[int] = K_GRID) -> None:
        """Keep the parameters as they are; scikit-learn's ``clone`` reads them back."""
        self.grid = grid

    def fit(self, X: Any, y: npt.ArrayLike, validation: Validation) -> Self:
        """Fit every ``k`` to ``X`` sparse ``[n, features]`` and keep the best on ``validation``."""
        features, target = sparse.csc_matrix(X, dtype=np.float64), np.asarray(y)
        self.classes_, self.n_features_in_ = np.unique(target), features.shape[1]
        low, high = (
            np.asarray(features[np.flatnonzero(target == one)].mean(0)).ravel() for one in self.classes_
        )
        order = np.argsort(-np.abs(high - low), kind="stable")
        order = order[: max(1, np.count_nonzero(high != low))]
        held = sparse.csc_matrix(validation[0], dtype=np.float64)
        best = -1.0
        for k in sorted({min(k, len(order)) for k in self.grid}):
            scaler, model = StandardScaler(), LogisticRegression(max_iter=1000)
            model.fit(scaler.fit_transform(features[:, order[:k]].toarray()), target)
            weights = model.coef_[0] / scaler.scale_
            scores = held[:, order[:k]] @ weights
            found = auroc(np.asarray(validation[1]) == self.classes_[-1], scores)
            if found > best:
                best, self.k_, self.features_ = found, k, order[:k]
                self.coef_ = np.zeros((1, features.shape[1]))
                self.coef_[0, order[:k]] = weights
                self.intercept_ = model.intercept_ - weights @ scaler.mean_
        return self

    def decision_function(self, X: Any) -> Floats:
        """Return the log-odds of the second class for ``X`` sparse ``[n, features]``: float64 ``[n]``."""
        scores: Floats = X @ self.coef_[0] + self.intercept_[0]
        return scores
