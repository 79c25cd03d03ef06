"""Who does a build's work: the seam between what is to be done and the threads, or machines, that do it.

A crew has two verbs. It pulls jobs from an iterator when somebody is free, so that a job carries what is
known when it is given out, and yields what came of them in any order; neither order nor number of workers
changes a byte of the store. Jobs and outcomes are small and can be pickled. Residuals go from whoever
extracts them to the journal, and from there to the shards, and never through whoever leads.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from wif_store.builder.helpers import Helpers
from wif_store.records import Stream
from wif_store.builder.shards import Shard, ShardJob, write_shards

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from wif_store.builder.journal import Journal
    from wif_store.records import Extract, Record
    from wif_store.format.schema import Int64
    from wif_store.builder.selection import Keep
    from wif_store.tasks.base import Request

MOST_THREADS: Final = 4
MOST_HELPERS: Final = 8
MANY_CORES: Final = 8
"""Cores from which on threads that encode hinder each other more than they help."""


@dataclass(frozen=True, slots=True)
class BlockJob:
    """One block to extract and to journal.

    Attributes:
        number: Its place in visit order.
        requests: What the model is asked.
        gold: The right choice of each.
        keep: Says which residuals may be wanted, by what is known when the job is given out.
    """

    number: int
    requests: tuple[Request, ...]
    gold: tuple[int, ...]
    keep: Keep

    def journal(self, records: list[Record], journal: Journal) -> None:
        """Write its records down and let go of them: durable, and the list empty, once this returns."""
        outcomes = [r.prediction == gold for r, gold in zip(records, self.gold, strict=True)]
        journal.blocks.write(self.number, records, self.keep.wanted(outcomes))
        records.clear()
        _give_back()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a block.

    Attributes:
        number: Its place in visit order.
        prediction: int64 ``[n]``.
        cost: Tokens that the model ran.
    """

    number: int
    prediction: Int64
    cost: int

    @classmethod
    def of(cls, job: BlockJob, records: Sequence[Record]) -> Outcome:
        """The outcome of a job, from its records."""
        return cls(job.number, np.array([r.prediction for r in records]), sum(r.cost for r in records))


class Workers(Protocol):
    """Does the work of a build. Both generators are closed when the build ends, however it ends."""

    def scan(self, jobs: Iterator[BlockJob], journal: Journal) -> Generator[Outcome, None, None]:
        """Extract and journal blocks. All that were yielded are durable when the iterator ends."""
        ...

    def write(self, jobs: Iterator[ShardJob], journal: Journal) -> Generator[Shard, None, None]:
        """Write shards, each by one worker."""
        ...


class LocalWorkers:
    """This process: journals a block while it extracts the next, and encodes a shard's chunks in threads.

    Used as a context, it has helpers write the shards where there are many cores; they start while it scans.
    """

    def __init__(self, extract: Extract, cores: int | None = None) -> None:
        self._extract = extract
        self._cores = cores or os.cpu_count() or 1
        self._helpers: Helpers | None = None

    def __enter__(self) -> LocalWorkers:
        # Elsewhere a process is not safely forked.
        if self._cores >= MANY_CORES and sys.platform == "linux":
            self._helpers = Helpers(min(MOST_HELPERS, self._cores // 2))
        return self

    def __exit__(self, *error: object) -> None:
        if self._helpers:
            self._helpers.end()

    def scan(self, jobs: Iterator[BlockJob], journal: Journal) -> Generator[Outcome, None, None]:
        """Extract in this thread; journal in others: one block at a time, or two where cores are many."""
        most = 2 if self._cores >= MANY_CORES else 1
        with ThreadPoolExecutor(most, thread_name_prefix="journal") as pool:
            pending: deque[Future[None]] = deque()
            try:
                for job, records in self._extracted(jobs):
                    if len(pending) == most:
                        pending.popleft().result()
                    outcome = Outcome.of(job, records)
                    pending.append(pool.submit(job.journal, records, journal))
                    yield outcome
            finally:
                # Whatever ends the scan, what was yielded is durable, or an error.
                for journalled in pending:
                    journalled.result()

    def _extracted(self, jobs: Iterator[BlockJob]) -> Iterator[tuple[BlockJob, list[Record]]]:
        """Each job with its records; the next ones may be under way."""
        if not isinstance(self._extract, Stream):
            yield from ((job, self._extract(job.requests)) for job in jobs)
            return
        taken: deque[BlockJob] = deque()

        def requests() -> Iterator[Sequence[Request]]:
            for job in jobs:
                taken.append(job)
                yield job.requests

        for records in self._extract.stream(requests()):
            yield taken.popleft(), records
            del records

    def write(self, jobs: Iterator[ShardJob], journal: Journal) -> Generator[Shard, None, None]:
        """Write shards, one after the other where there are no helpers."""
        # They know the build by its folder; an object store may be this process's own.
        if self._helpers and journal.out.renames:
            return self._helpers.write(str(journal.out), jobs)
        return write_shards(journal, jobs, min(MOST_THREADS, self._cores))


def _give_back() -> None:
    """Return free memory to the system: glibc keeps it, in pieces of other sizes than a block wants next."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:
            trim(0)
