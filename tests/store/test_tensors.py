"""The residuals of a split as torch takes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.support.stores import make_store
from wif_store.errors import StoreError
from wif_store.store.reader import open_store

pytestmark = pytest.mark.extras


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_store(make_store(tmp_path_factory.mktemp("tensors") / "s.zarr", sequence_layers=2))


def test_tensors_are_the_arrays(store):
    layer = store.layers[1]
    residuals, success = store["test"].to_torch(layer)
    X, labels = store.read_final_token(layer, "test")
    assert (residuals.dtype, success.dtype) == (torch.float32, torch.int64)
    assert residuals.is_contiguous()
    assert np.array_equal(residuals.numpy(), X)
    assert success.tolist() == labels.tolist()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_sequences_are_loaded_one_by_one(store, workers):
    layer = store.sequence_layers[1]
    loader = DataLoader(
        store["train"].sequences(layer), batch_size=None, num_workers=workers, multiprocessing_context=None
    )
    expected = list(store.iter_sequences(layer, "train"))
    found = list(loader)
    assert len(found) == len(expected)
    for (residuals, success), tokens, label in zip(found, expected, store.success("train"), strict=True):
        assert np.array_equal(residuals.numpy(), tokens)
        assert success == label


def test_a_sequence_that_is_not_there_is_refused(store):
    sequences = store["test"].sequences(store.sequence_layers[0])
    with pytest.raises(IndexError):
        sequences[len(sequences)]
    with pytest.raises(StoreError, match="has no sequence residuals of layer 99"):
        store["test"].sequences(99)
    with pytest.raises(StoreError, match="test has no row -1"):
        store.read_sequence(store.sequence_layers[0], "test", -1)
