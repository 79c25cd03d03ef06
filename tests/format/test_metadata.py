"""The metadata that follow from a manifest: what zarr itself would write for the same arrays."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, TransposeCodec

from tests.support.manifests import manifest_of
from wif_store.format.chunks import LEVEL
from wif_store.format.metadata import layouts_of, metadata_files
from wif_store.format.schema import ARRAYS, COORDINATES, PROMPT_END, SPLITS

SHAPES = {
    "small": {},
    "several shards": {"examples": (3000, 1500, 1500), "tokens_each": 200, "d_model": 640},
    "one pair": {"examples": (2, 2, 2), "tokens_each": 1},
    "no sequences": {"sequence_layers": 0},
    "one channel": {"d_model": 1, "tokens_each": 30},
}


def written(manifest, folder):
    """The metadata of a store as files, so that zarr can open it."""
    for name, content in metadata_files(manifest).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def as_zarr_would(folder, spec, plan):
    """The same array, made by zarr-python from its own arguments."""
    size = np.dtype(spec.dtype).itemsize
    blosc = BloscCodec(
        typesize=size,
        cname="zstd",
        clevel=LEVEL,
        shuffle="shuffle" if size > 1 else "noshuffle",
        blocksize=size * int(np.prod(plan.chunk)),
    )
    return zarr.create_array(
        folder,
        shape=plan.shape,
        dtype=spec.dtype,
        chunks=plan.chunk,
        shards=plan.shard,
        filters=[TransposeCodec(order=(0, 2, 1))] if plan.transposed else [],
        compressors=[blosc, Crc32cCodec()],
        fill_value=np.nan if spec.dtype.startswith("float") else -1,
        dimension_names=spec.dims,
        attributes={"description": spec.description},
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_they_are_what_zarr_writes_for_the_same_arrays(shape, tmp_path):
    manifest = manifest_of(**SHAPES[shape])
    ours = zarr.open_group(written(manifest, tmp_path / "s.zarr"), mode="r")
    for number, (path, plan) in enumerate(layouts_of(manifest).items()):
        found = ours[path]
        expected = as_zarr_would(tmp_path / str(number), (COORDINATES | ARRAYS)[found.basename], plan)
        assert isinstance(found, zarr.Array)
        for attribute in ("shape", "dtype", "chunks", "shards", "filters", "compressors", "serializer"):
            assert getattr(found, attribute) == getattr(expected, attribute), (path, attribute)
        assert np.array_equal(found.fill_value, expected.fill_value, equal_nan=True)
        theirs = json.loads((tmp_path / str(number) / "zarr.json").read_bytes())
        mine = json.loads((tmp_path / "s.zarr" / path / "zarr.json").read_bytes())
        assert mine == theirs


def test_the_root_describes_everything_that_is_below_it(tmp_path):
    files = metadata_files(manifest_of())
    root = json.loads(files.pop("zarr.json"))
    below = root["consolidated_metadata"]["metadata"]
    assert {f"{path}/zarr.json" for path in below} == files.keys()
    for path, node in below.items():
        assert json.loads(files[f"{path}/zarr.json"]) == node
    assert root["attributes"] == {
        "format": "wif-store",
        "format_version": 1,
        "task": "winogrande",
        "outcome": "choice",
        "model": "made/up",
        "protocol": "aligned",
        "sites": {"final_token": "the last token of what is read"},
    }


def test_zarr_opens_the_groups_and_what_is_missing_is_no_number(tmp_path):
    group = zarr.open_group(written(manifest_of(), tmp_path), mode="r")
    assert set(dict(group.groups())) == set(SPLITS)
    assert set(dict(group.arrays())) == set(COORDINATES)
    for split in SPLITS:
        assert set(dict(group[split].arrays())) == set(ARRAYS) - {PROMPT_END}
        assert np.isnan(group[split]["final_token"][...]).all()
        assert (group[split]["success"][...] == -1).all()


def test_what_is_sharded_has_a_checksum_of_each_chunk_and_of_the_index(tmp_path):
    group = zarr.open_group(written(manifest_of(), tmp_path), mode="r")
    for split in SPLITS:
        for name in ("final_token", "sequence"):
            [sharding] = group[split][name].metadata.codecs
            assert isinstance(sharding, ShardingCodec)
            assert isinstance(sharding.codecs[-1], Crc32cCodec)
            assert [type(codec) for codec in sharding.index_codecs] == [BytesCodec, Crc32cCodec]
