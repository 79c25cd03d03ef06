"""Logistic regression with the penalty chosen on validation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from wif_store.scorer.stats import Floats, auroc

if TYPE_CHECKING:
    from collections.abc import Sequence

C_GRID = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)


class LogisticPath(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """scikit-learn's L2-penalised logistic regression on standardised features, for several ``C``.

    The fits go from the strongest penalty to the weakest. Each starts from the weights of the one before it,
    which takes fewer steps than a start from zero.

    Args:
        grid: the inverse penalties to try.
        tol: the largest entry of the gradient at which a fit ends, as in ``LogisticRegression``.
        max_iter: steps allowed for each ``C``.

    Attributes:
        C_: the chosen inverse penalty; of equal ones the strongest penalty wins.
        coef_: ``[1, d]``, in units of the raw features.
        intercept_: ``[1]``.
        grid_auroc_: the validation AUROC at each ``C``; empty without validation data.
    """

    def __init__(self, grid: Sequence[float] = C_GRID, tol: float = 1e-4, max_iter: int = 10_000) -> None:
        """Keep the parameters as they are; scikit-learn's ``clone`` reads them back."""
        self.grid = grid
        self.tol = tol
        self.max_iter = max_iter

    def fit(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        validation: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    ) -> Self:
        """Fit every ``C`` to ``X`` ``[n, d]`` and ``y`` (two classes) and keep the best on ``validation``.

        The fits are in the type of ``X``: float32 or float64.

        Raises:
            ValueError: if there is a grid to choose from and no validation data to choose by.
        """
        grid = sorted(self.grid)
        if validation is None and len(grid) != 1:
            msg = f"a grid of {len(grid)} values of C needs validation=(X, y) to choose by, or give one value"
            raise ValueError(msg)
        scaler = StandardScaler()
        # Rows next to each other: residuals come channel by channel, in which the products are slower.
        features = np.ascontiguousarray(scaler.fit_transform(X))
        model = LogisticRegression(tol=self.tol, max_iter=self.max_iter, warm_start=True)
        best, self.grid_auroc_ = -1.0, {}
        for c in grid:
            model.set_params(C=c).fit(features, y)
            coefficients = model.coef_.astype(np.float64) / scaler.scale_
            intercept = model.intercept_ - coefficients @ scaler.mean_
            found = 0.0
            if validation is not None:
                scores = np.asarray(validation[0], dtype=np.float64) @ coefficients[0] + intercept[0]
                found = auroc(np.asarray(validation[1]) == model.classes_[-1], scores)
                self.grid_auroc_[c] = found
            if found > best:
                best, self.C_, self.coef_, self.intercept_ = found, float(c), coefficients, intercept
        self.classes_ = model.classes_
        self.n_features_in_ = features.shape[1]
        return self

    def decision_function(self, X: npt.ArrayLike) -> Floats:
        """Return the log-odds of the second class for ``X`` ``[n, d]``: float64 ``[n]``."""
        scores: Floats = np.asarray(X, dtype=np.float64) @ self.coef_[0] + self.intercept_[0]
        return scores

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.generic]:
        """Return the likelier class of each example."""
        chosen: npt.NDArray[np.generic] = self.classes_[(self.decision_function(X) > 0).astype(int)]
        return chosen
