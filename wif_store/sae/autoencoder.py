"""A sparse autoencoder as numpy and scipy see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.sparse import csr_array, vstack

from wif_store.errors import SaeError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from wif_store.format.schema import Float32


OUTLIER: Final = 3.0
"""A token whose norm is more than so many times the median is none that an SAE is for. The first token of a
sequence, which many tokens attend to, has 4.6 to 13 times the median in Gemma 3 270M, and no other token has
1.6 times. It is the same vector in every sequence: an SAE would learn nothing of it, and it weighs most."""


def ordinary(tokens: Float32, limit: float | None = None) -> np.ndarray:
    """Which tokens an SAE is for: bool ``[n]``.

    Args:
        tokens: Residuals, ``[n, d_model]``.
        limit: The largest norm; :data:`OUTLIER` times the median of these tokens where it is None.
    """
    norms = np.linalg.norm(tokens, axis=1)
    kept: np.ndarray = norms <= (OUTLIER * float(np.median(norms)) if limit is None else limit)
    return kept


def library() -> ModuleType:
    """The module that knows SAELens, which takes seconds to import.

    Raises:
        SaeError: If SAELens is not installed.
    """
    try:
        from wif_store.sae import library as found
    except ImportError as error:
        msg = f"sparse autoencoders need SAELens ({error}): pip install 'wif-store[sae]'"
        raise SaeError(msg) from error
    return found


@dataclass(frozen=True)
class SparseAutoencoder:
    """A sparse autoencoder (SAE) of the residual stream after one decoder layer; ``open_sae`` makes them.

    It runs on the CPU in float32, and scales its input itself where it was trained so.

    Attributes:
        name: What it was opened as, with the layer filled in.
        layer: The 0-based decoder layer.
        d_model: Width of the residual stream.
        width: How many features it has.
        digest: The SHA-256 of its weights, where it is in a folder.

    Example::

        sae = open_sae("gemma-scope-2b-pt-res-canonical/layer_{layer}/width_16k/canonical", 12, store)
        X, success = store.read_final_token(12)
        features = sae.encode(X)  # sparse, float32 [n, 16384]
    """

    name: str
    layer: int
    d_model: int
    width: int
    digest: str | None
    _sae: Any = field(repr=False, compare=False)
    _labels: Mapping[int, str] = field(repr=False, compare=False, default_factory=dict)

    def encode(self, x: Float32) -> csr_array:
        """The features of residuals, as SAELens computes them.

        Args:
            x: Residuals, float32 ``[n, d_model]``. Memory is bounded: they are encoded batch by batch.

        Returns:
            float32 ``[n, width]``, a scipy sparse array of rows.

        Raises:
            SaeError: If the residuals have another width.
        """
        self._check(x, self.d_model, "residuals")
        batches = [csr_array(batch) for batch in library().encode(self._sae, x)]
        return vstack([csr_array((0, self.width), dtype=np.float32), *batches], format="csr")

    def decode(self, codes: csr_array) -> Float32:
        """The residuals that features stand for.

        Args:
            codes: Features, ``[n, width]``, sparse.

        Returns:
            float32 ``[n, d_model]``.

        Raises:
            SaeError: If there are not ``width`` features, or if the SAE scales each token by its own norm, so
                that features alone do not say what it was.
        """
        self._check(codes, self.width, "features")
        scaling = library().config(self._sae)["normalize_activations"]
        if scaling in ("layer_norm", "constant_norm_rescale"):
            msg = (
                f"{self.name} scales each token by its own norm ({scaling}), so its features alone cannot be "
                "decoded: use variance_explained, or an SAE that does not"
            )
            raise SaeError(msg)
        found: Float32 = library().decode(self._sae, csr_array(codes, dtype=np.float32))
        return found

    def direction(self, feature: int) -> Float32:
        """What one unit of a feature adds to the residual: its row of the decoder, float32 ``[d_model]``.

        Raises:
            SaeError: If there is no such feature.
        """
        if not 0 <= feature < self.width:
            msg = f"{self.name} has no feature {feature}; it has {self.width}, from 0"
            raise SaeError(msg)
        row: Float32 = library().direction(self._sae, feature)
        return row

    def label(self, feature: int) -> str | None:
        """What a feature is said to mean, where ``labels.json`` of a local folder says it; else None.

        Labels on Neuronpedia are not looked up: nothing is fetched but the SAE itself.
        """
        return self._labels.get(feature)

    def _check(self, values: Any, width: int, what: str) -> None:
        if values.ndim != 2 or values.shape[1] != width:
            msg = f"{self.name}: the {what} have the shape {tuple(values.shape)}; expected (n, {width})"
            raise SaeError(msg)


def variance_explained(sae: SparseAutoencoder, x: Float32) -> float:
    """The share of the variance of residuals that an SAE gives back.

    ``1 - sum(|x - x̂|²) / sum(|x - mean(x)|²)``: 1 where nothing is lost, 0 where the mean would do as well.

    Args:
        sae: The SAE.
        x: Residuals, float32 ``[n, d_model]``.

    Raises:
        SaeError: If the residuals have another width, or do not vary.
    """
    sae._check(x, sae.d_model, "residuals")
    return explained(sae._sae, x)


def explained(sae: Any, x: Float32) -> float:
    """The same for an SAE of SAELens.

    Raises:
        SaeError: If the residuals do not vary.
    """
    mean = x.mean(axis=0, dtype=np.float64)
    lost = total = 0.0
    for batch, found in library().reconstruct(sae, x):
        lost += float(np.square(batch - found, dtype=np.float64).sum())
        total += float(np.square(batch - mean).sum())
    if not total:
        msg = f"the {len(x)} residuals do not vary; expected at least two that differ"
        raise SaeError(msg)
    return 1 - lost / total
