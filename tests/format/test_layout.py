"""How a store is cut into files: few of them, never too large, and the same however much there is."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.manifests import manifest_of
from wif_store.format import layout
from wif_store.format.layout import (
    SHARD_BYTES,
    SHARD_EXAMPLES,
    final_token_layout,
    sequence_layout,
    sequence_shard,
)
from wif_store.format.metadata import data_files, layouts_of, metadata_files

WIDTHS = st.sampled_from([1, 16, 640, 768, 2304, 2560, 4096, 5376])


@pytest.mark.parametrize("tokens", [27, 160])
def test_a_store_of_gemma_2_2b_has_at_most_a_hundred_files(tokens):
    manifest = manifest_of(
        examples=(2000, 1000, 1000), tokens_each=tokens, layers=26, sequence_layers=5, d_model=2304
    )
    files = {"manifest.json"} | metadata_files(manifest).keys() | data_files(manifest)
    assert len(files) <= 100


@given(d_model=WIDTHS, layers=st.integers(1, 40), tokens=st.integers(1, 3_000_000))
def test_shards_of_sequences_have_all_tokens_once_and_are_not_too_large(d_model, layers, tokens):
    plan = sequence_layout(d_model, layers, tokens)
    assert plan.shape == (layers, tokens, d_model)
    _, chunk, _ = plan.chunk
    _, shard, _ = plan.file
    assert shard % chunk == 0
    assert len(plan.files) == math.ceil(tokens / shard)
    assert math.prod(plan.chunks_per_shard) == layers * (shard // chunk)
    one_chunk = 4 * d_model * chunk * layers
    assert 4 * d_model * shard * layers <= max(SHARD_BYTES, one_chunk)


@given(d_model=WIDTHS, layers=st.integers(1, 40), examples=st.integers(2, 50_000))
def test_shards_of_final_tokens_have_all_examples_once(d_model, layers, examples):
    plan = final_token_layout(d_model, layers, examples)
    _, rows, channels = plan.chunk
    assert plan.transposed
    assert plan.file == (layers, rows, d_model)
    assert rows <= SHARD_EXAMPLES
    assert channels == d_model
    assert len(plan.files) == math.ceil(examples / rows)
    # No file is mostly padding.
    assert rows < 2 * examples


@given(d_model=WIDTHS, layers=st.integers(1, 40), more=st.integers(0, 10**6))
def test_a_full_shard_is_cut_the_same_whatever_follows(d_model, layers, more):
    """So that a shard can be written before it is known how much there will be."""
    step = sequence_shard(d_model, layers)
    assert sequence_layout(d_model, layers, step + more).file[1] == step
    now, later = (sequence_layout(d_model, layers, step + extra) for extra in (0, more))
    assert (now.chunk, now.file) == (later.chunk, later.file)
    now, later = (final_token_layout(d_model, layers, SHARD_EXAMPLES + extra) for extra in (0, more))
    assert (now.chunk, now.file) == (later.chunk, later.file)


@pytest.mark.parametrize("d_model", [640, 2304, 4096])
def test_the_planes_of_full_chunks_are_those_that_compress_best(d_model):
    _, tokens, _ = sequence_layout(d_model, 5, 10**7).chunk
    assert tokens * d_model % layout.PLANE == 0
    assert tokens * d_model >= layout.SEQUENCE_PLANE
    _, rows, channels = final_token_layout(d_model, 26, 2000).chunk
    assert rows * channels % layout.PLANE == 0


def test_a_store_without_sequences_has_no_files_of_them():
    manifest = manifest_of(sequence_layers=0)
    assert not [path for path in layouts_of(manifest) if path.endswith("/sequence")]
    assert not [name for name in data_files(manifest) if "sequence" in name]
    assert "sequence_layer/zarr.json" in metadata_files(manifest)
