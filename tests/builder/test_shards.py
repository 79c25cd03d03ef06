"""Shards are what zarr reads, bit for bit, and damage in the journal never reaches one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import zarr

from tests.test_store import SMALL, record
from wif_store import codecs
from wif_store.errors import BuildError
from wif_store.builder.journal import Journal
from wif_store.records import widen
from wif_store.format.schema import FINAL_TOKEN, SEQUENCE
from wif_store.builder.shards import ShardJob, write_shards

WHOLE_CHUNKS = [8, 8, 8, 8]
RAGGED = [9, 30, 2, 17, 25, 8, 1, 3]


def journalled(folder, lengths, dtype=np.uint16):
    rng = np.random.default_rng(0)
    records = [record(str(i), n, rng) for i, n in enumerate(lengths)]
    if dtype == np.float32:
        records = [replace(r, final_token=widen(r.final_token), sequence=widen(r.sequence)) for r in records]
    journal = Journal(folder / "s.zarr")
    journal.open({})
    # Two blocks, so that chunks run over from one to the other.
    half = len(records) // 2
    journal.blocks.write(0, records[:half], [True] * half)
    journal.blocks.write(1, records[half:], [True] * (len(records) - half))
    first, second = journal.blocks.block(0), journal.blocks.block(1)
    rows = [(first, i) for i in range(half)] + [(second, i) for i in range(len(records) - half)]
    return journal, records, rows


def empty_array(folder, values, layout):
    """An array of zarr's own, without its values."""
    return zarr.create_array(
        folder,
        shape=values.shape,
        dtype="float32",
        chunks=layout.chunks,
        shards=layout.shards,
        filters=layout.filters or "auto",
        compressors=layout.compressors,
        fill_value=-1,  # what is missing would be found
    )


def vector_jobs(rows, layout, dtype):
    """The shards of the first layer's vectors."""
    blocks = {block.number: block for block, _ in rows}
    starts = dict(zip(blocks, np.cumsum([0, *(block.rows for block in blocks.values())]), strict=False))
    order = np.array([starts[block.number] + row for block, row in rows])
    pieces = tuple(block.vectors(0) for block in blocks.values())
    step = layout.outer[1]
    for number, begin in enumerate(range(0, len(rows), step)):
        part = order[begin : begin + step]
        yield ShardJob(f"v/{number}", layout, dtype, pieces, len(part), order=part)


def sequence_jobs(rows, layout, dtype):
    """The shards of the first layer's sequences."""
    pieces = tuple(block.sequence(0, row) for block, row in rows)
    ends = np.cumsum([p.rows for p in pieces])
    step = layout.outer[1]
    for number, begin in enumerate(range(0, int(ends[-1]), step)):
        first = int(np.searchsorted(ends, begin, side="right"))
        skip = begin - int(ends[first] - pieces[first].rows)
        size = min(step, int(ends[-1]) - begin)
        yield ShardJob(f"s/{number}", layout, dtype, pieces[first:], size, skip=skip)


@pytest.mark.parametrize("lengths", [WHOLE_CHUNKS, RAGGED, [1, 1]], ids=["whole", "ragged", "one token"])
@pytest.mark.parametrize("threads", [1, 3, 9])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_zarr_reads_shards_bit_for_bit(dtype, lengths, threads, tmp_path, monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(codecs, name, value)
    journal, records, rows = journalled(tmp_path, lengths, dtype)
    # Not in the journal's order: a split's examples stand in every block.
    mixed = [*range(0, len(rows), 2), *range(1, len(rows), 2)]
    rows, records = [rows[i] for i in mixed], [records[i] for i in mixed]
    total = sum(lengths)
    cases = {
        FINAL_TOKEN: (
            np.stack([widen(r.final_token)[:1] for r in records], axis=1),
            codecs.final_token_layout(16, len(records)),
            vector_jobs,
        ),
        SEQUENCE: (
            np.concatenate([widen(r.sequence)[:1] for r in records], axis=1),
            codecs.sequence_layout(16, total),
            sequence_jobs,
        ),
    }
    for array, (values, layout, jobs_of) in cases.items():
        found = empty_array(tmp_path / array, values, layout)
        jobs = list(jobs_of(rows, layout, np.dtype(dtype).str))
        shards = list(write_shards(journal, jobs, threads))
        assert [shard.name for shard in shards] == [job.name for job in jobs]
        assert [shard.size for shard in shards] == [4 * 16 * job.rows for job in jobs]
        for number, job in enumerate(jobs):
            path = tmp_path / array / f"c/0/{number}/0"
            path.parent.mkdir(parents=True)
            path.write_bytes(journal.store.read(job.name))
        np.testing.assert_array_equal(found[...].view(np.uint32), values.view(np.uint32))
        assert len(jobs) > 1 or array == FINAL_TOKEN or total < 16
    assert journal.shards().keys() == set(journal.store.sizes())
    journal.close()


def test_two_rows_of_one_block_out_of_order(tmp_path):
    """Where one split ends and the next begins, a chunk goes back in a block."""
    journal, records, rows = journalled(tmp_path, RAGGED)
    pieces = [block.sequence(1, row) for block, row in (rows[2], rows[0], rows[7], rows[4])]
    values = journal.blocks.read(pieces, "<u2", 16)
    np.testing.assert_array_equal(values, np.concatenate([records[i].sequence[1] for i in (2, 0, 7, 4)]))
    journal.close()


@pytest.mark.parametrize("gap", [0, 10**6])
def test_a_changed_byte_is_found_whatever_else_is_read_with_it(gap, tmp_path, monkeypatch):
    journal, _, rows = journalled(tmp_path, RAGGED)
    monkeypatch.setattr(type(journal.place), "gap", gap)
    wanted = [rows[i][0].sequence(0, rows[i][1]) for i in (0, 2)]
    between = rows[1][0].sequence(0, 1)
    path = tmp_path / "s.zarr.partial" / "blocks" / "000000.residuals"
    whole = path.read_bytes()

    def with_a_change_at(at):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])

    want = journal.blocks.read(wanted, "<u2", 16)
    with_a_change_at(between.start)  # nobody asked for that one
    np.testing.assert_array_equal(journal.blocks.read(wanted, "<u2", 16), want)
    for piece in wanted:
        with_a_change_at(piece.start + 5)
        with pytest.raises(BuildError, match=r"000000 is damaged: delete .*000000\.npz"):
            journal.blocks.read(wanted, "<u2", 16)
    journal.close()


def test_a_shard_that_fails_leaves_nothing(tmp_path, monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(codecs, name, value)
    journal, _, rows = journalled(tmp_path, RAGGED)
    pieces = tuple(block.sequence(0, row) for block, row in rows)
    pieces = (*pieces[:-1], pieces[-1]._replace(crc=0))
    layout = codecs.sequence_layout(16, 12)
    job = ShardJob("sequence/c/0/0/0", layout, "<u2", pieces[-3:], 12)
    with pytest.raises(BuildError, match="damaged"):
        list(write_shards(journal, [job], 2))
    assert journal.store.sizes() == {}
    assert journal.shards() == {}
    journal.close()
