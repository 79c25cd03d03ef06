"""The extractor: requests in, numpy records out. It never sees a store."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wif_store.extract.batch import Batch, BatchGroup
from wif_store.extract.batching import BatchLimits, plan_batch_groups, starts, within
from wif_store.extract.chat_template import ChatTemplate
from wif_store.extract.hooks import Capture, check_finite
from wif_store.extract.memory import is_out_of_memory, memory_errors
from wif_store.extract.streaming import ahead, finished, halved
from wif_store.extract.tokenize import Encoder
from wif_store.extract.transfer import SideStream, to_device, to_numpy
from wif_store.extract.trees import pad
from wif_store.extract.work import Work, plan_work
from wif_store.extract.writing import Writer
from wif_store.records import Record, Written

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

    import numpy.typing as npt

    from wif_store.extract.batch import Around
    from wif_store.extract.model import Model
    from wif_store.extract.tokenize import Encoded
    from wif_store.extract.trees import Rows
    from wif_store.format.schema import Float32
    from wif_store.tasks.base import Protocol, Request


@dataclass
class Extractor:
    """Scores choices and reads residuals with one model under one protocol.

    Attributes:
        model: The loaded model.
        protocol: What is scored and where residuals are read.
        layers: The 0-based decoder layers whose final-token residual is read.
        sequence_layers: The decoder layers whose residual is read at every token.
        limits: How large one forward pass may be.
        template: The arguments of the tokenizer's chat template, in which contexts are wrapped; None for no
            chat template.
        around: What is entered around every forward pass, to change what the model computes.
    """

    model: Model
    protocol: Protocol
    layers: Sequence[int]
    sequence_layers: Sequence[int]
    limits: BatchLimits
    template: Mapping[str, Any] | None = None
    around: Around | None = None

    @cached_property
    def chat_template(self) -> ChatTemplate | None:
        """The chat template with its arguments, if there is one."""
        return None if self.template is None else ChatTemplate(self.model.tokenizer, self.template)

    @cached_property
    def encoder(self) -> Encoder:
        """Texts to tokens."""
        return Encoder(
            self.model.tokenizer,
            self.protocol,
            context_length=self.model.context_length,
            vocabulary=self.model.vocabulary,
            template=self.chat_template,
        )

    @cached_property
    def _side(self) -> SideStream:
        return SideStream(self.model.device)

    def __call__(self, requests: Sequence[Request]) -> list[Record]:
        """Run one block of requests; the records come back in their order.

        Raises:
            SourceError: If a request cannot be encoded.
            ModelError: If a batch does not fit into memory, or a text has tokens that the model does not
                know.
            ResidualError: If a residual is NaN or infinite.
        """
        [records] = self.stream([requests])
        return records

    def check(self) -> None:
        """See whether the tokenizer suits the protocol, which a first block would show too.

        Raises:
            ModelError: If it does not suit any protocol.
            TaskError: If it does not suit this one.
        """
        _ = self.encoder

    def too_long(self, requests: Sequence[Request]) -> list[bool]:
        """Of each request, whether it is longer than the model reads. Nothing is run.

        Raises:
            SourceError: If a request cannot be encoded.
        """
        return [self.encoder.too_long(one) for one in self.encoder.encode(requests)]

    def stream(self, blocks: Iterable[Sequence[Request]]) -> Iterator[list[Record]]:
        """Run block after block: the next one is encoded, and on CUDA begun, before one is given back.

        Raises:
            SourceError: If a request cannot be encoded.
            ModelError: If a batch does not fit into memory, or a text has tokens that the model does not
                know.
            ResidualError: If a residual is NaN or infinite.
        """
        advice = f"pass --batch-tokens below {self.limits.tokens}, or leave long texts out"
        with (
            ThreadPoolExecutor(1, thread_name_prefix="encode") as encoding,
            ThreadPoolExecutor(1, thread_name_prefix="collect") as collecting,
            memory_errors("a batch", advice),
        ):
            if self.protocol.generation:
                # In this thread, for the hooks that read a batch would see what the model writes.
                works: Iterator[list[Work]] = map(self.plan, blocks)
            else:
                works = ahead(encoding, self.plan, blocks)
            yield from self._run(works, collecting)

    def read(self, encoded: Sequence[Encoded]) -> list[Record]:
        """Score and read what is encoded already, as one block: nothing is written.

        Raises:
            ModelError: If a batch does not fit into memory.
            ResidualError: If a residual is NaN or infinite.
        """
        return self.run([plan_work(one, self.protocol, self.model.decoder) for one in encoded])

    def run(self, works: list[Work]) -> list[Record]:
        """Score and read what is planned already, as one block.

        Raises:
            ModelError: If a batch does not fit into memory.
            ResidualError: If a residual is NaN or infinite.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="collect") as collecting:
            return [record for block in self._run(iter([works]), collecting) for record in block]

    def plan(self, requests: Sequence[Request]) -> list[Work]:
        """Lay out a block of requests. What the model writes, it writes here.

        Raises:
            SourceError: If a request cannot be encoded.
            ModelError: If a text has tokens that the model does not know.
        """
        encoded = self.encoder(requests)
        if self.protocol.generation:
            encoded = Writer(self.model, self.protocol.generation, self.limits, self.around)(encoded)
        return [plan_work(one, self.protocol, self.model.decoder) for one in encoded]

    @torch.inference_mode()
    def _run(self, blocks: Iterator[list[Work]], collecting: ThreadPoolExecutor) -> Iterator[list[Record]]:
        """On a GPU the next groups are launched while another thread copies one; a CPU does one thing."""
        begun: deque[list[Record | None]] = deque()
        on_device: deque[Future[None]] = deque()
        for works in blocks:
            records: list[Record | None] = [None] * len(works)
            begun.append(records)
            # Batches are made of one block alone, and each block begins with the same limits: where a build
            # was resumed must not show in its numbers.
            budget = self.limits.tokens
            lengths, states = [len(work) for work in works], [len(work.node) for work in works]
            while True:
                limits = replace(self.limits, tokens=budget)
                for batches in plan_batch_groups(lengths, states, limits):
                    if (group := self._fitting(works, batches, records, budget)) is None:
                        break
                    if self._side.depth:
                        on_device.append(collecting.submit(self._collect, group))
                    while len(on_device) > self._side.depth:
                        on_device.popleft().result()
                    # At once, not at the end of the block: what is not given back is not journalled either.
                    yield from finished(begun)
                else:
                    break
                # What was launched before still fills in records, also of blocks before this one.
                while on_device:
                    on_device.popleft().result()
                records[:] = [None] * len(works)
                yield from finished(begun)
                budget = halved(budget, [works[i] for batch in batches for i in batch])
            yield from finished(begun)
        while on_device:
            on_device.popleft().result()
            yield from finished(begun)

    def _fitting(
        self, works: list[Work], batches: list[list[int]], records: list[Record | None], budget: int
    ) -> BatchGroup | None:
        """Run batches that are scored together; None where they do not fit into memory."""
        try:
            group = self._launch(works, batches, records, budget)
            if not self._side.depth:
                self._collect(group)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return group
        # Only now, for the error held on to what was computed.
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _launch(
        self, works: list[Work], batches: list[list[int]], records: list[Record | None], budget: int
    ) -> BatchGroup:
        """Start forward passes and score them; nothing here waits for the device."""
        passed, states, contexts = [], [], []
        for indices in batches:
            batch, scored, ends = self._forward([works[i] for i in indices], indices)
            passed.append(batch)
            states.append(scored)
            contexts.append(ends)
        order = [work for batch in passed for work in batch.works]
        begins = starts(len(work.node) for work in order)
        row = np.concatenate([begin + work.row for begin, work in zip(begins, order, strict=True)])
        tokens = np.concatenate([work.token for work in order])
        log_probs = self.model.head.log_probs(torch.cat(states), row, tokens)
        smaller = budget if budget < self.limits.tokens else 0
        return BatchGroup(passed, records, log_probs, torch.cat(contexts), self._side.mark(), smaller)

    def _forward(self, works: list[Work], indices: list[int]) -> tuple[Batch, torch.Tensor, torch.Tensor]:
        """Run a batch; with the states of it that predict scored tokens, and those where contexts end.

        It is one forward pass, or two where the model computes long rows in another way than short ones.
        """
        trees = [(n, tree) for n, work in enumerate(works) for tree in work.trees]
        long = [self.model.decoder.is_long(max(tree.depth) + 1) for _, tree in trees]
        passes = [[i for i, is_long in enumerate(long) if is_long is kind] for kind in (False, True)]
        parts: list[list[npt.NDArray[np.int64]]] = [[] for _ in works]
        begins = np.zeros(len(trees), np.int64)
        order = [i for members in passes for i in members]
        begins[order] = starts(len(trees[i][1]) for i in order)
        for (n, tree), begin in zip(trees, begins, strict=True):
            parts[n].append(begin + np.arange(len(tree)))
        nodes = [np.concatenate(part) for part in parts]
        scored = np.concatenate([at[work.node] for at, work in zip(nodes, works, strict=True)])
        ends = [at[path[-1]] for at, work in zip(nodes, works, strict=True) for path in work.readings]
        ends += [at[w.prompt_end] for at, w in zip(nodes, works, strict=True) if w.prompt_end is not None]
        # Only who changes what the model computes asks for the states at the ends of contexts.
        asked = zip(nodes, works, strict=True) if self.around else ()
        context_ends = np.concatenate([np.empty(0, np.int64), *(at[w.context_ends] for at, w in asked)])
        batch = Batch(
            works,
            indices,
            nodes,
            np.unique(ends),
            np.sort(context_ends),
            Capture(self.layers, self.sequence_layers),
        )
        # The end of a context predicts a scored token, unless the answer is empty.
        wanted = np.union1d(scored, context_ends)
        states, first = [], 0
        for members in filter(None, passes):
            rows = pad([trees[i][1] for i in members], self.model.device)
            owner = np.array([indices[trees[i][0]] for i in members])
            states.append(self._pass(rows, batch, wanted, first, owner))
            first += len(rows.nodes)
        found = states[0] if len(states) == 1 else torch.cat(states)
        contexts = found[self._index(np.searchsorted(wanted, context_ends))]
        if not np.array_equal(wanted, scored):
            found = found[self._index(np.searchsorted(wanted, scored))]
        return batch, found, contexts

    def _pass(
        self,
        rows: Rows,
        batch: Batch,
        wanted: npt.NDArray[np.int64],
        first: int,
        owner: npt.NDArray[np.int64],
    ) -> torch.Tensor:
        """One forward pass over the tokens of a batch from ``first`` on: its states at those of ``wanted``.

        Args:
            rows: What is run.
            batch: The batch that it belongs to.
            wanted: int64, ascending: the tokens of the batch whose states are wanted.
            first: Which token of the batch is the first of ``rows``.
            owner: int64 ``[rows]``, which example of the block each row is of.
        """
        span = (first, first + len(rows.nodes))
        at, finals, ends = (within(v, *span) for v in (wanted, batch.finals, batch.context_ends))
        # Where sequences of the last layer are read, all of it must run.
        everywhere = len(self.model.layers) - 1 in self.sequence_layers
        read = rows.nodes if everywhere else rows.nodes[self._index(np.union1d(at, finals))]
        with (
            self._around(rows.nodes, ends, owner),
            batch.capture.reading(self.model.layers, rows.nodes[self._index(finals)], rows.nodes),
        ):
            states = self.model.decoder.states(rows, read).flatten(0, 1)
        return states[rows.nodes[self._index(at)]]

    def _around(
        self, nodes: torch.Tensor, ends: npt.NDArray[np.int64], owner: npt.NDArray[np.int64]
    ) -> AbstractContextManager[None]:
        if self.around is None:
            return nullcontext()
        return self.around(nodes[self._index(ends)], self._index(owner))

    @torch.inference_mode()
    def _collect(self, group: BatchGroup) -> None:
        """Bring what a group gave to the host: the answers first, for they may say what is read."""
        with self._side.after(group.mark):
            log_probs = self._side.to_host(group.log_probs).double().numpy()
            sizes = [sum(len(work.token) for work in batch.works) for batch in group.batches]
            parts = np.split(log_probs, np.cumsum(sizes)[:-1])
            ends = self._side.to_host(group.context_states).float().numpy()
            context_states = np.split(ends, np.cumsum([len(b.context_ends) for b in group.batches])[:-1])
            for batch, part, states in zip(group.batches, parts, context_states, strict=True):
                found = self._records(batch, part, states, group.batch_tokens)
                for index, record in zip(batch.indices, found, strict=True):
                    group.records[index] = record

    def _records(
        self, batch: Batch, log_probs: npt.NDArray[np.float64], context_states: Float32, batch_tokens: int
    ) -> Iterator[Record]:
        """The records of a batch, from the log-probabilities of its scored tokens."""
        works = batch.works
        by_work = np.split(log_probs, np.cumsum([len(work.token) for work in works])[:-1])
        scores = [
            np.bincount(work.choice, part, len(work.factor)) * work.factor
            for work, part in zip(works, by_work, strict=True)
        ]
        answers = [int(np.argmax(s)) for s in scores]
        reads = [work.readings[work.reading(answer)] for work, answer in zip(works, answers, strict=True)]
        read_at = [at[read] for at, read in zip(batch.nodes, reads, strict=True)]
        final = self._vectors(batch, [at[-1] for at in read_at])
        sequences = batch.capture.sequences(self._index(np.concatenate(read_at)))
        names = [work.encoded.request.id for work in works]
        lengths = [len(read) for read in reads]
        check_finite(final, self.layers, [1] * len(works), names)
        check_finite(sequences, self.sequence_layers, lengths, names)
        finals = to_numpy(self._side.to_host(final))
        prompt_ends = None
        if self.protocol.site == "response":
            # Where the answer is empty, the prompt's last token is the final one too.
            at = [nodes[work.prompt_end] for nodes, work in zip(batch.nodes, works, strict=True)]
            prompt_ends = to_numpy(self._side.to_host(self._vectors(batch, at)))
        parts = np.split(to_numpy(self._side.to_host(sequences)), np.cumsum(lengths)[:-1], axis=1)
        ends = np.split(context_states, np.cumsum([len(work.context_ends) for work in works])[:-1])
        for n, work in enumerate(works):
            encoded = work.encoded
            yield Record(
                id=encoded.request.id,
                logprobs=scores[n],
                choice_tokens=np.array([len(t) for t in encoded.continuations], dtype=np.int32),
                prediction=answers[n],
                prompt=encoded.request.prompt or encoded.texts[answers[n]],
                cut=encoded.cut,
                cost=len(work),
                token_ids=work.tokens(reads[n]),
                final_token=finals[:, n],
                sequence=parts[n],
                answer_mass=work.answer_mass(scores[n]),
                prompt_end=None if prompt_ends is None else prompt_ends[:, n],
                written=_with_likelihood(encoded.written, by_work[n]),
                context_states=ends[n],
                batch_tokens=batch_tokens,
            )

    def _vectors(self, batch: Batch, nodes: npt.ArrayLike) -> torch.Tensor:
        """``[layers, n, d_model]`` at some of the nodes that may be read at every layer."""
        return batch.capture.final_tokens(self._index(np.searchsorted(batch.finals, nodes)))

    def _index(self, values: npt.ArrayLike) -> torch.Tensor:
        return to_device(np.asarray(values, dtype=np.int64), self.model.device)


def _with_likelihood(written: Written | None, log_probs: npt.NDArray[np.float64]) -> Written | None:
    """A response with what its tokens say of it."""
    return None if written is None else replace(written, least_logprob=float(log_probs.min(initial=0.0)))
