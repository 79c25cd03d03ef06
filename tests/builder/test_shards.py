"""Shards are what zarr reads, bit for bit, whenever they are written; damage in the journal reaches none."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.builds import small_shards
from tests.support.rows import ENGINE, LAYERS, RIGHT, WIDTH, journalled
from wif_store.builder.journal import Journal
from wif_store.builder.shards import write_shard
from wif_store.builder.writer import SplitWriter
from wif_store.errors import BuildError
from wif_store.format.layout import split_layouts
from wif_store.format.metadata import array_metadata
from wif_store.format.schema import ARRAYS, FINAL_TOKEN, SEQUENCE
from wif_store.records import widen

CASES = {
    "full chunks": [8] * 8,
    "ragged": [9, 30, 2, 17, 25, 8, 1, 3, 40, 11],
    "one token": [1, 1],
    "one shard to the last token": [32, 32],
    "one long example": [3, 150],
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_shards(monkeypatch)


def read_by_zarr(journal, split, shape):
    """The arrays of residuals of a split whose shards are written, as zarr reads them."""
    layers = {FINAL_TOKEN: list(LAYERS), SEQUENCE: list(LAYERS)}
    plans = split_layouts(layers, [FINAL_TOKEN], WIDTH, *shape)
    found = {}
    for name in (FINAL_TOKEN, SEQUENCE):
        folder = journal.store.at(f"{split}/{name}").folder
        metadata = array_metadata(ARRAYS[name], plans[name])
        (folder / "zarr.json").write_text(json.dumps(metadata))
        found[name] = zarr.open_array(folder, mode="r")[...]
    return found


@pytest.mark.parametrize("lengths", CASES.values(), ids=CASES)
@pytest.mark.parametrize("threads", [None, 1, 5])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float16])
def test_zarr_reads_shards_bit_for_bit(dtype, threads, lengths, tmp_path):
    journal, records, rows = journalled(tmp_path / "s.zarr", lengths, dtype)
    # Not in the journal's order: the rows of a split stand in every block.
    mixed = [*range(0, len(rows), 2), *range(1, len(rows), 2)]
    rows, records = [rows[i] for i in mixed], [records[i] for i in mixed]
    writer = SplitWriter("train", ENGINE)
    writer.add(rows)
    jobs = list(writer.shards(last=True))
    pool = ThreadPoolExecutor(threads) if threads else None
    shards = [write_shard(job, journal, pool) for job in jobs]
    assert [shard.path for shard in shards] == [job.path for job in jobs]
    assert sum(job.size for job in jobs) == writer.size == 4 * WIDTH * 2 * (len(rows) + sum(lengths))
    assert journal.shards() == {shard.path: shard.entry for shard in shards}
    found = read_by_zarr(journal, "train", (len(rows), sum(lengths)))
    final = np.stack([widen(r.final_token) for r in records], axis=1)
    sequence = np.concatenate([widen(r.sequence) for r in records], axis=1)
    np.testing.assert_array_equal(found[FINAL_TOKEN].view(np.uint32), final.view(np.uint32))
    np.testing.assert_array_equal(found[SEQUENCE].view(np.uint32), sequence.view(np.uint32))
    journal.close()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=40),
    steps=st.lists(st.integers(1, 9), min_size=1, max_size=40),
)
def test_shards_given_out_meanwhile_are_those_given_out_at_the_end(lengths, steps, tmp_path_factory):
    """Path, pieces and cut: so that a build that was stopped, or had other blocks ahead, writes the same."""
    journal, _, rows = journalled(tmp_path_factory.mktemp("rows") / "s.zarr", lengths)
    known = SplitWriter("train", ENGINE)
    known.add(rows)
    at_the_end = {job.path: job for job in known.shards(last=True)}
    writer, given_out, at = SplitWriter("train", ENGINE), {}, 0
    for step in [*steps, len(rows)]:
        last = at + step >= len(rows)
        done = writer.first_unwritten
        writer.add(rows[at : at + step])
        for job in writer.shards(last=last):
            # No shard needs a row that all before it could have let go of.
            assert writer.first_row(job) >= done
            assert job.path not in given_out
            given_out[job.path] = job
        at += step
        if last:
            break
    assert writer.first_unwritten == len(rows)
    assert given_out.keys() == at_the_end.keys()
    for path, job in given_out.items():
        other = at_the_end[path]
        assert (job.pieces, job.rows, job.skip) == (other.pieces, other.rows, other.skip)
        assert (job.layout.chunk, job.layout.file) == (other.layout.chunk, other.layout.file)
        assert (job.order is None) == (other.order is None)
        assert job.order is None or np.array_equal(job.order, other.order)
    journal.close()


def test_pieces_are_read_in_any_order(tmp_path):
    journal, records, rows = journalled(tmp_path / "s.zarr", CASES["ragged"])
    wanted = (2, 0, 7, 4, 5)
    pieces = [rows[i].block.sequence(1, rows[i].index) for i in wanted]
    values = journal.blocks.read(pieces, "<u2", WIDTH)
    np.testing.assert_array_equal(values, np.concatenate([records[i].sequence[1] for i in wanted]))
    journal.close()


def test_examples_that_are_not_wanted_have_an_outcome_and_no_residuals(tmp_path):
    journal, records, _ = journalled(tmp_path / "s.zarr", [3, 4, 5, 6])
    journal.blocks.write("test-000000", records, [RIGHT] * 4, [False, True, False, True])
    block = journal.blocks.block("test-000000")
    assert block.row.tolist() == [-1, 0, -1, 1]
    assert block.rows == 2
    assert len(block.prediction) == 4
    assert block.texts == [{"prompt": records[1].prompt}, {"prompt": records[3].prompt}]
    found = journal.blocks.read([block.vectors(0)], block.dtype, block.d_model)
    np.testing.assert_array_equal(found, [records[i].final_token[0] for i in (1, 3)])
    journal.blocks.write("test-000001", records, [RIGHT] * 4, [False] * 4)
    assert journal.blocks.block("test-000001").rows == 0
    assert journal.blocks.with_residuals() >= {"test-000000", "test-000001"}
    journal.blocks.remove_residuals("test-000000")
    assert "test-000000" not in journal.blocks.with_residuals()
    assert "test-000000" in journal.blocks.names()
    assert journal.blocks.block("test-000000").texts == block.texts
    journal.close()


@pytest.mark.parametrize("gap", [0, 10**6])
def test_a_changed_byte_is_found_whatever_else_is_read_with_it(gap, tmp_path, monkeypatch):
    journal, _, rows = journalled(tmp_path / "s.zarr", CASES["ragged"])
    monkeypatch.setattr(type(journal.folder), "gap", gap)
    wanted = [rows[i].block.sequence(0, rows[i].index) for i in (0, 2)]
    between = rows[1].block.sequence(0, 1)
    path = tmp_path / "s.zarr.partial" / "blocks" / "train-000000.residuals"
    before = path.read_bytes()

    def with_a_change_at(at):
        path.write_bytes(before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :])

    want = journal.blocks.read(wanted, "<u2", WIDTH)
    with_a_change_at(between.start)  # nobody asked for that one
    np.testing.assert_array_equal(journal.blocks.read(wanted, "<u2", WIDTH), want)
    for piece in wanted:
        with_a_change_at(piece.start + 5)
        with pytest.raises(BuildError, match=r"train-000000 is damaged: delete .*train-000000\.npz and run"):
            journal.blocks.read(wanted, "<u2", WIDTH)
    path.write_bytes(before[: wanted[1].start + 3])
    with pytest.raises(BuildError, match="train-000000 is damaged"):
        journal.blocks.read(wanted, "<u2", WIDTH)
    path.unlink()
    with pytest.raises(BuildError, match=r"is gone, and a shard made of it too: delete .*s\.zarr\.partial"):
        journal.blocks.read(wanted, "<u2", WIDTH)
    journal.close()


@pytest.mark.parametrize("threads", [None, 2])
def test_a_shard_that_fails_leaves_nothing(threads, tmp_path):
    journal, _, rows = journalled(tmp_path / "s.zarr", CASES["ragged"])
    path = tmp_path / "s.zarr.partial" / "blocks" / "train-000001.residuals"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    writer = SplitWriter("train", ENGINE)
    writer.add(rows)
    pool = ThreadPoolExecutor(threads) if threads else None
    last = [job for job in writer.shards(last=True) if f"/{SEQUENCE}/" in job.path][-1]
    with pytest.raises(BuildError, match="train-000001 is damaged"):
        write_shard(last, journal, pool)
    assert journal.store.sizes() == {}
    assert journal.shards() == {}
    journal.close()


@pytest.mark.parametrize("at", [0, 40, -30, "cut", "empty"])
def test_a_damaged_block_is_said(at, tmp_path):
    journal, _, _ = journalled(tmp_path / "s.zarr", [3, 4])
    path = tmp_path / "s.zarr.partial" / "blocks" / "train-000000.npz"
    content = bytearray(path.read_bytes())
    if at == "cut":
        del content[len(content) // 2 :]
    elif at == "empty":
        content.clear()
    else:
        content[at] ^= 0x1C
    path.write_bytes(content)
    with pytest.raises(BuildError, match=r"train-000000 is damaged: delete .*train-000000\.npz and run"):
        journal.blocks.block("train-000000")
    journal.close()


def test_a_note_that_is_half_written_is_no_shard(tmp_path):
    journal = Journal(tmp_path / "s.zarr")
    entry = {"size": 2, "sha256": "0"}
    journal.store.write("test/sequence/c/0/0/0", [b"12"])
    journal.note_shard("test/sequence/c/0/0/0", entry)
    notes = tmp_path / "s.zarr.partial" / "shards"
    (notes / "test.sequence.c.0.1.0.json.c0ffee00.partial").write_text('{"fi')
    assert journal.shards() == {"test/sequence/c/0/0/0": entry}
    # A shard of another size is not the one that was noted.
    journal.store.write("test/sequence/c/0/0/0", [b"123"])
    assert journal.shards() == {}
