"""Builds to be disturbed. Each runs in a process forked from this one, and notes what it begins."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import sys
import traceback
from collections import deque
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import sklearn.feature_extraction.text
import sklearn.neighbors  # noqa: F401  (the audit's: what is imported before a fork is imported once)

from tests.support.fake_engine import fake_engine
from tests.support.stores import ROWS
from wif_store.builder import blocks, scan, shards, writer
from wif_store.builder.pipeline import Settings, build_store
from wif_store.builder.scan import block_bounds
from wif_store.builder.selection import divide
from wif_store.errors import WifError
from wif_store.format import layout
from wif_store.store.reader import open_store
from wif_store.tasks import get_task
from wif_store.tasks.rows import load_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from wif_store.builder.pipeline import Report
    from wif_store.records import Engine, Extract, Record
    from wif_store.tasks.base import Request
    from wif_store.tasks.rows import Source

TASK = get_task("winogrande")
PROTOCOL = TASK.protocol("aligned")
MOST_SECONDS = 120
"""Of a build: one that hangs is ended."""
SMALL = {
    layout: {"PLANE": 32, "SEQUENCE_PLANE": 128, "SHARD_BYTES": 8192, "SHARD_EXAMPLES": 8},
    writer: {"SHARD_EXAMPLES": 8},
    scan: {"LEAST_BLOCK": 4, "MOST_BLOCK": 8},
}
"""Blocks and shards so small that a build of a few rows has many."""


def use_small_shards() -> None:
    """Have this process and those that it forks cut stores into many small files."""
    for module, values in SMALL.items():
        for name, value in values.items():
            setattr(module, name, value)


@dataclass(frozen=True)
class Noting:
    """A stream of made-up or real records that says which block the model begins.

    Like an extractor's own stream, it takes up a block while the model runs the one before.
    """

    extract: Extract
    begin: Callable[[Sequence[Request]], object] = lambda requests: None

    def __call__(self, requests: Sequence[Request]) -> list[Record]:
        """Run one block."""
        [records] = self.stream([requests])
        return records

    def stream(self, blocks: Iterable[Sequence[Request]]) -> Iterator[list[Record]]:
        """Run block after block."""
        taken: deque[Sequence[Request]] = deque()
        for requests in blocks:
            taken.append(requests)
            if len(taken) > 1:
                yield self._run(taken.popleft())
        while taken:
            yield self._run(taken.popleft())

    def _run(self, requests: Sequence[Request]) -> list[Record]:
        self.begin(requests)
        return self.extract(requests)


@dataclass(frozen=True)
class Job:
    """A build that can be run again and again, each time in a process of its own.

    Attributes:
        source: The task's rows.
        engine: The model, or what makes records up.
        settings: What is built.
    """

    source: Source
    engine: Engine
    settings: Settings = field(default_factory=lambda: Settings(TASK, PROTOCOL, per_class=None))

    def run(self, out: Path | str) -> Report:
        """Build in this process."""
        return build_store(self.settings, self.source, self.engine, out)

    def before_each_block(self, what: Callable[[Sequence[Request]], object]) -> Job:
        """The same build, in which something happens before the model begins a block."""
        return replace(self, engine=replace(self.engine, extract=Noting(self.engine.extract, what)))

    def start(
        self, out: Path | str, log: Path, prepare: Callable[[Callable[[str], None]], object] | None = None
    ) -> int:
        """Build in a child; returns its process id.

        Each block that the model begins, each shard that is begun and each file of residuals that is removed
        is a line of ``log``. The child ends with 0, or with 1 (an error of ours) or 2, and the error in
        ``log`` with the suffix ``.error``.

        Args:
            out: Where the store goes.
            log: What is begun.
            prepare: Called in the child with what adds a line; what it returns is called with each line.
        """
        child = os.fork()
        if child:
            return child
        status = 2
        try:
            _be_a_child()
            # Opened before anything is taken from this process.
            with log.open("w", buffering=1) as work, log.with_suffix(".error").open("w") as error:
                try:
                    self._noting(work, prepare).run(out)
                    status = 0
                except WifError as refusal:
                    error.write(str(refusal))
                    status = 1
                except BaseException:
                    error.write(traceback.format_exc())
        finally:
            os._exit(status)

    def block_names(self) -> dict[str, str]:
        """The block that begins with an example, by the example's id."""
        names = {}
        parts = divide(self.source.candidates, self.settings.seed, self.settings.splits)
        for split, candidates in parts.items():
            for number, first in enumerate(block_bounds(len(candidates))[:-1]):
                names[candidates[first].id] = f"{split}-{number:06d}"
        return names

    def _noting(self, work: IO[str], prepare: Callable[..., Any] | None) -> Job:
        names, told = self.block_names(), lambda line: None

        def note(line: str) -> None:
            work.write(f"{line}\n")
            told(line)

        write, remove = shards.write_described, blocks.Blocks.remove_residuals

        def writing(storage: Any, name: str, parts: Any) -> Any:
            note(f"shard {name}")
            return write(storage, name, parts)

        def removing(self: blocks.Blocks, name: str) -> None:
            note(f"gone {name}")
            remove(self, name)

        shards.write_described = writing
        blocks.Blocks.remove_residuals = removing  # type: ignore[method-assign]
        told = (prepare(note) if prepare else None) or told
        return self.before_each_block(lambda requests: note(f"block {names[requests[0].id]}"))


def end_with_parent() -> None:
    """Have this process be killed when the one that forked it ends: nothing outlives the campaign."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _be_a_child() -> None:
    end_with_parent()
    signal.alarm(MOST_SECONDS)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def wait(child: int) -> int:
    """The exit status of a child, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def made_up_job(folder: Path, rows: int = 48, **shape: Any) -> Job:
    """An engine that makes its records up, over rows that are made up too."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(ROWS[TASK.name](i)) + "\n" for i in range(rows)))
    engine = fake_engine(**shape)
    return Job(load_source(TASK, str(path)), replace(engine, extract=Noting(engine.extract)))


def real_job(folder: Path, rows: int = 24) -> Job:
    """Gemma 3 270M over the first rows of the built-in WinoGrande."""
    from wif_store.extract.engine import open_engine

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "builtin.jsonl"
    found = load_source(TASK, "builtin").candidates[:rows]
    path.write_text("".join(json.dumps({n: c.row[n] for n in TASK.fields}) + "\n" for c in found))
    # One thread: a forked child would wait for ever for threads of OpenMP that its parent had.
    engine = open_engine("gemma3-270m", PROTOCOL, sequence_layers="3,7,11,14,17", device="cpu", threads=1)
    return Job(load_source(TASK, str(path)), engine)


def contents(store: Path) -> dict[str, str]:
    """Every file of a store by its SHA-256."""
    files = (p for p in store.rglob("*") if p.is_file())
    return {p.relative_to(store).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def numbers(path: Path | str) -> str:
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
        digest.update(example.token_ids)
    return digest.hexdigest()
