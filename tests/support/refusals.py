"""Refusals of a stranger's store: one line, before memory is used."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any, Final

import pytest

from wif_store.errors import StoreError
from wif_store.store.reader import open_store
from wif_store.store.verify import verify_store

if TYPE_CHECKING:
    from collections.abc import Callable

MEMORY: Final = 8 * 2**20
"""Bytes that a refusal may take, at most."""


def refused(store: Any, match: str, *reads: Callable[[Any], object]) -> None:
    """Opening a store, or reading it, ends in one line, and little memory was asked for until then."""
    for read in reads or (open_store, verify_store):
        tracemalloc.start()
        try:
            with pytest.raises(StoreError, match=match) as error:
                read(store)
            assert tracemalloc.get_traced_memory()[1] < MEMORY
        finally:
            tracemalloc.stop()
        assert len(str(error.value)) < 500
        assert str(error.value).isprintable()
