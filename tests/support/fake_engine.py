"""An engine without a model: records made from each request's id, the same on every call."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field

import numpy as np

from wif_store.records import Engine, Record


@dataclass
class FakeExtract:
    """Answers by chance, each block after so many ``seconds``; ``calls`` are the blocks it has run."""

    layers: int
    sequence_layers: int
    d_model: int
    seconds: float = 0.0
    calls: list = field(default_factory=list)

    def __call__(self, requests):
        self.calls.append([r.id for r in requests])
        time.sleep(self.seconds)
        return [self.record(r) for r in requests]

    def record(self, request):
        rng = np.random.default_rng(list(hashlib.sha256(request.id.encode()).digest()[:8]))
        length = int(rng.integers(3, 40))
        logprobs = -10 * rng.random(len(request.pairs))
        sequence = (rng.standard_normal((self.sequence_layers, length, self.d_model)) * 10).astype(np.float32)
        bits = (sequence.view(np.uint32) >> 16).astype(np.uint16)
        final = rng.standard_normal((self.layers, self.d_model)).astype(np.float32)
        final_bits = (final.view(np.uint32) >> 16).astype(np.uint16)
        if self.sequence_layers:
            final_bits[: self.sequence_layers] = bits[:, -1]
        return Record(
            id=request.id,
            logprobs=logprobs,
            choice_tokens=rng.integers(1, 9, len(request.pairs)).astype(np.int32),
            prediction=int(logprobs.argmax()),
            prompt=request.prompt or request.pairs[0][0],
            cut=0,
            cost=length,
            token_ids=rng.integers(0, 1000, length).astype(np.int32),
            final_token=final_bits,
            sequence=bits,
        )


def fake_engine(*, layers=3, sequence_layers=2, d_model=16, seconds=0.0) -> Engine:
    """An engine whose residuals of the first layers' final tokens end their sequences."""
    return Engine(
        extract=FakeExtract(layers, sequence_layers, d_model, seconds),
        model={
            "id": "made/up",
            "kind": "fake",
            "revision": "0",
            "architecture": "None",
            "dtype": "bfloat16",
            "device": "cpu",
            "n_layers": layers,
            "d_model": d_model,
        },
        batching={"tokens": 1, "examples": 1},
        versions={"numpy": np.__version__},
        layers=tuple(range(layers)),
        sequence_layers=tuple(range(sequence_layers)),
        d_model=d_model,
    )
