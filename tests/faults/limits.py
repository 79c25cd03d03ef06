"""Builds at the limits of k and of sizes: each holds what was extracted, and is the prefix of a larger k."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.faults.builds import PROTOCOL, SMALL, TASK, Job, made_up_job
from tests.faults.report import Row
from tests.support.fake_engine import FakeExtract
from wif_store.builder.selection import pairs_wanted
from wif_store.errors import SelectionError
from wif_store.format import layout
from wif_store.format.schema import SPLITS
from wif_store.records import widen
from wif_store.store.reader import open_store
from wif_store.store.verify import verify_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.campaign import Campaign
    from wif_store.records import Record
    from wif_store.store.reader import ActivationStore
    from wif_store.tasks.base import Request

SHARD = SMALL[layout]["SHARD_EXAMPLES"]
# In pairs: train gets what validation and test, a quarter each, leave over.
PAIRS = (4, 5, 6, 7, 8, SHARD - 1, SHARD, SHARD + 1, 2 * SHARD, 2 * SHARD + 1)
LENGTHS = ((1, 1), (1, 2), (8, 8), (63, 65), (64, 64), (1, 200))
"""The shortest and the longest sequence: one token, a chunk, about a shard, longer than any shard."""
SHAPES = ((1, 0, 1), (1, 1, 1), (2, 2, 3), (3, 1, 16), (3, 3, 17), (5, 2, 48), (1, 1, 256))
"""Layers, sequence layers, d_model."""


@dataclass(frozen=True)
class OfLength:
    """Made-up records, cut or repeated to lengths within bounds; each is a function of its id."""

    extract: FakeExtract
    least: int
    most: int

    def __call__(self, requests: list[Request]) -> list[Record]:
        """Run one block."""
        return [self.record(request) for request in requests]

    def record(self, request: Request) -> Record:
        """One record."""
        record = self.extract.record(request)
        spread = self.most - self.least + 1
        length = self.least + hashlib.sha256(record.id.encode()).digest()[9] % spread
        sequence = np.resize(record.sequence, (len(record.sequence), length, self.extract.d_model))
        final = record.final_token.copy()
        final[: len(sequence)] = sequence[:, -1]
        ids = np.resize(record.token_ids, length)
        return replace(record, sequence=sequence, final_token=final, token_ids=ids)


def limits(campaign: Campaign) -> Iterator[Row]:
    """Every k and every shape, a few lengths of each."""
    folder = campaign.at("limits")
    yield _counts(folder, campaign)
    yield _sizes(folder, campaign)


def _counts(folder: Path, campaign: Campaign) -> Row:
    row = Row("a k at a limit", 0)
    job = made_up_job(folder / "k", 160)
    stores = {}
    for k in PAIRS[:: campaign.count(4, 1)]:
        out = folder / f"k{k}.zarr"
        stores[k] = _built(row, replace(job, settings=replace(job.settings, per_class=k)), out, k)
    stores[None] = _built(row, job, folder / "max.zarr", None)
    for smaller, larger in zip(list(stores.values()), list(stores.values())[1:], strict=False):
        for split in SPLITS if smaller and larger else ():
            # Of 7 pairs train gets five, of 8 it gets four: either may be the longer one.
            n = min(smaller.count(split), larger.count(split))
            parts = [
                (
                    s.table(split).slice(0, n).to_pylist(),
                    [s.read_final_token(x, split)[0][:n] for x in s.layers],
                )
                for s in (smaller, larger)
            ]
            same = parts[0][0] == parts[1][0] and np.array_equal(parts[0][1], parts[1][1])
            row.good() if same else row.bad(f"{split} of {smaller.name} and of {larger.name} begin otherwise")
    for k, said in ((1, "at least 4"), (3, "at least 4"), (1000, "would succeed")):
        try:
            replace(job, settings=replace(job.settings, per_class=k)).run(folder / f"refused{k}.zarr")
            row.bad(f"k = {k} was built")
        except SelectionError as error:
            row.good(f"`{error}`") if said in str(error) else row.bad(f"k = {k}: {error}")
            if k == 1000:
                advised = int(str(error).partition("--per-class ")[2].split()[0])
                advice = replace(job, settings=replace(job.settings, per_class=advised))
                _built(row, advice, folder / "advised.zarr", advised)
    return row


def _sizes(folder: Path, campaign: Campaign) -> Row:
    row = Row("a shape or a length at a limit", 0)
    cases = list(product(SHAPES, LENGTHS))
    for number, ((layers, sequence_layers, d_model), (least, most)) in enumerate(cases):
        if campaign.short and number % 9:
            continue
        shape: dict[str, Any] = {"layers": layers, "sequence_layers": sequence_layers, "d_model": d_model}
        job = made_up_job(folder / f"rows{number}", 40, **shape)
        extract = OfLength(FakeExtract(layers, sequence_layers, d_model), least, most)
        job = replace(job, engine=replace(job.engine, extract=extract))
        _built(row, job, folder / f"{number}.zarr", None)
    return row


def _built(row: Row, job: Job, out: Path, k: int | None) -> ActivationStore | None:
    """Build, verify, and compare all values with what was extracted."""
    try:
        job.run(out)
        verify_store(out)
    except Exception as error:
        row.bad(f"{out.name}: {type(error).__name__} {error}")
        return None
    store = open_store(out)
    wanted = pairs_wanted(k)
    counts = {split: store.count(split) // 2 for split in SPLITS}
    if k is not None and counts != wanted:
        row.bad(f"{out.name}: {counts} pairs; expected {wanted}")
        return None
    by_id = {c.id: TASK.request(c, PROTOCOL) for c in job.source.candidates}
    for split in SPLITS:
        for number, example in enumerate(store.examples(split)):
            [record] = job.engine.extract([by_id[example.id]])
            final, sequence = store.read_example(split, number)
            if not (
                np.array_equal(final, widen(record.final_token))
                and np.array_equal(sequence, widen(record.sequence))
                and np.array_equal(example.token_ids, record.token_ids)
            ):
                row.bad(f"{out.name}: {example.id} is not what was extracted")
                return None
    row.good()
    return store
