"""What a sparse autoencoder (SAE) makes of a store: features in the place of residuals."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np

from wif_store.errors import ScoreError
from wif_store.scorer.features import StoreView

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wif_store.sae.autoencoder import SparseAutoencoder
    from wif_store.scorer.features import Place, Store

Pool = Literal["final", "mean", "max"]
"""Which tokens' features are taken: the final one's, or the mean or the largest over all of them."""

TOKENS: Final = 8192
"""Tokens that are encoded together, at least, where all of them are."""
POOR: Final = 0.6
"""Share of the variance under which an SAE says little of the residuals."""


def with_sae(store: Store, spec: str, pool: Pool = "final") -> Store:
    """A store that has features of an SAE too, at the layers that the SAE is there for.

    Args:
        store: An open store.
        spec: As :func:`wif_store.sae.opening.open_sae` takes it.
        pool: Which tokens' features are taken.

    Raises:
        SaeError: If there is no such SAE, or it is not one of the store's model.
        ScoreError: If there is no such pool, or the store lacks what it reads.
    """
    if pool not in get_args(Pool):
        msg = f"the pool of the SAE's features is {pool!r}; expected one of: {', '.join(get_args(Pool))}"
        raise ScoreError(msg)
    if pool != "final" and not store.sequence_layers:
        msg = (
            f"--sae-pool {pool} reads full sequences and the store of task {store.task!r} holds none; build "
            "it with --sequence-layers"
        )
        raise ScoreError(msg)
    from wif_store.sae.layers import layers_of

    held = store.layers if pool == "final" else store.sequence_layers
    return _WithSae(store, spec, pool, layers_of(spec, held, store))


def reconstruction(store: Any, layer: Place) -> tuple[dict[str, Any], tuple[str, ...]]:
    """How well the SAE of a layer gives back the residuals of train: as settings, and as notes if poorly."""
    share = store.variance_explained(layer)
    said = {"features": store.sae(layer).width, "variance_explained": round(share, 4)}
    if share >= POOR:
        return said, ()
    return said, (f"the SAE gives back {share:.2f} of the variance of train, under {POOR}",)


def rank_features(estimator: Any, codes: Any) -> list[tuple[int, float]]:
    """The features that a linear estimator uses, with their weights: the most important first.

    Args:
        estimator: Fitted, with ``coef_`` ``[1, features]``.
        codes: The features of train, sparse ``[n, features]``.

    Returns:
        Of each feature of which the weight is not 0, its number, and by how much the log-odds of success rise
        with one standard deviation of it.

    Raises:
        ScoreError: If the estimator has no weight for each feature.
    """
    coef = np.atleast_2d(getattr(estimator, "coef_", ()))[0]
    if coef.shape != (codes.shape[1],):
        name = type(estimator).__name__
        msg = f"{name} has no weight for each feature; expected a linear method, such as sae-k"
        raise ScoreError(msg)
    mean = np.asarray(codes.mean(0)).ravel()
    spread = np.sqrt(np.maximum(np.asarray(codes.multiply(codes).mean(0)).ravel() - mean**2, 0))
    weight = coef * spread
    return [(int(i), float(weight[i])) for i in np.argsort(-np.abs(weight), kind="stable") if weight[i]]


@dataclass(frozen=True)
class _WithSae(StoreView):
    """The store of :func:`with_sae`: everything but the features is the store's own."""

    spec: str
    pool: Pool
    sae_layers: tuple[int, ...]
    _kept: dict[int, Any] = field(default_factory=dict, repr=False, compare=False)
    _keeping: Any = field(default_factory=threading.RLock, repr=False, compare=False)

    def sae(self, layer: int) -> SparseAutoencoder:
        """The SAE of a layer, opened once."""
        from wif_store.sae.opening import open_sae

        with self._keeping:
            if layer not in self._kept:
                self._kept[layer] = open_sae(self.spec, layer, self.store)
            found: SparseAutoencoder = self._kept[layer]
        return found

    def digests(self) -> dict[str, str | None]:
        """The SHA-256 of the weights of each SAE, by layer; None of those that are not in a folder."""
        return {str(layer): self.sae(layer).digest for layer in self.sae_layers}

    def read_codes(self, layer: int, split: str) -> Any:
        """The features of a split: sparse float32 ``[n, features]``."""
        sae = self.sae(layer)
        if self.pool == "final":
            return sae.encode(self.store.read_final_token(layer, split)[0])
        from scipy import sparse

        parts = [self._pooled(sae, batch) for batch in self._batches(layer, split)]
        return sparse.vstack(parts, "csr")

    def variance_explained(self, layer: int) -> float:
        """The share of the variance of train's final tokens that the SAE gives back."""
        from wif_store.sae.autoencoder import variance_explained

        return variance_explained(self.sae(layer), self.store.read_final_token(layer, "train")[0])

    def _batches(self, layer: int, split: str) -> Iterator[list[Any]]:
        """Sequences, some at a time, without the tokens that no SAE is for."""
        from wif_store.sae.autoencoder import ordinary

        batch: list[Any] = []
        for tokens in self.store.iter_sequences(layer, split):
            batch.append(tokens[ordinary(tokens)])
            if sum(map(len, batch)) >= TOKENS:
                yield batch
                batch = []
        if batch:
            yield batch

    def _pooled(self, sae: SparseAutoencoder, batch: Sequence[Any]) -> Any:
        """One row of features for each sequence."""
        from scipy import sparse

        codes = sae.encode(np.concatenate(batch))
        bounds = np.cumsum([0, *map(len, batch)]).tolist()
        rows = []
        for begin, end in pairwise(bounds):
            of_one = codes[begin:end]
            if self.pool == "max":
                rows.append(sparse.csr_array(of_one.max(axis=0).reshape(1, -1)))
            else:
                rows.append(sparse.csr_array(of_one.sum(axis=0, dtype=np.float64)[None] / (end - begin)))
        return sparse.vstack(rows, "csr", dtype=np.float32)
