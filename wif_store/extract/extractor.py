"""The extractor: requests in, numpy records out. It never sees a store."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from wif_store.extract.batching import BatchLimits, pad, plan_batches, positions
from wif_store.extract.choices import score_shared, score_whole, whole_sequences
from wif_store.extract.residuals import Capture, check_finite, hooked, to_numpy
from wif_store.extract.tokenize import Encoded, Encoder
from wif_store.records import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wif_store.extract.model import Model
    from wif_store.tasks.base import Protocol, Request


@dataclass(slots=True)
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

    @torch.inference_mode()
    def __call__(self, requests: Sequence[Request]) -> list[Record]:
        """Run one block of requests; the records come back in their order.

        Raises:
            SourceError: If a request cannot be encoded.
            ResidualError: If a residual is NaN or infinite.
        """
        model = self.model
        encode = Encoder(model.tokenizer, self.protocol, model.context_length, chat=self.chat)
        block = encode(requests)
        records: dict[int, Record] = {}
        scores: dict[int, np.ndarray] = {}
        for batch in plan_batches([e.cost for e in block], self.limits):
            self._score(block, batch, scores, records)
        if self.protocol.site == "prompt":
            for batch in plan_batches([len(e.read or ()) for e in block], self.limits):
                self._read_prompts(block, batch, scores, records)
        return [records[i] for i in range(len(block))]

    def _score(
        self,
        block: list[Encoded],
        batch: list[int],
        scores: dict[int, np.ndarray],
        records: dict[int, Record],
    ) -> None:
        examples = [block[i] for i in batch]
        # Where the preferred sequence is read, it has to be run whole.
        shared = self.protocol.site != "preferred" and all(e.shared for e in examples)
        texts = [e.contexts[0] for e in examples] if shared else whole_sequences(examples)
        padded = pad(texts, self.model.device, left=True)
        capture = Capture(self.layers, self.sequence_layers, padded.mask)
        apart = self.protocol.site == "prompt"
        reading = nullcontext() if apart else hooked(self.model, capture)
        found = (score_shared if shared else score_whole)(self.model, examples, padded, reading)
        rows, first = [], 0
        for i, example, logprobs in zip(batch, examples, found, strict=True):
            scores[i] = self._scale(example, logprobs)
            rows.append(first if shared else first + int(np.argmax(scores[i])))
            first += 1 if shared else len(example.contexts)
        if not apart:
            self._keep(block, batch, capture, rows, [texts[row] for row in rows], scores, records)

    def _read_prompts(
        self,
        block: list[Encoded],
        batch: list[int],
        scores: dict[int, np.ndarray],
        records: dict[int, Record],
    ) -> None:
        prompts = [block[i].read or [] for i in batch]
        padded = pad(prompts, self.model.device, left=True)
        capture = Capture(self.layers, self.sequence_layers, padded.mask)
        with hooked(self.model, capture):
            self.model.decoder(
                input_ids=padded.ids,
                attention_mask=padded.mask,
                position_ids=positions(padded.mask),
                use_cache=False,
            )
        self._keep(block, batch, capture, list(range(len(batch))), prompts, scores, records)

    def _scale(self, example: Encoded, logprobs: np.ndarray) -> np.ndarray:
        if not self.protocol.scale_by_length:
            return logprobs
        # A mean over the n - 1 predicted tokens of an n-token sequence, times n.
        lengths = np.array(
            [len(c) + len(t) for c, t in zip(example.contexts, example.continuations, strict=True)]
        )
        return np.asarray(logprobs * lengths / (lengths - 1))

    def _keep(
        self,
        block: list[Encoded],
        batch: list[int],
        capture: Capture,
        rows: list[int],
        tokens: list[list[int]],
        scores: dict[int, np.ndarray],
        records: dict[int, Record],
    ) -> None:
        final, sequences = capture.rows(rows)
        names = [block[i].request.id for i in batch]
        check_finite(final, self.layers, names)
        finals = to_numpy(final)
        for n, i in enumerate(batch):
            check_finite(sequences[n][:, None], self.sequence_layers, names[n : n + 1])
            example, answer = block[i], int(np.argmax(scores[i]))
            records[i] = Record(
                id=example.request.id,
                logprobs=scores[i],
                choice_tokens=np.array([len(t) for t in example.continuations], dtype=np.int32),
                prediction=answer,
                prompt=example.request.prompt or example.texts[answer],
                cut=example.cut,
                cost=example.cost + len(example.read or ()),
                token_ids=np.array(tokens[n], dtype=np.int32),
                final_token=finals[:, n],
                sequence=to_numpy(sequences[n]),
            )
