"""Where residuals are read: a store as it is, or as it would be had reading stopped earlier in the answer."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from wif_store.errors import ScoreError
from wif_store.format.schema import FINAL_TOKEN, PROMPT_END
from wif_store.scorer.features import StoreView

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wif_store.format.schema import Float32, Int8, Int64
    from wif_store.scorer.features import Store


def at_site(store: Store, site: str) -> Store:
    """A store whose residuals end at a site.

    Args:
        store: An open store.
        site: ``final_token``, ``prompt_end``, or a share of the answer from 0 to 1, such as ``0.25``: the
            token by which so much of the answer's tokens is written, rounded up.

    Raises:
        ScoreError: If there is no such site, or the store has no answers.
    """
    if site == FINAL_TOKEN:
        return store
    try:
        share = Fraction(0 if site == PROMPT_END else site)
    except (ValueError, ZeroDivisionError):
        share = Fraction(-1)
    if not 0 <= share <= 1:
        msg = f"site is {site!r}; expected {FINAL_TOKEN}, {PROMPT_END} or a share of the answer, such as 0.5"
        raise ScoreError(msg)
    if store.manifest.outcome != "response":
        msg = (
            f"the store of task {store.task!r} holds no answers that the model wrote, so there is no {site} "
            f"in it: leave --site out"
        )
        raise ScoreError(msg)
    if site != PROMPT_END and not store.sequence_layers:
        msg = (
            f"--site {site} is read from full sequences and the store of task {store.task!r} holds none; "
            "build it with --sequence-layers"
        )
        raise ScoreError(msg)
    return _AtSite(store, site, share)


@dataclass(frozen=True)
class _AtSite(StoreView):
    """The store of :func:`at_site`: everything but the residuals is the store's own."""

    site: str
    share: Fraction

    @property
    def layers(self) -> tuple[int, ...]:
        """The decoder layers that are read at the site."""
        layers: tuple[int, ...] = self.store.layers if self.site == PROMPT_END else self.store.sequence_layers
        return layers

    def read_final_token(self, layer: int, split: str | None = None) -> tuple[Float32, Int8]:
        """The residuals ``[n, d_model]`` at the site, and the success labels ``[n]``."""
        if self.site == PROMPT_END:
            found: tuple[Float32, Int8] = self.store.read_site(PROMPT_END, layer, split)
            return found
        rows = [tokens[-1] for tokens in self.iter_sequences(layer, split)]
        return np.stack(rows), self.store.success(split)

    def iter_sequences(self, layer: int, split: str | None = None) -> Iterator[Float32]:
        """Each example's residuals ``[length, d_model]`` up to the site."""
        for length, tokens in zip(self.lengths(split), self.store.iter_sequences(layer, split), strict=True):
            yield tokens[:length]

    def lengths(self, split: str | None = None) -> Int64:
        """How many tokens of each example are read: int64 ``[n]``."""
        prompt = np.asarray(self.store.column("prompt_tokens", split), np.int64)
        whole = np.asarray(self.store.column("tokens", split), np.int64)
        over, under = self.share.as_integer_ratio()
        lengths: Int64 = prompt - (whole - prompt) * -over // under
        return lengths
