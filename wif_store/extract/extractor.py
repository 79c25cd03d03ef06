"""The extractor: requests in, numpy records out. It never sees a store."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from wif_store.extract.batching import BatchLimits, plan_flights
from wif_store.extract.jobs import Job, plan
from wif_store.extract.residuals import Capture, check_finite
from wif_store.extract.tokenize import Encoder
from wif_store.extract.transfer import Side, to_device, to_numpy
from wif_store.extract.trees import pad
from wif_store.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    import numpy.typing as npt

    from wif_store.extract.model import Model
    from wif_store.tasks.base import Protocol, Request


@dataclass(frozen=True, slots=True)
class Batch:
    """A forward pass: its jobs, the block's records at ``places``, and what was read of it."""

    jobs: list[Job]
    places: list[int]
    capture: Capture


@dataclass(frozen=True, slots=True)
class Flight:
    """Batches that are on the device and were scored together.

    ``records`` are the block's. ``log_probs`` are those of all scored tokens, float32; ``mark`` is where the
    main stream has computed everything.
    """

    batches: list[Batch]
    records: list[Record | None]
    log_probs: torch.Tensor
    mark: torch.cuda.Event | None


@dataclass
class Extractor:
    """Scores choices and reads residuals with one model under one protocol.

    Attributes:
        model: The loaded model.
        protocol: What is scored and where residuals are read.
        layers: The 0-based blocks whose final-token residual is read.
        sequence_layers: The blocks whose residual is read at every token.
        limits: How large one forward pass may be.
        chat: Wrap the context in the tokenizer's chat template.
    """

    model: Model
    protocol: Protocol
    layers: Sequence[int]
    sequence_layers: Sequence[int]
    limits: BatchLimits
    chat: bool = False

    @cached_property
    def encoder(self) -> Encoder:
        """Texts to tokens."""
        return Encoder(self.model.tokenizer, self.protocol, self.model.context_length, chat=self.chat)

    @cached_property
    def _side(self) -> Side:
        return Side(self.model.device)

    def __call__(self, requests: Sequence[Request]) -> list[Record]:
        """Run one block of requests; the records come back in their order.

        Raises:
            SourceError: If a request cannot be encoded.
            ResidualError: If a residual is NaN or infinite.
        """
        [records] = self.stream([requests])
        return records

    def stream(self, blocks: Iterable[Sequence[Request]]) -> Iterator[list[Record]]:
        """Run block after block: the next one is planned, and on CUDA begun, before one is given back.

        Raises:
            SourceError: If a request cannot be encoded.
            ResidualError: If a residual is NaN or infinite.
        """
        with (
            ThreadPoolExecutor(1, thread_name_prefix="plan") as planning,
            ThreadPoolExecutor(1, thread_name_prefix="land") as landing,
        ):
            yield from self._run(_ahead(planning, self._plan, blocks), landing)

    def _plan(self, requests: Sequence[Request]) -> list[Job]:
        trees = self.model.decoder.trees
        return [plan(encoded, self.protocol, trees=trees) for encoded in self.encoder(requests)]

    @torch.inference_mode()
    def _run(self, blocks: Iterator[list[Job]], landing: ThreadPoolExecutor) -> Iterator[list[Record]]:
        """On a GPU the next flights are launched while another thread takes one off; a CPU does one thing."""
        begun: deque[list[Record | None]] = deque()
        flying: deque[Future[None]] = deque()
        for jobs in blocks:
            records: list[Record | None] = [None] * len(jobs)
            begun.append(records)
            lengths, states = [len(job) for job in jobs], [len(job.node) for job in jobs]
            # Of one block alone: where a build was resumed must not show in its numbers.
            for batches in plan_flights(lengths, states, self.limits):
                if self._side.depth:
                    flying.append(landing.submit(self._land, self._launch(jobs, batches, records)))
                else:
                    self._land(self._launch(jobs, batches, records))
                while len(flying) > self._side.depth:
                    flying.popleft().result()
                # Not after all flights of this one: what is not given back is not journalled either.
                yield from _finished(begun)
            yield from _finished(begun)
        while flying:
            flying.popleft().result()
            yield from _finished(begun)

    def _launch(self, jobs: list[Job], batches: list[list[int]], records: list[Record | None]) -> Flight:
        """Start forward passes and score them; nothing here waits for the device."""
        passed, states = [], []
        for places in batches:
            batch, scored = self._forward([jobs[i] for i in places], places)
            passed.append(batch)
            states.append(scored)
        order = [job for batch in passed for job in batch.jobs]
        starts = _starts(len(job.node) for job in order)
        place = np.concatenate([start + job.place for start, job in zip(starts, order, strict=True)])
        tokens = np.concatenate([job.token for job in order])
        log_probs = self.model.head.log_probs(torch.cat(states), place, tokens)
        return Flight(passed, records, log_probs, self._side.mark())

    def _forward(self, jobs: list[Job], places: list[int]) -> tuple[Batch, torch.Tensor]:
        """One forward pass, and the states of it that predict scored tokens."""
        rows = pad([tree for job in jobs for tree in job.trees], self.model.device)
        starts = _starts(map(len, jobs))
        ends = [start + path[-1] for start, job in zip(starts, jobs, strict=True) for path in job.readings]
        nodes = np.concatenate([start + job.node for start, job in zip(starts, jobs, strict=True)])
        capture = Capture(self.layers, self.sequence_layers, rows.nodes[self._index(ends)], rows.nodes)
        everywhere = len(self.model.blocks) - 1 in self.sequence_layers
        read = rows.nodes if everywhere else rows.nodes[self._index(np.union1d(nodes, ends))]
        with capture.reading(self.model.blocks):
            states = self.model.decoder.states(rows, read).flatten(0, 1)
        return Batch(jobs, places, capture), states[rows.nodes[self._index(nodes)]]

    @torch.inference_mode()
    def _land(self, flight: Flight) -> None:
        """Bring a flight to the host: the answers first, for they may say what is read."""
        with self._side.after(flight.mark):
            log_probs = self._side.to_host(flight.log_probs).double().numpy()
            sizes = [sum(len(job.token) for job in batch.jobs) for batch in flight.batches]
            parts = np.split(log_probs, np.cumsum(sizes)[:-1])
            for batch, part in zip(flight.batches, parts, strict=True):
                for place, record in zip(batch.places, self._records(batch, part), strict=True):
                    flight.records[place] = record

    def _records(self, batch: Batch, log_probs: npt.NDArray[np.float64]) -> Iterator[Record]:
        """What came of a batch, of whose scored tokens the log-probabilities are here."""
        jobs = batch.jobs
        by_job = np.split(log_probs, np.cumsum([len(job.token) for job in jobs])[:-1])
        scores = [
            np.bincount(job.choice, part, len(job.factor)) * job.factor
            for job, part in zip(jobs, by_job, strict=True)
        ]
        answers = [int(np.argmax(s)) for s in scores]
        readings = [job.reading(answer) for job, answer in zip(jobs, answers, strict=True)]
        reads = [job.readings[reading] for job, reading in zip(jobs, readings, strict=True)]
        ends = _starts(len(job.readings) for job in jobs) + readings
        nodes = np.concatenate([s + r for s, r in zip(_starts(map(len, jobs)), reads, strict=True)])
        final = batch.capture.final_tokens(self._index(ends))
        sequences = batch.capture.sequences(self._index(nodes))
        names = [job.encoded.request.id for job in jobs]
        check_finite(final, self.layers, [1] * len(jobs), names)
        check_finite(sequences, self.sequence_layers, [len(r) for r in reads], names)
        finals = to_numpy(self._side.to_host(final))
        parts = np.split(
            to_numpy(self._side.to_host(sequences)), np.cumsum([len(r) for r in reads])[:-1], axis=1
        )
        for n, job in enumerate(jobs):
            encoded = job.encoded
            yield Record(
                id=encoded.request.id,
                logprobs=scores[n],
                choice_tokens=np.array([len(t) for t in encoded.continuations], dtype=np.int32),
                prediction=answers[n],
                prompt=encoded.request.prompt or encoded.texts[answers[n]],
                cut=encoded.cut,
                cost=len(job),
                token_ids=job.tokens(reads[n]),
                final_token=finals[:, n],
                sequence=parts[n],
            )

    def _index(self, values: Sequence[int] | npt.NDArray[np.int64]) -> torch.Tensor:
        return to_device(np.asarray(values, dtype=np.int64), self.model.device)


def _ahead(
    pool: ThreadPoolExecutor,
    prepare: Callable[[Sequence[Request]], list[Job]],
    blocks: Iterable[Sequence[Request]],
) -> Iterator[list[Job]]:
    """Prepare each block while the one before it is used."""
    prepared: Future[list[Job]] | None = None
    for requests in blocks:
        following = pool.submit(prepare, requests)
        if prepared is not None:
            yield prepared.result()
        prepared = following
    if prepared is not None:
        yield prepared.result()


def _finished(begun: deque[list[Record | None]]) -> Iterator[list[Record]]:
    """Blocks whose records are all there, in their order."""
    while begun and all(record is not None for record in begun[0]):
        yield [record for record in begun.popleft() if record is not None]


def _starts(lengths: Iterable[int]) -> npt.NDArray[np.int64]:
    """Where each of things of these lengths begins when they are laid end to end."""
    return np.cumsum([0, *lengths])[:-1]
