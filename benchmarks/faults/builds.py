"""Builds to be disturbed: a real model over real rows, and one that makes its records up."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import sys
import traceback
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from tests.support import tiny
from tests.support.fake_engine import fake_engine
from wif_store import shards
from wif_store.builder.pipeline import Settings, build
from wif_store.errors import WifError
from wif_store.records import Stream
from wif_store.tasks.rows import load_source
from wif_store.store.reader import open_store
from wif_store.tasks import get_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from wif_store.records import Engine, Extract, Record
    from wif_store.tasks.rows import Source
    from wif_store.tasks.base import Request

TASK = get_task("winogrande")
BLOCK = 8


@dataclass(frozen=True)
class Watched:
    """Extraction that says which block the model begins."""

    extract: Extract
    begin: Callable[[Sequence[Request]], object]

    def __call__(self, requests: Sequence[Request]) -> list[Record]:
        """Run one block."""
        self.begin(requests)
        return self.extract(requests)


class WatchedStream(Watched):
    """The same of extraction that takes up a block, to encode it, while the model runs the one before."""

    def stream(self, blocks: Iterable[Sequence[Request]]) -> Iterator[list[Record]]:
        """Run block after block."""

        def taken() -> Iterator[Sequence[Request]]:
            before: Sequence[Request] = ()
            for requests in blocks:
                if before:
                    self.begin(before)
                before = requests
                yield requests
            if before:
                self.begin(before)

        assert isinstance(self.extract, Stream)
        yield from self.extract.stream(taken())


@dataclass(frozen=True)
class MadeUpStream:
    """Made-up records, which come as a model's do: one block is taken up ahead."""

    extract: Extract

    def __call__(self, requests: Sequence[Request]) -> list[Record]:
        """Run one block."""
        return self.extract(requests)

    def stream(self, blocks: Iterable[Sequence[Request]]) -> Iterator[list[Record]]:
        """Run block after block."""
        taken: deque[Sequence[Request]] = deque()
        for requests in blocks:
            taken.append(requests)
            if len(taken) > 1:
                yield self.extract(taken.popleft())
        while taken:
            yield self.extract(taken.popleft())


@dataclass(frozen=True)
class Job:
    """A build that can be run again and again, each time in a process of its own.

    Attributes:
        source: The task's rows.
        engine: The model, or what makes records up.
        settings: What is built.
        prepare: Called in the process that builds.
    """

    source: Source
    engine: Engine
    settings: Settings
    prepare: Callable[[], object] = lambda: None

    def run(self, out: Path | str) -> Any:
        """Build in this process."""
        return build(self.settings, self.source, self.engine, out)

    def start(self, out: Path | str, log: Path, prepare: Callable[[], object] = lambda: None) -> int:
        """Build in a child; returns its process id.

        Every block that the model begins and every shard that is begun is a line of ``log``. It ends with
        0, or with 1 (an error of ours) or 2 and the error in ``log`` with the suffix ``.error``.
        """
        child = os.fork()
        if child:
            return child
        status = 2
        try:
            end_with_parent()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
            # Opened before anything is taken from this process.
            with log.open("w", buffering=1) as work, log.with_suffix(".error").open("w") as error:
                try:
                    job = self._logging(work)
                    self.prepare()
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

    def before_each_block(self, what: Callable[[Sequence[Request]], object]) -> Job:
        """The same build, in which something happens before the model begins a block."""
        extract = self.engine.extract
        watched = (WatchedStream if isinstance(extract, Stream) else Watched)(extract, what)
        return replace(self, engine=replace(self.engine, extract=watched))

    def _logging(self, work: IO[str]) -> Job:
        """The same, noting each block and each shard when it is begun."""
        write = shards.write_described

        def writing(place: Any, name: str, parts: Any) -> Any:
            work.write(f"shard {name}\n")
            return write(place, name, parts)

        shards.write_described = writing
        return self.before_each_block(lambda requests: work.write(f"block {requests[0].id}\n"))


def end_with_parent() -> None:
    """Leave no build behind when the campaign is killed; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Work:
    """What a build has begun, in its order: blocks by the id of their first example, shards by their file."""

    blocks: list[str]
    shards: list[str]

    @classmethod
    def of(cls, log: Path) -> Work:
        """What the log of a build says, as far as it came."""
        whole = log.read_text().rpartition("\n")[0] if log.exists() else ""
        lines = [line.split() for line in whole.splitlines()]
        begun = {kind: [name for what, name in lines if what == kind] for kind in ("block", "shard")}
        return cls(begun["block"], begun["shard"])


def wait(child: int) -> int:
    """The exit status of a child, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def ended(child: int) -> bool:
    """Whether a child has ended; its status is still to be had."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def real_job(folder: Path, rows: int = 48) -> Job:
    """Gemma 3 270M over the first rows of the built-in WinoGrande, in blocks of 8."""
    import torch

    from wif_store.extract.engine import open_engine

    # A child waits for ever for OpenMP's threads that its parent had: this process never starts any.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    path = folder / "builtin.jsonl"
    found = load_source(TASK, "builtin").candidates[:rows]
    path.write_text("".join(json.dumps({n: c.row[n] for n in TASK.fields}) + "\n" for c in found))
    protocol = TASK.protocol("aligned")
    engine = open_engine("gemma3-270m", protocol, sequence_layers="3,7,11,14,17", device="cpu", block=BLOCK)
    settings = Settings(TASK, protocol, per_class=None)
    return Job(load_source(TASK, str(path)), engine, settings, partial(torch.set_num_threads, threads))


def made_up_job(folder: Path, rows: int = 48, *, d_model: int = 16, block: int = 8) -> Job:
    """An engine that makes its records up, over rows that are made up too."""
    path = tiny.write_rows(folder / "rows.jsonl", tiny.rows(rows))
    engine = fake_engine(block=block, d_model=d_model)
    engine = replace(engine, extract=MadeUpStream(engine.extract))
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
