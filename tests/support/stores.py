"""Small synthetic stores, written by the real build with an engine that makes its residuals up."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from wif_store.builder.pipeline import Settings, build_store
from wif_store.format.schema import SPLITS
from wif_store.records import Engine, Record
from wif_store.store.reader import open_store
from wif_store.tasks import get_task
from wif_store.tasks.rows import load_source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from wif_store.format.schema import Example
    from wif_store.tasks.base import Request

ROWS = {
    "winogrande": lambda i: {
        "sentence": f"Cup {i} did not fit the case because the _ was small.",
        "option1": f"cup {i}",
        "option2": f"case {i}",
        "answer": "12"[i % 2],
    },
    "boolq": lambda i: {"question": f"is {i} even", "passage": f"Here is {i}.", "answer": i % 2 == 0},
    "piqa": lambda i: {"goal": f"Fill cup {i}", "sol1": "pour water", "sol2": "pour sand", "label": i % 2},
    "social_i_qa": lambda i: {
        "context": f"Kim gave Lou {i} cups.",
        "question": "What will Lou do?",
        "answerA": "thank Kim",
        "answerB": "run",
        "answerC": "sleep",
        "label": "123"[i % 3],
    },
}
MODEL = {
    "kind": "hub",
    "id": "google/gemma-2-2b",
    "revision": "0123456789abcdef0123456789abcdef01234567",
    "tokenizer": "GemmaTokenizer",
    "tokenizer_revision": "0123456789abcdef0123456789abcdef01234567",
    "architecture": "Gemma2ForCausalLM",
    "dtype": "bfloat16",
    "attention": "eager",
    "device": "cpu",
    "chat_template": False,
}


class MadeUp:
    """Answers by hash; bfloat16 residuals that depend on the id alone and compress about as real ones do.

    With a signal, successes lie so many standard deviations from the middle along one direction, and failures
    as many to the other side: in the middle layers, and less so in those before and after.
    """

    def __init__(
        self,
        layers: int,
        sequence_layers: int,
        d_model: int,
        tokens: int,
        seed: int,
        gold: Mapping[str, int] | None = None,
        signal: float = 0.0,
    ) -> None:
        self.shape, self.tokens, self.seed = (layers, sequence_layers, d_model), tokens, seed
        self.gold = gold or {}
        self.signal = signal * np.sin(np.pi * (np.arange(layers) + 1) / (layers + 1))[:, None] * d_model**-0.5

    def __call__(self, requests: Sequence[Request]) -> list[Record]:
        return [self._record(request) for request in requests]

    def _record(self, request: Request) -> Record:
        digest = hashlib.sha256(f"{self.seed}:{request.id}".encode()).digest()
        random = np.random.default_rng(list(digest))
        layers, sequence_layers, d_model = self.shape
        length = 3 + digest[0] % self.tokens
        prediction = digest[1] % len(request.pairs)
        logprobs = -1.0 - random.random(len(request.pairs))
        logprobs[prediction] = -0.5
        success = prediction == self.gold.get(request.id)
        final = _bfloat16(random, (layers, d_model), self.signal if success else -self.signal)
        sequence = _bfloat16(random, (sequence_layers, length, d_model))
        for i in range(sequence_layers):
            sequence[i, -1] = final[i * layers // sequence_layers]
        return Record(
            id=request.id,
            logprobs=logprobs,
            choice_tokens=np.full(len(request.pairs), 2, np.int32),
            prediction=prediction,
            prompt=request.prompt or "".join(request.pairs[prediction]),
            cut=0,
            token_ids=np.arange(length, dtype=np.int32),
            final_token=final,
            sequence=sequence,
            cost=length,
        )


def _bfloat16(random: np.random.Generator, shape: tuple[int, ...], shift: Any = 0.0) -> np.ndarray:
    values = (random.standard_normal(shape, np.float32) + shift) * np.exp2(np.arange(shape[-1]) % 7)
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def make_store(
    out: Path,
    task: str = "winogrande",
    *,
    per_class: int = 16,
    layers: int = 4,
    sequence_layers: int = 2,
    d_model: int = 64,
    tokens: int = 6,
    seed: int = 0,
    signal: float = 0.0,
    **model: Any,
) -> Path:
    """Build a store of ``2 * per_class`` made-up examples; ``model`` changes what it says of the model."""
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = out.with_name(f"{task}.rows.jsonl")
    rows.write_text("".join(json.dumps(ROWS[task](i)) + "\n" for i in range(8 * per_class + 40)))
    definition = get_task(task)
    source = load_source(definition, str(rows))
    gold = {candidate.id: candidate.gold for candidate in source.candidates}
    engine = Engine(
        extract=MadeUp(layers, sequence_layers, d_model, tokens, seed, gold, signal),
        model={**MODEL, "n_layers": layers, "d_model": d_model, **model},
        batching={"examples": 64, "tokens": 4096},
        versions={"made-up": "1"},
        layers=tuple(range(layers)),
        sequence_layers=tuple(i * layers // sequence_layers for i in range(sequence_layers)),
        d_model=d_model,
    )
    settings = Settings(definition, definition.protocol("aligned"), per_class, seed=seed)
    build_store(settings, source, engine, out)
    return out


def read_all(path: Path) -> list[Example]:
    """Everything that the reader reads; the examples of all splits."""
    store = open_store(path)
    for split in SPLITS:
        for layer in store.layers:
            store.read_final_token(layer, split)
        for layer in store.sequence_layers:
            list(store.iter_sequences(layer, split))
            store.read_sequences(layer, split)
        store.examples(split)
        store.table(split)
    return store.examples()
