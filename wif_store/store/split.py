"""One split of a store: its methods without the name of the split, and its residuals for torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wif_store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from wif_store.format.schema import Example, Float32, Int8, Int64
    from wif_store.store.reader import ActivationStore


@dataclass(frozen=True, slots=True)
class Split:
    """One split of a store; ``store["train"]`` makes it.

    Attributes:
        store: The store.
        name: ``train``, ``validation`` or ``test``.

    Example::

        train = store["train"]
        X, success = train.read_final_token(layer=9)
        loader = torch.utils.data.DataLoader(train.sequences(layer=9), batch_size=None, shuffle=True)
    """

    store: ActivationStore
    name: str

    def __len__(self) -> int:
        """The number of examples."""
        return self.store.count(self.name)

    def read_final_token(self, layer: int) -> tuple[Float32, Int8]:
        """Residuals at the final token, float32 ``[n, d_model]``, and success, int8 ``[n]``."""
        return self.store.read_final_token(layer, self.name)

    def read_site(self, site: str, layer: int) -> tuple[Float32, Int8]:
        """Residuals at a named site, float32 ``[n, d_model]``, and success, int8 ``[n]``."""
        return self.store.read_site(site, layer, self.name)

    def read_sequences(self, layer: int) -> tuple[Float32, Int64]:
        """Residuals at every token, float32 ``[tokens, d_model]``, and offsets, int64 ``[n + 1]``."""
        return self.store.read_sequences(layer, self.name)

    def iter_sequences(self, layer: int) -> Iterator[Float32]:
        """Residuals at every token, example by example: float32 ``[length, d_model]``."""
        return self.store.iter_sequences(layer, self.name)

    def success(self) -> Int8:
        """int8 ``[n]``, 1 where the model is right."""
        return self.store.success(self.name)

    def column(self, name: str) -> np.ndarray:
        """One column of the table of examples."""
        return self.store.column(name, self.name)

    def table(self) -> pa.Table:
        """The table of examples."""
        return self.store.table(self.name)

    def examples(self) -> list[Example]:
        """The examples, without residuals."""
        return self.store.examples(self.name)

    def to_torch(self, layer: int) -> tuple[Any, Any]:
        """Residuals at the final token as a tensor, float32 ``[n, d_model]``, and success, int64 ``[n]``.

        Raises:
            StoreError: If torch is not installed.
        """
        torch = _torch()
        residuals, success = self.read_final_token(layer)
        return torch.from_numpy(np.ascontiguousarray(residuals)), torch.from_numpy(success.astype(np.int64))

    def sequences(self, layer: int) -> Any:
        """The residuals at every token as a ``torch.utils.data.Dataset``, read when they are asked for.

        Item i is the residuals of example i, float32 ``[length, d_model]``, and its success, an int. Lengths
        differ, so a ``DataLoader`` needs ``batch_size=None`` or a ``collate_fn``. Workers open the store for
        themselves.

        Raises:
            StoreError: If torch is not installed, or the store has no sequences of this layer.
        """
        _torch()
        from wif_store.store.torch_sequences import Sequences

        return Sequences(self.store, layer, self.name)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        msg = f"tensors need torch ({error}): pip install torch, or use the numpy arrays"
        raise StoreError(msg) from error
    return torch
