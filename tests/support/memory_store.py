"""A store held in memory, with a planted direction or with nothing to find."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wif_store.format.schema import SPLITS, Choice, Example, Float32, Int8, Manifest

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

    def success(self, split: str | None = None) -> Int8:
        return np.array([example.success for example in self.examples(split)], dtype=np.int8)

    def column(self, name: str, split: str | None = None) -> npt.NDArray[Any]:
        return np.array([getattr(example, name) for example in self.examples(split)], dtype=object)

    def read_final_token(self, layer: int, split: str | None = None) -> tuple[Float32, Int8]:
        held = list(self.iter_sequences(layer, split))
        last = np.array([tokens[-1] for tokens in held], dtype=np.float32).reshape(len(held), self.d_model)
        return last, self.success(split)

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
    """Make a store as a build does: half of ``n`` in train, a quarter in each other split, classes in turns.

    ``strength`` pushes every token of layer ``l`` along one direction by ``strength * l`` times the
    label; ``confidence`` does the same to the margin of the choices. Every group has two examples.
    """
    rng = np.random.default_rng(seed)
    quarter = n // 8 * 2
    sizes = dict(zip(SPLITS, (n // 2 - n // 2 % 2, quarter, quarter), strict=True))
    direction = np.random.default_rng(99).normal(size=d_model)
    direction /= np.linalg.norm(direction)
    words = ("alpha", "beta", "gamma", "delta", "epsilon")
    examples, residuals = [], {layer: [] for layer in layers}
    for split, size in sizes.items():
        for row in range(size):
            label, length, gold = int(row % 2 == 0), int(rng.integers(2, 7)), int(rng.integers(2))
            prediction = gold if label else 1 - gold
            margin = abs(rng.normal(1.0) + confidence * (label - 0.5))
            examples.append(
                Example(
                    id=f"{task}-{len(examples):05d}",
                    task=task,
                    group=f"{split}-{row // 2}",
                    split=split,
                    source_row=len(examples),
                    prompt=" ".join(rng.choice(words, size=length)),
                    success=label,
                    tokens=length,
                    final_token_position=length - 1,
                    cut_tokens=0,
                    token_ids=rng.integers(100, size=length).astype(np.int32),
                    choice=Choice(
                        choices=("yes", "no"),
                        gold=gold,
                        prediction=prediction,
                        choice_logprobs=(0.0, -margin) if prediction == 0 else (-margin, 0.0),
                        choice_tokens=(1, 1),
                    ),
                )
            )
            for layer in layers:
                tokens = rng.normal(size=(length, d_model)) + strength * layer * (label - 0.5) * direction
                residuals[layer].append(tokens.astype(np.float32))
    manifest = Manifest(
        task=task,
        outcome="choice",
        protocol={"name": "aligned", "version": 1},
        model={"id": "toy/model", "kind": "hub", "revision": "0" * 40, "d_model": d_model},
        source={},
        selection={"seed": seed},
        splits={split: {"examples": size} for split, size in sizes.items()},
        layers={"final_token": list(layers), "sequence": list(layers)},
        sites={"final_token": "the last token"},
        audit={},
        batching={},
        versions={},
        files={},
    )
    return MemoryStore(task, manifest, d_model, layers, layers, examples, residuals)
