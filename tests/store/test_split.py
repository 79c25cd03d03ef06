"""One split of a store: what the store gives of it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.support.stores import make_store
from wif_store.errors import StoreError
from wif_store.format.schema import SPLITS
from wif_store.store.reader import open_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_store(make_store(tmp_path_factory.mktemp("split") / "s.zarr", sequence_layers=2))


@pytest.mark.parametrize("name", SPLITS)
def test_a_split_gives_what_the_store_gives_of_it(store, name):
    split, layer, sequence_layer = store[name], store.layers[0], store.sequence_layers[0]
    assert len(split) == store.count(name)
    pairs = [
        (split.read_final_token(layer), store.read_final_token(layer, name)),
        (split.read_site("final_token", layer), store.read_site("final_token", layer, name)),
        (split.read_sequences(sequence_layer), store.read_sequences(sequence_layer, name)),
        (split.iter_sequences(sequence_layer), store.iter_sequences(sequence_layer, name)),
    ]
    for found, expected in pairs:
        for one, other in zip(found, expected, strict=True):
            assert np.array_equal(one, other)
    assert np.array_equal(split.success(), store.success(name))
    assert split.column("id").tolist() == store.column("id", name).tolist()
    assert split.table() == store.table(name)
    assert [one.id for one in split.examples()] == [one.id for one in store.examples(name)]


@pytest.mark.parametrize("name", ["tset", None, 0])
def test_another_split_is_refused(store, name):
    with pytest.raises(StoreError, match=r"no split '.*'; expected one of: train, validation, test"):
        store[name]


def test_without_torch_it_says_what_to_install(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for read in (store["test"].to_torch, store["test"].sequences):
        with pytest.raises(StoreError, match="pip install torch"):
            read(store.sequence_layers[0])
