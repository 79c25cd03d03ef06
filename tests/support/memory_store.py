"""A store held in memory, with a planted direction or with nothing to find."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wif_store.format.schema import SPLITS, Example, Float32, Int8, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class MemoryStore:
    task: str
    manifest: Manifest
    d_model: int
    layers: tuple[int, ...]
    sequence_layers: tuple[int, ...]
    all_examples: list[Example]
    residuals: dict[int, list[Float32]]

    def __len__(self) -> int:
        return len(self.all_examples)

    def rows(self, split: str | None = None) -> slice:
        held = [row for row, example in enumerate(self.all_examples) if split in (None, example.split)]
        return slice(held[0], held[-1] + 1) if held else slice(0, 0)

    def examples(self, split: str | None = None) -> list[Example]:
        return self.all_examples[self.rows(split)]

    def array(self, name: str, split: str | None = None) -> npt.NDArray[Any]:
        assert name == "success"
        return np.array([example.success for example in self.examples(split)], dtype=np.int8)

    def read_final_token(self, layer: int, split: str | None = None) -> tuple[Float32, Int8]:
        held = list(self.iter_sequences(layer, split))
        last = np.array([tokens[-1] for tokens in held], dtype=np.float32).reshape(len(held), self.d_model)
        return last, self.array("success", split)

    def iter_sequences(self, layer: int, split: str | None = None) -> Iterator[Float32]:
        yield from self.residuals[layer][self.rows(split)]


def memory_store(
    task: str = "piqa",
    n: int = 400,
    d_model: int = 8,
    layers: tuple[int, ...] = (0, 1, 2),
    strength: float = 0.0,
    confidence: float = 0.0,
    seed: int = 0,
) -> MemoryStore:
    """Make a balanced store, split 50/25/25.

    ``strength`` pushes every token of layer ``l`` along one direction by ``strength * l`` times the
    label; ``confidence`` does the same to the margin of the choices.
    """
    rng = np.random.default_rng(seed)
    success = rng.permutation(np.arange(n) % 2)
    # Each class is divided by itself, as a build does it.
    place = np.empty(n, dtype=int)
    for label in (0, 1):
        held = np.flatnonzero(success == label)
        place[held] = np.repeat([0, 1, 2], [len(held) // 2, len(held) // 4, len(held) - len(held) * 3 // 4])
    order = np.argsort(place, kind="stable")
    direction = np.random.default_rng(99).normal(size=d_model)
    direction /= np.linalg.norm(direction)
    lengths = rng.integers(2, 7, size=n)
    words = ("alpha", "beta", "gamma", "delta", "epsilon")
    examples, residuals = [], {layer: [] for layer in layers}
    for row in order:
        label, length = int(success[row]), int(lengths[row])
        gold = int(rng.integers(2))
        prediction = gold if label else 1 - gold
        margin = abs(rng.normal(1.0) + confidence * (label - 0.5))
        examples.append(
            Example(
                id=f"{task}-{row:05d}",
                task=task,
                split=SPLITS[place[row]],
                source_row=int(row),
                prompt=" ".join(rng.choice(words, size=length)),
                choices=("yes", "no"),
                gold=gold,
                prediction=prediction,
                success=label,
                choice_logprobs=(0.0, -margin) if prediction == 0 else (-margin, 0.0),
                choice_tokens=(1, 1),
                final_token_position=length - 1,
                token_ids=rng.integers(100, size=length).astype(np.int32),
            )
        )
        for layer in layers:
            tokens = rng.normal(size=(length, d_model)) + strength * layer * (label - 0.5) * direction
            residuals[layer].append(tokens.astype(np.float32))
    splits = {s: {"success": sum(e.success for e in examples if e.split == s)} for s in SPLITS}
    manifest = Manifest(
        task=task,
        protocol={"name": "aligned", "version": 1},
        model={"id": "toy/model", "revision": "0" * 40},
        source={},
        selection={"seed": seed},
        splits=splits,
        audit={},
        batching={},
        versions={},
        files={},
    )
    return MemoryStore(task, manifest, d_model, layers, layers, examples, residuals)
