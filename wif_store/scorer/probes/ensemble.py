"""A probe of all layers at once: one logistic regression a layer, and the mean of what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin

from wif_store.scorer.probes.logistic import LogisticPath

if TYPE_CHECKING:
    from wif_store.scorer.stats import Floats


class LayerEnsemble(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The mean over layers of the log-odds of :class:`LogisticPath`, each in units of its spread on train.

    Attributes:
        members_: The estimator of each layer.
        spreads_: Standard deviation of the log-odds of each on train, ``[layers]``.
    """

    def fit(
        self, X: npt.ArrayLike, y: npt.ArrayLike, validation: tuple[npt.ArrayLike, npt.ArrayLike]
    ) -> Self:
        """Fit to ``X`` ``[n, layers, d]``; each layer's penalty is chosen on ``validation``."""
        layers, held = np.moveaxis(np.asarray(X), 1, 0), np.moveaxis(np.asarray(validation[0]), 1, 0)
        self.members_ = [
            LogisticPath().fit(layer, y, (part, validation[1]))
            for layer, part in zip(layers, held, strict=True)
        ]
        spreads = [
            float(member.decision_function(layer).std())
            for member, layer in zip(self.members_, layers, strict=True)
        ]
        self.spreads_ = np.array([spread or 1.0 for spread in spreads])
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, X: npt.ArrayLike) -> Floats:
        """Return the mean log-odds of the second class for ``X`` ``[n, layers, d]``: float64 ``[n]``."""
        layers = np.moveaxis(np.asarray(X), 1, 0)
        said = [
            member.decision_function(layer) / spread
            for member, layer, spread in zip(self.members_, layers, self.spreads_, strict=True)
        ]
        scores: Floats = np.mean(said, axis=0)
        return scores
