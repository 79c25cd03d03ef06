"""What a probe is given: the rows of a store, layer by layer, split by split."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from wif_store.errors import ScoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from wif_store.format.schema import Example, Float32, Int8, Manifest

Reads = Literal["final_token", "mean_token", "sequence", "layers", "sae", "example"]
"""What a probe is given for each example. ``X`` is, by name:

- ``final_token``: float32 ``[n, d_model]``, the residuals at the final token of one layer.
- ``mean_token``: float32 ``[n, d_model]``, their mean over all tokens.
- ``sequence``: an object array ``[n]`` of float32 ``[length, d_model]``, the residuals at every token.
- ``layers``: float32 ``[n, layers, d_model]``, the final token of all layers at once.
- ``sae``: a sparse float32 ``[n, features]``, what a sparse autoencoder makes of one layer.
- ``example``: an object array ``[n]`` of :class:`wif_store.format.schema.Example`: text, tokens and
  log-likelihoods, without what tells whether the answer is right.
"""
LAYERS: Final[Mapping[str, str]] = {
    "final_token": "layers",
    "layers": "layers",
    "mean_token": "sequence layers",
    "sequence": "sequence layers",
    "sae": "SAE's layers",
}
"""What the layers are called that hold what a probe reads."""

Features = Any
"""An array, or a sparse one, with a row for each example."""
Place = int | tuple[int, ...] | None
"""Where a probe reads: at one layer, at several at once, or at none."""


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


@dataclass(frozen=True)
class StoreView:
    """A store, of which a subclass reads something in another way; all else is the store's own."""

    store: Any

    def __len__(self) -> int:
        return len(self.store)

    def __getattr__(self, name: str) -> Any:
        if name == "store" or name.startswith("__"):  # a copy asks for both before it has any
            raise AttributeError(name)
        return getattr(self.store, name)


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
    if reads == "sae":
        layers: tuple[int, ...] = getattr(store, "sae_layers", ())
        return layers
    return store.sequence_layers if reads in ("mean_token", "sequence") else store.layers


def load(store: Any, place: Place, reads: Reads, split: str) -> Features:
    """Read one split in the form the probe reads."""
    if reads == "example":
        return _objects([_without_outcome(example) for example in store.examples(split)])
    if isinstance(place, tuple):
        return np.stack([store.read_final_token(layer, split)[0] for layer in place], axis=1)
    if reads == "final_token":
        return store.read_final_token(place, split)[0]
    if reads == "sae":
        return store.read_codes(place, split)
    if reads == "mean_token":
        means = [tokens.mean(axis=0, dtype=np.float64) for tokens in store.iter_sequences(place, split)]
        return np.asarray(means, dtype=np.float32)
    return _objects(list(store.iter_sequences(place, split)))


def stacked(first: Features, second: Features) -> Features:
    """The rows of two splits, one after the other."""
    if isinstance(first, np.ndarray):
        return np.concatenate([first, second])
    from scipy import sparse

    return sparse.vstack([first, second], "csr")


def _objects(things: list[Any]) -> Features:
    """One object a row, picked by index just as rows of a matrix are."""
    rows = np.empty(len(things), dtype=object)
    for row, thing in enumerate(things):
        rows[row] = thing
    return rows


def _without_outcome(example: Example) -> Example:
    """An example without what tells whether the answer is right."""
    choice, response = example.choice, example.response
    return replace(
        example,
        success=-1,
        choice=None if choice is None else replace(choice, gold=-1),
        response=None
        if response is None
        else replace(response, targets=(), graded_by="", success_rate=math.nan),
    )


def labels(store: Store, split: str) -> Int8:
    """Return the success labels of a split, both classes present.

    Raises:
        ScoreError: if the split holds one class or none.
    """
    found: Int8 = np.asarray(store.success(split), dtype=np.int8)
    ones = int(found.sum())
    if not 0 < ones < len(found):
        advice = getattr(store, "advice", "build the store with a larger --per-class")
        msg = (
            f"the {split} split of task {store.task!r} holds {ones} successes and {len(found) - ones} "
            f"failures; an AUROC needs both: {advice}"
        )
        raise ScoreError(msg)
    return found
