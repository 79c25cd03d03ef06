"""Answers that a model writes: transformers' own ``generate``, in batches, cut where the answer ends."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from wif_store.extract.transfer import to_device
from wif_store.records import Written

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wif_store.extract.batch import Around
    from wif_store.extract.batching import BatchLimits
    from wif_store.extract.model import Model
    from wif_store.extract.tokenize import Encoded
    from wif_store.tasks.base import Generation

CACHED: Final = 16
"""Tokens whose keys and values a batch may keep, for each token that a forward pass may have."""
MOST_ROWS: Final = 64
"""Answers that are written together, at most."""
FIRST_ROUND: Final = 16
"""Tokens that every answer gets before those that are not at their end go on among themselves."""


@dataclass(slots=True)
class _Row:
    """One answer that is being written: the prompt it belongs to, which of its answers, its tokens so far."""

    prompt: int
    sample: int
    tokens: list[int]
    written: list[int]


@dataclass
class Writer:
    """Has a model write the answers to encoded prompts.

    Attributes:
        model: The loaded model.
        generation: How it writes.
        limits: How large one forward pass may be.
        around: What is entered around each call of ``generate``; see the extractor.
    """

    model: Model
    generation: Generation
    limits: BatchLimits
    around: Around | None = None

    def __post_init__(self) -> None:
        # The tokens that end an answer: those that the model names, and the tokenizer's own.
        named = self.model.causal_lm.generation_config.eos_token_id
        named = [named] if isinstance(named, int) else list(named or [])
        end = self.model.tokenizer.eos_token_id
        self._ends: list[int] = named if end is None or end in named else [*named, end]

    def __call__(self, encoded: Sequence[Encoded]) -> list[Encoded]:
        """The prompts with the answers as their continuations.

        Answers are written in rounds, each twice as long as the one before it: a batch is as slow as its
        longest answer, and most are short. Batches are made of these prompts alone, in the order of their
        lengths, so that the same prompts get the same answers wherever a build was resumed.
        """
        rows = [
            _Row(number, sample, one.contexts[0], [])
            for number, one in enumerate(encoded)
            for sample in range(self.generation.samples)
        ]
        # Each round reads its prompts again, which has to be worth it.
        waiting, size = rows, max(FIRST_ROUND, max(len(row.tokens) for row in rows) // 4)
        while waiting:
            for batch in self._batches(waiting, size):
                names = [f"{encoded[row.prompt].request.id}\0{row.sample}" for row in batch]
                self._write(batch, min(size, self.generation.max_new_tokens - len(batch[0].written)), names)
            waiting = [row for row in waiting if not self._ended(row.written)]
            size *= 2
        answers: list[list[tuple[list[int], str, str]]] = [[] for _ in encoded]
        for row in rows:
            answers[row.prompt].append(self._cut(row.written))
        return [_answered(one, found) for one, found in zip(encoded, answers, strict=True)]

    def _batches(self, rows: Sequence[_Row], size: int) -> Iterator[list[_Row]]:
        """Rows that are written together: the longest last."""
        room, batch = CACHED * self.limits.tokens, list[_Row]()
        most = min(MOST_ROWS, self.limits.examples)
        for row in sorted(rows, key=lambda row: len(row.tokens) + len(row.written)):
            each = len(row.tokens) + len(row.written) + size
            if batch and (len(batch) == most or (len(batch) + 1) * each > room):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _write(self, batch: Sequence[_Row], count: int, names: Sequence[str]) -> None:
        """Have some rows go on by so many tokens, or to their end."""
        prompts = [row.tokens + row.written for row in batch]
        width = max(map(len, prompts))
        table = np.zeros((2, len(prompts), width), np.int64)
        for number, tokens in enumerate(prompts):
            table[:, number, width - len(tokens) :] = tokens, [1] * len(tokens)
        stop = _AtStop(self.model.tokenizer, self.generation, [len(row.tokens) for row in batch], table[1])
        ids, mask = to_device(table, self.model.device)
        # All have written as much so far, so their prompts end in one column.
        owner = torch.tensor([row.prompt for row in batch], device=self.model.device)
        ends = width * torch.arange(1, len(batch) + 1, device=self.model.device) - len(batch[0].written) - 1
        with (
            torch.inference_mode(),
            self._plainly(),
            self._seeded(names, len(batch[0].written)),
            self.around(ends, owner) if self.around else nullcontext(),
        ):
            output = self.model.causal_lm.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=self._config(count),
                stopping_criteria=StoppingCriteriaList([stop]),
            )
        for row, tokens in zip(batch, output[:, width:].tolist(), strict=True):
            row.written += tokens

    def _ended(self, written: list[int]) -> bool:
        """Whether an answer is at its end."""
        return len(written) >= self.generation.max_new_tokens or self._cut(written)[2] == "stop"

    def _config(self, count: int) -> Any:
        """What ``generate`` is to do: nothing but what the task decides."""
        draws = self.generation.temperature > 0
        # Each is left out where it does not apply: a value without a use is warned of.
        drawing = {"temperature": self.generation.temperature, "top_k": 0, "top_p": 1.0} if draws else {}
        return GenerationConfig(
            do_sample=draws,
            max_new_tokens=count,
            pad_token_id=self._ends[0] if self._ends else 0,
            eos_token_id=self._ends or None,
            **drawing,
        )

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """Inside, ``generate`` finds no configuration of the model's own to fill up what it is given.

        Some models come with penalties and beams, which do not take the likeliest token.
        """
        causal_lm = self.model.causal_lm
        own, causal_lm.generation_config = causal_lm.generation_config, GenerationConfig()
        try:
            yield
        finally:
            causal_lm.generation_config = own

    def _cut(self, tokens: list[int]) -> tuple[list[int], str, str]:
        """The tokens of an answer, its text, and why it ended.

        Tokens are kept as far as they have some of the text: a token that begins in the answer and goes on
        into the stop string is the answer's last.
        """
        end = next((i for i, token in enumerate(tokens) if token in self._ends), None)
        reason = "length" if end is None else "stop"
        tokens = tokens[:end]
        whole = text = self._text(tokens)
        for stop in filter(None, self.generation.stop):
            text = text.split(stop)[0]
        if text != whole:
            reason = "stop"
            # Lengths would not do: a part of a character is a sign of its own.
            kept = bisect_left(
                range(len(tokens) + 1), True, key=lambda n: self._text(tokens[:n]).startswith(text)
            )
            tokens = tokens[:kept]
        return tokens, text, reason

    def _text(self, tokens: list[int]) -> str:
        return str(self.model.tokenizer.decode(tokens, skip_special_tokens=True))

    @contextmanager
    def _seeded(self, names: Sequence[str], done: int) -> Iterator[None]:
        """Inside, what is drawn depends on the seed, on the examples and on how far they are, alone."""
        device = self.model.device
        text = "\0".join([str(self.generation.seed), str(done), *names])
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield


def _answered(one: Encoded, answers: Sequence[tuple[list[int], str, str]]) -> Encoded:
    """A prompt with its answers, of which the first is read."""
    tokens, text, reason = answers[0]
    written = Written(text, reason, tuple(other for _, other, _ in answers[1:]))
    return replace(one, continuations=(tokens,), written=written)


class _AtStop(StoppingCriteria):
    """Ends a row once what it wrote holds a stop string.

    Args:
        tokenizer: Of the model.
        generation: How it writes.
        prompts: Tokens of the prompt of each row.
        mask: 1 where a row has tokens, before anything is written: ``[rows, width]``.
    """

    def __init__(
        self, tokenizer: Any, generation: Generation, prompts: Sequence[int], mask: np.ndarray
    ) -> None:
        self._tokenizer = tokenizer
        self._starts = (mask.argmax(1) + np.array(prompts)).tolist()
        self._stop = [stop for stop in generation.stop if stop]
        # A stop string that ends at the newest token begins at most so many tokens before it.
        self._tail = 8 + max((len(stop) for stop in self._stop), default=0)

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        if not self._stop:
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        tail = input_ids.shape[1] - self._tail
        written = [row[max(start, tail) :] for row, start in zip(input_ids, self._starts, strict=True)]
        texts = self._tokenizer.batch_decode(written, skip_special_tokens=True)
        done = [any(stop in text for stop in self._stop) for text in texts]
        return torch.tensor(done, device=input_ids.device)
