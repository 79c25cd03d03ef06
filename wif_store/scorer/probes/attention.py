"""The attention probe: a learned query looks over all tokens, a linear map reads what it attends to.

This is the probe of McKenzie et al., "Detecting High-Stakes Interactions with Activation Probes"
(2025), ``softmax(X q)ᵀ X v``, trained here with early stopping on the validation split. It is the only
part of scoring that needs torch.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin

from wif_store.errors import ScoreError
from wif_store.scorer.stats import Floats, auroc

Batch = tuple[Any, Any]


class AttentionProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Attention over the tokens of a sequence, then a linear score.

    Tokens are standardised channel by channel with the moments of the training tokens.

    Args:
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        batch_size: sequences in a step.
        max_epochs: passes over the train split at most.
        patience: epochs without a better validation AUROC before training ends.
        random_state: seeds the order of the batches and the start of the query.

    Attributes:
        epochs_: the epoch whose weights were kept.
        query_: ``[d]``, in standardised units; ``value_`` likewise.
    """

    reads = "sequence"

    def __init__(
        self,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.1,
        batch_size: int = 64,
        max_epochs: int = 60,
        patience: int = 8,
        random_state: int = 0,
    ) -> None:
        """Keep the parameters as they are; scikit-learn's ``clone`` reads them back."""
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.random_state = random_state

    def fit(
        self,
        X: npt.NDArray[Any],
        y: npt.ArrayLike,
        validation: tuple[npt.NDArray[Any], npt.ArrayLike] | None = None,
    ) -> Self:
        """Train on sequences ``X`` (objects ``[n]``, each float32 ``[length, d]``) and labels ``y``.

        Raises:
            ScoreError: if torch is not installed.
            ValueError: without validation data to stop by.
        """
        torch = _torch()
        if validation is None:
            msg = "the attention probe stops by validation data; give validation=(X, y)"
            raise ValueError(msg)
        self.classes_ = np.unique(y)
        self._standardise(X)
        width = X[0].shape[1]
        generator = torch.Generator().manual_seed(self.random_state)
        # A query of nearly zero attends evenly, so training starts from the mean over the tokens.
        query = (0.01 * torch.randn(width, generator=generator)).requires_grad_()
        value = torch.zeros(width + 1).requires_grad_()
        optimiser = torch.optim.AdamW([query, value], lr=self.learning_rate, weight_decay=self.weight_decay)
        target = torch.tensor(np.asarray(y) == self.classes_[-1], dtype=torch.float32)
        held_target = np.asarray(validation[1]) == self.classes_[-1]
        best, self.epochs_ = -1.0, 0
        for epoch in range(1, self.max_epochs + 1):
            for rows in torch.randperm(len(X), generator=generator).split(self.batch_size):
                scores = _attend(*self._pad(X[rows.numpy()]), query, value)
                loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, target[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            found = auroc(held_target, self._score(validation[0], query.detach(), value.detach()))
            if found > best:
                best, self.epochs_ = found, epoch
                self.query_, self.value_ = query.detach().numpy().copy(), value.detach().numpy().copy()
            elif epoch - self.epochs_ >= self.patience:
                break
        return self

    def decision_function(self, X: npt.NDArray[Any]) -> Floats:
        """Return the log-odds of the second class for sequences ``X``: float64 ``[n]``."""
        torch = _torch()
        return self._score(X, torch.from_numpy(self.query_), torch.from_numpy(self.value_))

    def predict(self, X: npt.NDArray[Any]) -> npt.NDArray[np.generic]:
        """Return the likelier class of each sequence."""
        chosen: npt.NDArray[np.generic] = self.classes_[(self.decision_function(X) > 0).astype(int)]
        return chosen

    def _standardise(self, sequences: npt.NDArray[Any]) -> None:
        """Take the moments of all tokens, a sequence at a time: a residual's mean can dwarf its spread."""
        count = sum(len(tokens) for tokens in sequences)
        mean = sum(tokens.sum(axis=0, dtype=np.float64) for tokens in sequences) / count
        variance = sum(((tokens - mean) ** 2).sum(axis=0) for tokens in sequences) / count
        self.mean_ = mean.astype(np.float32)
        self.scale_ = np.sqrt(np.where(variance > 0, variance, 1.0)).astype(np.float32)

    def _score(self, sequences: npt.NDArray[Any], query: Any, value: Any) -> Floats:
        """Score in order of length, so that little is padding."""
        order = np.argsort([len(tokens) for tokens in sequences], kind="stable")
        scores: Floats = np.empty(len(sequences))
        for first in range(0, len(order), self.batch_size):
            rows = order[first : first + self.batch_size]
            scores[rows] = _attend(*self._pad(sequences[rows]), query, value).numpy()
        return scores

    def _pad(self, sequences: npt.NDArray[Any]) -> Batch:
        """Return standardised tokens ``[n, longest, d]``, zero past the end, and where they are real."""
        torch = _torch()
        lengths = np.array([len(tokens) for tokens in sequences])
        padded = np.zeros((len(sequences), lengths.max(), len(self.mean_)), dtype=np.float32)
        for row, tokens in enumerate(sequences):
            padded[row, : len(tokens)] = (tokens - self.mean_) / self.scale_
        real = np.arange(lengths.max()) < lengths[:, None]
        return torch.from_numpy(padded), torch.from_numpy(real)


def _attend(tokens: Any, real: Any, query: Any, value: Any) -> Any:
    """Return one score a sequence; the last entry of ``value`` is the bias."""
    heed = (tokens @ query / len(query) ** 0.5).masked_fill(~real, float("-inf")).softmax(dim=1)
    return (heed * (tokens @ value[:-1])).sum(dim=1) + value[-1]


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        msg = "the attention probe needs torch, which is not installed; pip install 'wif-store[attention]'"
        raise ScoreError(msg) from error
    return torch
