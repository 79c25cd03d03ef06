"""Sequences of a store as torch's loaders take them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from wif_store.store.reader import ActivationStore


class Sequences(Dataset[tuple[torch.Tensor, int]]):
    """The residuals at every token of one layer and one split; ``store["train"].sequences(9)`` makes it."""

    def __init__(self, store: ActivationStore, layer: int, split: str) -> None:
        """Take a store, a 0-based layer of its sequence layers, and a split. Nothing is read but offsets."""
        store.iter_sequences(layer, split)  # refuses a layer that is not there
        self._store, self._layer, self._split = store, layer, split
        self._success = store.success(split).tolist()

    def __len__(self) -> int:
        """The number of examples."""
        return len(self._success)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        """Residuals of one example, float32 ``[length, d_model]``, and its success."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        residuals = self._store.read_sequence(self._layer, self._split, row)
        return torch.from_numpy(residuals), self._success[row]
