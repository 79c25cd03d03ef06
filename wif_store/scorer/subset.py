"""A store of whose test split only some examples are looked at, as where people answered a sample of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wif_store.errors import ScoreError
from wif_store.scorer.features import StoreView

if TYPE_CHECKING:
    from collections.abc import Iterator, Set

    from wif_store.format.schema import Example, Float32, Int8
    from wif_store.scorer.features import Store


def on_subset(store: Store, ids: Set[str]) -> Store:
    """A store with these examples of its test split alone; train and validation stay.

    Raises:
        ScoreError: If none of them is in its test split.
    """
    held = store.column("id", "test")
    kept = np.array([one in ids for one in held.tolist()], dtype=bool)
    if not kept.any():
        msg = f"--subset: no prediction is for a test example of task {store.task!r}; give test ids"
        raise ScoreError(msg)
    if kept.all():
        return store
    found: Any = _OnSubset(store, kept)
    return found  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _OnSubset(StoreView):
    """The store of :func:`on_subset`."""

    kept: np.ndarray
    advice = "give predictions for more of them"

    def __len__(self) -> int:
        return len(self.store) - int(np.count_nonzero(~self.kept))

    def read_final_token(self, layer: int, split: str) -> tuple[Float32, Int8]:
        """The residuals ``[n, d_model]`` of a split, and the success labels ``[n]``."""
        found, success = self.store.read_final_token(layer, split)
        return self._of(split, found), self._of(split, success)

    def read_site(self, site: str, layer: int, split: str) -> tuple[Float32, Int8]:
        """The same at another site."""
        found, success = self.store.read_site(site, layer, split)
        return self._of(split, found), self._of(split, success)

    def iter_sequences(self, layer: int, split: str) -> Iterator[Float32]:
        """Each example's residuals ``[length, d_model]``."""
        found = self.store.iter_sequences(layer, split)
        if split != "test":
            yield from found
            return
        for tokens, kept in zip(found, self.kept.tolist(), strict=True):
            if kept:
                yield tokens

    def success(self, split: str) -> Int8:
        """The success labels ``[n]``."""
        found: Int8 = self._of(split, self.store.success(split))
        return found

    def column(self, name: str, split: str) -> np.ndarray:
        """One column of the table of examples."""
        found: np.ndarray = self._of(split, self.store.column(name, split))
        return found

    def examples(self, split: str) -> list[Example]:
        """The examples without their activations."""
        found = self.store.examples(split)
        return (
            [one for one, kept in zip(found, self.kept.tolist(), strict=True) if kept]
            if split == "test"
            else found
        )

    def _of(self, split: str, values: Any) -> Any:
        return values[self.kept] if split == "test" else values
