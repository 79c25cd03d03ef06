"""What a probe is given: the rows of a store, layer by layer, split by split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from wif_store.errors import ScoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wif_store.format.schema import Example, Float32, Int8, Manifest

Reads = Literal["final_token", "mean_token", "sequence"]
Features = npt.NDArray[Any]
"""float32 ``[n, d_model]``, or for ``sequence`` an object array ``[n]`` of float32 ``[length, d_model]``."""


class Store(Protocol):
    """The part of :class:`wif_store.store.reader.ActivationStore` that scoring stands on."""

    @property
    def manifest(self) -> Manifest:
        """What the store says of itself."""
        ...

    @property
    def task(self) -> str:
        """The task's name."""
        ...

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        ...

    @property
    def layers(self) -> tuple[int, ...]:
        """0-based decoder layers with final-token residuals."""
        ...

    @property
    def sequence_layers(self) -> tuple[int, ...]:
        """0-based decoder layers with full sequences."""
        ...

    def read_final_token(self, layer: int, split: str | None = None) -> tuple[Float32, Int8]:
        """Return the residuals ``[n, d_model]`` and the success labels ``[n]``."""
        ...

    def iter_sequences(self, layer: int, split: str | None = None) -> Iterator[Float32]:
        """Yield each example's residuals ``[length, d_model]``."""
        ...

    def success(self, split: str | None = None) -> Int8:
        """Return the success labels ``[n]``."""
        ...

    def column(self, name: str, split: str | None = None) -> npt.NDArray[Any]:
        """Return one column of the table of examples."""
        ...

    def examples(self, split: str | None = None) -> list[Example]:
        """Return the examples without their activations."""
        ...


def check_reads(reads: str, who: str) -> Reads:
    """Return ``reads`` if it names something a probe can read.

    Raises:
        ScoreError: if it does not.
    """
    for known in get_args(Reads):
        if reads == known:
            return known  # type: ignore[no-any-return]
    msg = f"{who} reads {reads!r}; expected one of {', '.join(get_args(Reads))}"
    raise ScoreError(msg)


def layers_for(store: Store, reads: Reads) -> tuple[int, ...]:
    """Return the layers of the store that hold what the probe reads."""
    return store.layers if reads == "final_token" else store.sequence_layers


def load(store: Store, layer: int, reads: Reads, split: str) -> Features:
    """Read one layer of one split in the form the probe reads."""
    if reads == "final_token":
        return store.read_final_token(layer, split)[0]
    if reads == "mean_token":
        means = [tokens.mean(axis=0, dtype=np.float64) for tokens in store.iter_sequences(layer, split)]
        return np.asarray(means, dtype=np.float32)
    # One object a row, so that sequences are picked by index just as rows of a matrix are.
    sequences = list(store.iter_sequences(layer, split))
    rows = np.empty(len(sequences), dtype=object)
    for row, tokens in enumerate(sequences):
        rows[row] = tokens
    return rows


def labels(store: Store, split: str) -> Int8:
    """Return the success labels of a split, both classes present.

    Raises:
        ScoreError: if the split holds one class or none.
    """
    found: Int8 = np.asarray(store.success(split), dtype=np.int8)
    ones = int(found.sum())
    if not 0 < ones < len(found):
        msg = (
            f"the {split} split of task {store.task!r} holds {ones} successes and {len(found) - ones} "
            "failures; an AUROC needs both: build the store with a larger --per-class"
        )
        raise ScoreError(msg)
    return found
