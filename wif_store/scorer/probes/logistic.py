"""Logistic regression along a whole path of penalties, chosen by validation AUROC.

A plain search fits every ``C`` from nothing in coordinates that the residual stream makes badly
conditioned. Here the features are rotated once into their principal axes, where the Hessian is
nearly diagonal, and each ``C`` starts from the solution of the stronger penalty before it. Newton
steps are solved by conjugate gradients with that diagonal as preconditioner, so a fit takes a few
dozen products with the data. With fewer examples than features the axes come from the examples'
Gram matrix instead, and everything else stays the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin

from wif_store.scorer.stats import Floats, auroc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

C_GRID = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)


class LogisticPath(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """L2-penalised logistic regression on standardised features.

    The objective at each ``C`` is scikit-learn's: ``C`` times the summed log loss plus half the
    squared norm of the coefficients, the intercept free.

    Args:
        grid: the inverse penalties to try.
        tol: the squared Newton decrement, in nats summed over the examples, at which a fit ends.
        max_iter: Newton steps allowed for each ``C``.

    Attributes:
        C_: the chosen inverse penalty; of equal ones the strongest penalty wins.
        coef_: ``[1, d]``, in units of the raw features.
        intercept_: ``[1]``.
        grid_auroc_: the validation AUROC at each ``C``; empty without validation data.
    """

    def __init__(self, grid: Sequence[float] = C_GRID, tol: float = 1e-6, max_iter: int = 100) -> None:
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
        """Fit every ``C`` to ``X`` ``[n, d]`` and ``y`` (0 or 1) and keep the best on ``validation``.

        Raises:
            ValueError: if there is a grid to choose from and no validation data to choose by.
        """
        grid = sorted(self.grid)
        if validation is None and len(grid) != 1:
            msg = f"a grid of {len(grid)} values of C needs validation=(X, y) to choose by, or give one value"
            raise ValueError(msg)
        features = np.array(X, dtype=np.float64)
        labels = np.asarray(y)
        self.classes_ = np.unique(labels)
        mean = features.mean(axis=0)
        scale = features.std(axis=0)
        scale[scale < 1e-12 * np.abs(mean).max(initial=1e-300)] = 1.0
        features -= mean
        features /= scale
        rotated, back = _principal_axes(features)
        path = _Problem(rotated, labels == self.classes_[-1]).path(grid, self.tol, self.max_iter)
        coefficients = back(path[1:]) / scale[:, None]
        intercepts = path[0] - mean @ coefficients
        best, self.grid_auroc_ = 0, {}
        if validation is not None:
            held_x, held_y = np.asarray(validation[0], dtype=np.float64), np.asarray(validation[1])
            scores = held_x @ coefficients + intercepts
            found = [auroc(held_y == self.classes_[-1], column) for column in scores.T]
            best, self.grid_auroc_ = int(np.argmax(found)), dict(zip(grid, found, strict=True))
        self.C_ = float(grid[best])
        self.coef_, self.intercept_ = coefficients[:, best][None], intercepts[best : best + 1]
        self.n_features_in_ = features.shape[1]
        return self

    def decision_function(self, X: npt.ArrayLike) -> Floats:
        """Return the log-odds of the second class for ``X`` ``[n, d]``: float64 ``[n]``."""
        scores: Floats = np.asarray(X, dtype=np.float64) @ self.coef_[0] + self.intercept_[0]
        return scores

    def predict_proba(self, X: npt.ArrayLike) -> Floats:
        """Return the probabilities of both classes: float64 ``[n, 2]``."""
        second = _sigmoid(self.decision_function(X))
        return np.column_stack([1.0 - second, second])

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.generic]:
        """Return the likelier class of each example."""
        chosen: npt.NDArray[np.generic] = self.classes_[(self.decision_function(X) > 0).astype(int)]
        return chosen


def _principal_axes(features: Floats) -> tuple[Floats, Callable[[Floats], Floats]]:
    """Return the features along their principal axes ``[n, r]``, and the way back for weights ``[r, k]``.

    The penalty does not see a rotation, and a direction without variance gets no weight.
    """
    n, d = features.shape
    if d <= n:
        _, axes = np.linalg.eigh(features.T @ features)
        return features @ axes, lambda weights: axes @ weights
    values, vectors = np.linalg.eigh(features @ features.T)
    kept = values > 1e-10 * values[-1]
    vectors, lengths = vectors[:, kept], np.sqrt(values[kept])
    return vectors * lengths, lambda weights: features.T @ ((vectors / lengths) @ weights)


class _Problem:
    """One data set's penalised log loss, in principal axes, with the intercept first."""

    def __init__(self, rotated: Floats, positive: npt.NDArray[np.bool_]) -> None:
        self.z = np.ascontiguousarray(rotated)
        self.sign = np.where(positive, 1.0, -1.0)
        self.spread = np.concatenate([[float(len(rotated))], np.einsum("ij,ij->j", rotated, rotated)])

    def path(self, grid: Sequence[float], tol: float, max_iter: int) -> Floats:
        """Return the solutions ``[1 + r, len(grid)]`` from the strongest penalty to the weakest."""
        weights = np.zeros(self.z.shape[1] + 1)
        solutions = []
        for c in grid:
            penalty = np.full_like(weights, 1.0 / c)
            penalty[0] = 0.0
            weights = self._minimise(weights, penalty, tol, max_iter)
            solutions.append(weights)
        return np.stack(solutions, axis=1)

    def _minimise(self, weights: Floats, penalty: Floats, tol: float, max_iter: int) -> Floats:
        margin = self._margin(weights)
        for _ in range(max_iter):
            miss = _sigmoid(-self.sign * margin)
            gradient = penalty * weights - self._back(self.sign * miss)
            step = self._newton_step(gradient, miss * (1.0 - miss), penalty)
            slope = float(gradient @ step)
            if -slope < tol:
                break
            weights, margin = self._search(weights, margin, step, slope, penalty)
        return weights

    def _newton_step(self, gradient: Floats, curvature: Floats, penalty: Floats) -> Floats:
        """Solve ``Hessian @ step = -gradient`` by preconditioned conjugate gradients, inexactly."""
        diagonal = curvature.mean() * self.spread + penalty + 1e-12
        step = np.zeros_like(gradient)
        residual = -gradient
        scaled = residual / diagonal
        direction = scaled
        norm = start = float(residual @ scaled)
        forcing = min(0.3, start**0.25)  # the closer the end, the truer the step: superlinear
        for _ in range(len(gradient)):
            if norm <= forcing**2 * start or norm == 0.0:
                break
            bent = self._back(curvature * self._margin(direction)) + penalty * direction
            length = norm / float(direction @ bent)
            step = step + length * direction
            residual = residual - length * bent
            scaled = residual / diagonal
            norm, previous = float(residual @ scaled), norm
            direction = scaled + (norm / previous) * direction
        return step

    def _search(
        self, weights: Floats, margin: Floats, step: Floats, slope: float, penalty: Floats
    ) -> tuple[Floats, Floats]:
        """Halve the step until the loss falls as its slope promises."""
        ahead = self._margin(step)
        here, length = self._loss(weights, margin, penalty), 1.0
        while length > 1e-10:
            moved, seen = weights + length * step, margin + length * ahead
            if self._loss(moved, seen, penalty) <= here + 1e-4 * length * slope + 1e-12 * abs(here):
                break
            length /= 2.0
        return moved, seen

    def _loss(self, weights: Floats, margin: Floats, penalty: Floats) -> float:
        return float(np.logaddexp(0.0, -self.sign * margin).sum() + 0.5 * (penalty @ weights**2))

    def _margin(self, weights: Floats) -> Floats:
        margin: Floats = weights[0] + self.z @ weights[1:]
        return margin

    def _back(self, rows: Floats) -> Floats:
        return np.concatenate([[rows.sum()], rows @ self.z])


def _sigmoid(values: Floats) -> Floats:
    half: Floats = 0.5 * (1.0 + np.tanh(0.5 * values))
    return half
