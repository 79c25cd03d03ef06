"""Stores of examples of given lengths, written by the journal and the writer alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tests.support.manifests import sections
from wif_store.builder.blocks import Judged
from wif_store.builder.journal import Journal
from wif_store.builder.shards import write_shard
from wif_store.builder.writer import Row, SplitWriter, finish_store
from wif_store.format.schema import SPLITS
from wif_store.records import Engine, Record, widen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

RIGHT = Judged(success=True, answer="", rate=1.0)
LAYERS = (3, 5)
WIDTH = 16
ENGINE = Engine(
    extract=lambda requests: [],
    model={},
    batching={},
    versions={},
    layers=LAYERS,
    sequence_layers=LAYERS,
    d_model=WIDTH,
)


def record(name: str, length: int, rng: np.random.Generator, dtype: Any = np.uint16) -> Record:
    """A record of two layers, whose final token ends its sequence."""
    bits = rng.integers(0, 0x7F00, (len(LAYERS), length, WIDTH)).astype(np.uint16)
    sequence = bits if dtype == np.uint16 else rng.standard_normal(bits.shape).astype(dtype)
    return Record(
        id=name,
        logprobs=np.array([-1.0, -2.0]),
        choice_tokens=np.array([1, 2], np.int32),
        prediction=0,
        prompt=f"prompt {name} é",
        cut=0,
        cost=length,
        token_ids=rng.integers(0, 9, length).astype(np.int32),
        final_token=sequence[:, -1],
        sequence=sequence,
    )


def journalled(
    out: Path, lengths: Sequence[int], dtype: Any = np.uint16, blocks: int = 2
) -> tuple[Journal, list[Record], list[Row]]:
    """An open journal with records of these lengths in some blocks; row 2j is a success, row 2j + 1 none."""
    rng = np.random.default_rng(sum(lengths))
    records = [record(str(i), n, rng, dtype) for i, n in enumerate(lengths)]
    journal = Journal(out)
    journal.open({"task": "winogrande"})
    rows = []
    for number, part in enumerate(np.array_split(np.arange(len(records)), blocks)):
        if len(part):
            name = f"train-{number:06d}"
            journal.blocks.write(name, [records[i] for i in part], [RIGHT] * len(part), [True] * len(part))
            block = journal.blocks.block(name)
            rows += [Row(block, at, values(int(i))) for at, i in enumerate(part)]
    return journal, records, rows


def values(row: int) -> dict[str, Any]:
    """What the table says of a row, beside what the journal has."""
    success = 1 - row % 2
    return {
        "id": f"winogrande-{row:016x}",
        "task": "winogrande",
        "group": f"{row:016x}",
        "source_row": row,
        "success": success,
        "cut_tokens": 0,
        "choices": ["a", "b"],
        "gold": 1 - success,
        "prediction": 0,
        "choice_logprobs": [-1.0, -2.0],
        "choice_tokens": [1, 2],
    }


def write_store(out: Path, lengths: Mapping[str, Sequence[int]]) -> dict[str, list[Record]]:
    """Write a store whose splits have examples of these lengths; returns the records of each."""
    every = [n for split in SPLITS for n in lengths[split]]
    journal, records, rows = journalled(out, every, blocks=3)
    writers, entries, found, at = {}, {}, {}, 0
    for split in SPLITS:
        end = at + len(lengths[split])
        writers[split] = writer = SplitWriter(split, ENGINE)
        writer.add(rows[at:end])
        for job in writer.shards(last=True):
            entries[job.path] = write_shard(job, journal).entry
        found[split], at = records[at:end], end
    made = sections(d_model=WIDTH)
    made["model"]["n_layers"] = LAYERS[-1] + 1
    made["layers"] = {"final_token": list(LAYERS), "sequence": list(LAYERS)}
    for split, writer in writers.items():
        count = len(writer.rows)
        made["splits"][split].update(examples=count, tokens=writer.tokens, groups=count)
    finish_store(journal.store, made, writers, entries)
    journal.finish(b"{}\n")
    return found


def expected(records: Sequence[Record], index: int) -> list[np.ndarray]:
    """The sequences of one of the layers, as float32."""
    return [widen(record.sequence[index]) for record in records]
