"""Builds to be disturbed: a real model over real rows, and one that makes its records up."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import traceback
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from tests.support import tiny
from tests.support.fake_engine import fake_engine
from wif_store import crew
from wif_store.build import Settings, build
from wif_store.errors import WifError
from wif_store.sources import load_source
from wif_store.store import open_store
from wif_store.tasks import get_task

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wif_store.records import Engine
    from wif_store.sources import Source

TASK = get_task("winogrande")
BLOCK = 8


@dataclass(frozen=True)
class Job:
    """A build that can be run again and again, each time in a process of its own."""

    source: Source
    engine: Engine
    settings: Settings

    def run(self, out: Path) -> Any:
        """Build in this process."""
        return build(self.settings, self.source, self.engine, out)

    def start(self, out: Path, log: Path, prepare: Callable[[], object] = lambda: None) -> int:
        """Build in a child; returns its process id.

        Every block it extracts and every shard it writes is a line of ``log``. It ends with 0, or with 1 (an
        error of ours) or 2 and the error in ``log`` with the suffix ``.error``.
        """
        child = os.fork()
        if child:
            return child
        status = 2
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
            # Opened before anything is taken from this process.
            with log.open("a", buffering=1) as work, log.with_suffix(".error").open("w") as error:
                try:
                    job = self._logging(work)
                    prepare()
                    job.run(out)
                    status = 0
                except WifError as refusal:
                    error.write(str(refusal))
                    status = 1
                except BaseException:
                    error.write(traceback.format_exc())
        finally:
            os._exit(status)

    def _logging(self, work: IO[str]) -> Job:
        """The same, noting each block and each shard when it is begun."""
        extract, write_shard = self.engine.extract, crew.write_shard

        def extracting(requests: Any) -> Any:
            work.write("block\n")
            return extract(requests)

        def writing(*args: Any) -> Any:
            work.write("shard\n")
            return write_shard(*args)

        crew.write_shard = writing
        return replace(self, engine=replace(self.engine, extract=extracting))


def wait(child: int) -> int:
    """The exit status of a child, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def real_job(folder: Path, rows: int = 48) -> Job:
    """Gemma 3 270M over the first rows of the built-in WinoGrande, in blocks of 8."""
    from wif_store.extract.engine import open_engine

    path = folder / "builtin.jsonl"
    found = load_source(TASK, "builtin").candidates[:rows]
    path.write_text("".join(json.dumps({n: c.row[n] for n in TASK.fields}) + "\n" for c in found))
    protocol = TASK.protocol("aligned")
    engine = open_engine("gemma3-270m", protocol, sequence_layers="3,7,11,14,17", device="cpu", block=BLOCK)
    return Job(load_source(TASK, str(path)), engine, Settings(TASK, protocol, per_class=None))


def made_up_job(folder: Path, rows: int = 48, *, d_model: int = 16, block: int = 8) -> Job:
    """An engine that makes its records up, over rows that are made up too."""
    path = tiny.write_rows(folder / "rows.jsonl", tiny.rows(rows))
    engine = fake_engine(block=block, d_model=d_model)
    return Job(load_source(TASK, str(path)), engine, Settings(TASK, TASK.protocol("aligned"), per_class=None))


def contents(store: Path) -> dict[str, str]:
    """Every file of a store by its SHA-256."""
    files = (p for p in store.rglob("*") if p.is_file())
    return {p.relative_to(store).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def numbers(path: Path) -> str:
    """One digest of everything that a reader can read of a store."""
    store = open_store(path)
    digest = hashlib.sha256(repr(store.manifest).encode())
    for layer in store.layers:
        for values in store.read_final_token(layer):
            digest.update(np.ascontiguousarray(values))
    for layer in store.sequence_layers:
        for values in store.read_sequences(layer):
            digest.update(np.ascontiguousarray(values))
    for example in store.examples():
        digest.update(repr(example).encode())
    return digest.hexdigest()
