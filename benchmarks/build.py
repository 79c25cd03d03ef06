"""What does a build keep on disk, how early are its bytes durable, and do its splits leak?

    python -m benchmarks.build [--data FOLDER_OF_JSONL] [--per-class K] [--json FILE]

* One build of ``--task`` with ``--per-class K``: the share of residual bytes that are in durable shards when
  the last forward pass ends (``durable_share`` of ``OUT.log.jsonl``), and the peak of what the store and its
  unfinished folder take together, sampled while the build runs, over the size of the finished store.
* The number of files of a store of 26 layers, 4,000 examples and five sequence layers of width 2,304. It
  follows from the layout alone, so nothing is built.
* The groups that stand in more than one split, counted over every row of the four tasks. The answers are made
  up; the splits do not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from benchmarks import workload
from benchmarks.tables import Table, say, write_json
from wif_store.format.metadata import data_files, metadata_files
from wif_store.format.schema import FINAL_TOKEN, SEQUENCE, SPLITS, Manifest
from wif_store.store.reader import open_store
from wif_store.tasks import TASKS, get_task

EVERY = 0.2
"""Seconds between two looks at the disk."""
LENGTHS = {"WinoGrande's": 27, "BoolQ's": 140}
"""Tokens of an example."""


def size_of(*folders: Path) -> int:
    """Bytes of all files of folders that others may be changing."""
    total = 0
    # Unlike a glob, a walk goes on where a folder is gone before it is looked into.
    for parent, _, names in (found for folder in folders for found in os.walk(folder)):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(parent, name).stat().st_size
    return total


class Peak:
    """The most that folders took together, sampled for as long as the ``with`` block lasts."""

    def __init__(self, *folders: Path) -> None:
        self.folders, self.bytes = folders, 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while True:
            self.bytes = max(self.bytes, size_of(*self.folders))
            if self._done.wait(EVERY):
                return


def one_build(options: argparse.Namespace, folder: Path) -> Table:
    """Build once and see how early its bytes are durable, and what it takes on disk."""
    task = get_task(options.task)
    source = workload.rows_of(options.task, options.data, None, folder)
    engine = workload.open_model(options, task)
    out = folder / "built.zarr"
    with Peak(out, out.with_name("built.zarr.partial")) as peak:
        report = workload.build(task, source, engine, out, options.per_class)
    finished = size_of(out)
    [line] = out.with_name("built.zarr.log.jsonl").read_text().splitlines()
    title = f"A build: {task.name}, k = {report.selection['k']:,}, {engine.model['dtype']}"
    table = Table(title, "what", "figure", "asked")
    share = json.loads(line)["durable_share"]
    table.add("residual bytes durable when the last forward pass ends", share, ">= 0.6")
    table.add("peak disk / finished store", max(peak.bytes, finished) / finished, "<= 1.7")
    table.add("finished store, MB", finished / 1e6, "")
    table.add("s of the scan", report.scan_seconds, "")
    table.add("s after it", report.write_seconds, "")
    return table


def file_count(tokens: int) -> int:
    """Files of a store of 26 layers, 4,000 examples of so many tokens, five sequence layers."""
    counts = {"train": 2000, "validation": 1000, "test": 1000}
    sections = {name: {} for name in Manifest.__slots__} | {
        "task": "winogrande",
        "outcome": "choice",
        "protocol": {"name": "aligned"},
        "model": {"id": "google/gemma-2-2b", "d_model": 2304},
        "layers": {FINAL_TOKEN: list(range(26)), SEQUENCE: [4, 9, 14, 19, 24]},
        "splits": {split: {"examples": n, "tokens": n * tokens} for split, n in counts.items()},
    }
    manifest = Manifest(**sections)  # type: ignore[arg-type]
    return len(data_files(manifest)) + len(metadata_files(manifest)) + 1  # the manifest itself


def files() -> Table:
    """The number of files at two lengths of example."""
    table = Table("Files of a store: 26 layers, 4,000 examples, width 2,304", "length", "files", "asked")
    for whose, tokens in LENGTHS.items():
        table.add(f"{whose}, {tokens} tokens an example", file_count(tokens), "<= 100")
    return table


def groups(options: argparse.Namespace, folder: Path) -> Table:
    """Groups in more than one split, by the audit and by the tables of examples."""
    table = Table(
        "Groups across splits", "task", "examples", "groups", "the audit's count", "counted", "asked"
    )
    for name in TASKS:
        source = workload.rows_of(name, options.data, None, folder)
        engine = workload.made_up_engine(source, layers=1, sequence_layers=0, d_model=8, tokens=2)
        out = folder / f"{name}.zarr"
        workload.build(get_task(name), source, engine, out)
        store = open_store(out)
        found: dict[str, set[str]] = defaultdict(set)
        for split in SPLITS:
            for group in store.column("group", split):
                found[group].add(split)
        across = sum(len(splits) > 1 for splits in found.values())
        audited = store.manifest.audit["counts"]["groups_across_splits"]
        table.add(name, len(store), len(found), audited, across, "0")
    return table


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    workload.add_options(parser)
    parser.add_argument("--task", default="winogrande")
    parser.add_argument("--per-class", type=int, default=200)
    options = parser.parse_args(arguments)
    say(f"build: about {1 + options.per_class // 60} minutes on two cores")
    tables = [files()]
    with tempfile.TemporaryDirectory() as folder:
        tables.append(groups(options, Path(folder)))
    with tempfile.TemporaryDirectory() as folder:
        tables.append(one_build(options, Path(folder)))
    write_json(options.json, tables, model=options.model, per_class=options.per_class)


if __name__ == "__main__":
    main()
