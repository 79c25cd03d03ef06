"""Small SAEs saved by SAELens itself, and a store whose residuals are made of few features."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.support.stores import MODEL, ROWS, MadeUp
from wif_store.builder.pipeline import Settings, build_store
from wif_store.records import Engine
from wif_store.tasks import get_task
from wif_store.tasks.rows import load_source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wif_store.records import Record
    from wif_store.tasks.base import Request

WIDTH = 32
FEATURES = 48
ACTIVE = 3
LAYERS = (1, 3)
"""Those of which the store has sequences."""


def save_sae(
    folder: Path,
    architecture: str = "standard",
    *,
    d_in: int = 16,
    d_sae: int = 24,
    hook: str | None = "blocks.1.hook_resid_post",
    model: str | None = "made/up",
    **config: Any,
) -> Any:
    """Save an SAE with random weights; returns it as SAELens has it."""
    import torch

    from wif_store.sae.library import SAE

    metadata = {"model_name": model, "hook_name": hook}
    config = {"architecture": architecture, "d_in": d_in, "d_sae": d_sae, "metadata": metadata, **config}
    sae = SAE.from_dict(config)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in sae.named_parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=random))
            if name == "threshold":
                weight.abs_()
    sae.save_model(folder)
    return sae


def residuals(count: int = 50, width: int = 16) -> np.ndarray:
    """float32 ``[count, width]``."""
    return np.random.default_rng(1).standard_normal((count, width)).astype(np.float32)


class Planted(MadeUp):
    """Sequences in which every token is a mean and a few features, but the first: that is far larger."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers, len(LAYERS), WIDTH, 40, 0)
        random = np.random.default_rng(0)
        self.features = random.standard_normal((FEATURES, WIDTH))
        self.features /= np.linalg.norm(self.features, axis=1, keepdims=True)
        self.mean = random.standard_normal(WIDTH)

    def __call__(self, requests: Sequence[Request]) -> list[Record]:
        return [self._planted(record) for record in super().__call__(requests)]

    def _planted(self, record: Record) -> Record:
        random = np.random.default_rng(list(record.id.encode()))
        sequence = np.empty(record.sequence.shape, np.float32)
        for token in sequence.reshape(-1, WIDTH):
            chosen = random.choice(FEATURES, ACTIVE, replace=False)
            token[:] = self.mean + random.uniform(2, 5, ACTIVE) @ self.features[chosen]
        sequence[:, 0] = 100 * self.mean
        final = np.repeat(sequence[:1, -1], len(record.final_token), axis=0)
        for row, layer in enumerate(LAYERS):
            final[layer] = sequence[row, -1]
        return dataclasses.replace(record, sequence=sequence, final_token=final)


def planted_store(out: Path, per_class: int = 300) -> Path:
    """Build a store of such sequences."""
    rows = out.with_name("rows.jsonl")
    lines = [json.dumps(ROWS["winogrande"](i)) + "\n" for i in range(4 * per_class)]
    rows.write_text("".join(lines))
    task = get_task("winogrande")
    engine = Engine(
        extract=Planted(4),
        model={**MODEL, "n_layers": 4, "d_model": WIDTH, "dtype": "float32"},
        batching={"examples": 64, "tokens": 4096},
        versions={"made-up": "1"},
        layers=(0, 1, 2, 3),
        sequence_layers=LAYERS,
        d_model=WIDTH,
    )
    settings = Settings(task, task.protocol("aligned"), per_class, seed=0)
    build_store(settings, load_source(task, str(rows)), engine, out)
    return out
