"""Who does a build's work: the seam between what is to be done and the threads, or machines, that do it.

Workers have two verbs. ``scan`` pulls blocks from an iterator when somebody is free, so that the job of a
block carries what is known when it is given out, and yields what came of them in any order. ``write`` writes
a shard while the scan goes on. Neither order nor number of workers changes a byte of the store. Jobs and
outcomes are small and can be pickled. Residuals go from the extractor to the journal, and then to shards.
"""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from wif_store.builder.blocks import Judged
from wif_store.builder.shards import Shard, ShardJob, write_shard
from wif_store.processors import processors
from wif_store.records import Lengths, Stream

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from wif_store.builder.journal import Journal
    from wif_store.builder.selection import Keep
    from wif_store.format.schema import Int64
    from wif_store.records import Extract, Record
    from wif_store.tasks.base import Request
    from wif_store.tasks.judges import Judge

MOST_THREADS: Final = 8
"""That encode chunks."""


@dataclass(frozen=True, slots=True)
class BlockJob:
    """One block to extract and to journal.

    Attributes:
        name: Which one it is.
        requests: What the model is asked.
        judges: Who says of each whether the answer is right.
        keep: Says which residuals may be kept, by what is known when the job is given out.
    """

    name: str
    requests: tuple[Request, ...]
    judges: tuple[Judge, ...]
    keep: Keep

    def judged(self, records: Sequence[Record]) -> list[Judged]:
        """What the judges say of its records."""
        return [Judged.by(judge, record) for judge, record in zip(self.judges, records, strict=True)]

    def journal(self, records: list[Record], judged: Sequence[Judged], journal: Journal) -> None:
        """Write its records down and let go of them: durable, and the list empty, once this returns."""
        journal.blocks.write(self.name, records, judged, self.keep.wanted(j.success for j in judged))
        records.clear()
        _return_memory()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a block.

    Attributes:
        name: Which one it is.
        prediction: int64 ``[n]``.
        success: bool ``[n]``, whether the answers are right.
        mass: float64 ``[n]``, the probability mass of the scored answers.
        cost: Tokens that the model ran.
        batch_tokens: How many tokens a batch had at most, where batches as planned did not fit into
            memory; else 0.
    """

    name: str
    prediction: Int64
    success: np.ndarray
    mass: np.ndarray
    cost: int
    batch_tokens: int

    @classmethod
    def of(cls, job: BlockJob, records: Sequence[Record], judged: Sequence[Judged]) -> Outcome:
        """The outcome of a job, from its records."""
        predictions = np.array([r.prediction for r in records])
        success = np.array([j.success for j in judged])
        mass = np.array([r.answer_mass for r in records])
        cost = sum(r.cost for r in records)
        return cls(job.name, predictions, success, mass, cost, records[0].batch_tokens)


class Workers(AbstractContextManager["Workers"], Protocol):
    """Do the work of a build. Leaving the context waits for what was begun and ends them."""

    def scan(self, jobs: Iterator[BlockJob], journal: Journal) -> Generator[Outcome, None, None]:
        """Extract and journal blocks; those that were yielded are durable."""
        ...

    def write(self, job: ShardJob, journal: Journal) -> Future[Shard]:
        """Write a shard of blocks whose outcomes were yielded."""
        ...

    def too_long(self, requests: Sequence[Request]) -> list[bool]:
        """For each request, whether it is longer than the model's context."""
        ...


class LocalWorkers:
    """This process: one thread journals blocks and one writes shards while the next block is extracted."""

    def __init__(self, extract: Extract) -> None:
        self._extract = extract
        self._threads = min(MOST_THREADS, processors())
        self._journals = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._writers = ThreadPoolExecutor(1, thread_name_prefix="shard")
        self._encoders = ThreadPoolExecutor(self._threads, thread_name_prefix="encode")

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(self, *error: object) -> None:
        # Shards first: they wait for encoders.
        for pool in (self._journals, self._writers, self._encoders):
            pool.shutdown(wait=True, cancel_futures=True)

    def scan(self, jobs: Iterator[BlockJob], journal: Journal) -> Generator[Outcome, None, None]:
        """Extract in this thread, and journal the block before in another."""
        pending: deque[tuple[Outcome, Future[None]]] = deque()
        try:
            for job, records in self._extracted(jobs):
                judged = job.judged(records)
                outcome = Outcome.of(job, records, judged)
                pending.append((outcome, self._journals.submit(job.journal, records, judged, journal)))
                # At most one block waits for its journal, so that few records are held.
                while len(pending) > 1 or (pending and pending[0][1].done()):
                    yield _durable(*pending.popleft())
            while pending:
                yield _durable(*pending.popleft())
        finally:
            # Nothing may be written into a journal that is gone by then.
            wait([journalled for _, journalled in pending])

    def write(self, job: ShardJob, journal: Journal) -> Future[Shard]:
        """Write a shard in another thread."""
        return self._writers.submit(write_shard, job, journal, self._encoders, 2 * self._threads)

    def too_long(self, requests: Sequence[Request]) -> list[bool]:
        """For each request, whether it is longer than the model's context."""
        if not isinstance(self._extract, Lengths):
            return [False] * len(requests)
        return self._extract.too_long(requests)

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


def _durable(outcome: Outcome, journalled: Future[None]) -> Outcome:
    journalled.result()
    return outcome


def _return_memory() -> None:
    """Return free memory to the system: glibc keeps it, in pieces of other sizes than a block wants next."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:
            trim(0)
