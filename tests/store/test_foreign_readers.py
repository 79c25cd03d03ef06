"""A store opens without us, and every program reads what our reader reads."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
import tensorstore
import xarray
import zarr

from tests.support.builds import settings, small_shards, source_of
from tests.support.fake_engine import fake_engine
from wif_store.builder.pipeline import build_store
from wif_store.format.schema import ARRAYS as EVERY
from wif_store.format.schema import COORDINATES, PROMPT_END, SPLITS, columns
from wif_store.store.reader import open_store

pytestmark = pytest.mark.extras

RESIDUALS = ("final_token", "sequence")
ARRAYS = {name: spec for name, spec in EVERY.items() if name != PROMPT_END}
"""Those of a store of choices."""


@pytest.fixture(scope="module", params=["one shard", "many shards"])
def store(request, finished_store, tmp_path_factory):
    """A store by its path, and as our reader has it."""
    if request.param == "one shard":
        return finished_store, open_store(finished_store)
    folder = tmp_path_factory.mktemp("many")
    with pytest.MonkeyPatch.context() as patch:
        small_shards(patch)
        build_store(settings(), source_of(folder, 120), fake_engine(), folder / "s.zarr")
        opened = open_store(folder / "s.zarr")
    return folder / "s.zarr", opened


def residuals(opened, split, name):
    """All layers of one of the large arrays, as our reader reads them."""
    if name == "final_token":
        return np.stack([opened.read_final_token(layer, split)[0] for layer in opened.layers])
    return np.stack([opened.read_sequences(layer, split)[0] for layer in opened.sequence_layers])


def small_arrays(opened, split):
    return {
        "success": opened.success(split),
        "offsets": opened.offsets(split),
        "token_ids": opened.token_ids(split),
    }


def test_zarr(store):
    path, opened = store
    group = zarr.open_group(path, mode="r")
    assert set(dict(group.groups())) == set(SPLITS)
    assert set(dict(group.arrays())) == set(COORDINATES)
    assert group.attrs["format"] == "wif-store"
    assert group["layer"][...].tolist() == list(opened.layers)
    assert group["sequence_layer"][...].tolist() == list(opened.sequence_layers)
    for split in SPLITS:
        assert set(dict(group[split].arrays())) == set(ARRAYS)
        for name, values in small_arrays(opened, split).items():
            found = group[f"{split}/{name}"][...]
            assert found.dtype == values.dtype
            np.testing.assert_array_equal(found, values)
        for name in RESIDUALS:
            np.testing.assert_array_equal(group[f"{split}/{name}"][...], residuals(opened, split, name))
        # Another range than a chunk or a shard.
        np.testing.assert_array_equal(
            group[f"{split}/sequence"][1, 3:17], opened.read_sequences(1, split)[0][3:17]
        )
    np.testing.assert_array_equal(opened.zarr_group()["test/success"][...], opened.success("test"))


@pytest.mark.parametrize("array", [path for path in ARRAYS if path not in RESIDUALS])
def test_zarr_opens_one_array_alone(array, store):
    path, opened = store
    found = zarr.open_array(path / "test" / array, mode="r")[...]
    np.testing.assert_array_equal(found, small_arrays(opened, "test")[array])


def test_xarray(store):
    path, opened = store
    with xarray.open_datatree(path, engine="zarr", chunks=None) as tree:
        assert set(tree.children) == set(SPLITS)
        for split in SPLITS:
            node = tree[split]
            assert node["final_token"].dims == ("layer", "example", "d_model")
            assert node["sequence"].dims == ("sequence_layer", "token", "d_model")
            # Of the root group, and inherited by each split.
            assert node["layer"].values.tolist() == list(opened.layers)
            assert all(node[name].attrs["description"] for name in ARRAYS)
            for layer in opened.layers:
                found = node["final_token"].sel(layer=layer)
                np.testing.assert_array_equal(found, opened.read_final_token(layer, split)[0])
            for layer in opened.sequence_layers:
                found = node["sequence"].sel(sequence_layer=layer)
                np.testing.assert_array_equal(found, opened.read_sequences(layer, split)[0])
            for name, values in small_arrays(opened, split).items():
                np.testing.assert_array_equal(node[name], values)


def test_xarray_opens_one_split(store):
    path, opened = store
    with xarray.open_zarr(path, group="test", chunks=None) as found:
        np.testing.assert_array_equal(found["success"], opened.success("test"))
        assert found.sizes["example"] == opened.count("test")


@pytest.mark.parametrize("name", ARRAYS)
def test_tensorstore(name, store):
    path, opened = store
    for split in SPLITS:
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/{split}/{name}"}}
        found = tensorstore.open(spec, read=True).result()
        expected = residuals(opened, split, name) if name in RESIDUALS else small_arrays(opened, split)[name]
        assert found.domain.labels == ARRAYS[name].dims
        np.testing.assert_array_equal(found.read().result(), expected)
        if name == "sequence":
            np.testing.assert_array_equal(found[1, 5:9].read().result(), expected[1, 5:9])


def test_pandas_and_polars(store):
    path, opened = store
    names = [column.name for column in columns("choice")]
    for split in SPLITS:
        file = path / split / "examples.parquet"
        by_pandas, by_polars = pd.read_parquet(file), pl.read_parquet(file)
        assert by_pandas.columns.tolist() == by_polars.columns == names
        expected = opened.table(split).to_pylist()
        assert by_polars.to_dicts() == expected
        for row, found in zip(expected, by_pandas.to_dict("records"), strict=True):
            for name, value in row.items():
                assert list(found[name]) == value if isinstance(value, list) else found[name] == value
        np.testing.assert_array_equal(by_pandas["success"], opened.success(split))
