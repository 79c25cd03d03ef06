"""A store's residuals are what plain transformers gives under forward hooks, one prompt at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tests.support import tiny
from tests.support.builds import TASK, settings
from wif_store.builder.pipeline import build_store
from wif_store.extract.checkpoint import locate
from wif_store.extract.engine import open_engine
from wif_store.format.schema import SPLITS
from wif_store.store.reader import open_store
from wif_store.tasks.rows import BUILTIN, load_source

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

MODEL = "gemma3-270m"
ROWS = 64
EXAMPLES = 4
"""Of each split, spread over it."""


class Hooked:
    """transformers as it comes, which keeps what its decoder layers give."""

    def __init__(self, path: str) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.seen: dict[int, np.ndarray] = {}
        for layer, module in enumerate(self.model.get_decoder().layers):
            module.register_forward_hook(lambda _, __, output, layer=layer: self._keep(layer, output))

    def _keep(self, layer: int, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        value = output[0] if isinstance(output, tuple) else output
        self.seen[layer] = value.reshape(-1, value.shape[-1]).numpy()

    @torch.inference_mode()
    def read(self, token_ids: np.ndarray) -> dict[int, np.ndarray]:
        """Of each layer float32 ``[tokens, d_model]``."""
        self.seen = {}
        self.model(torch.from_numpy(token_ids.astype(np.int64))[None])
        return self.seen


def distance(stored: np.ndarray, read: np.ndarray) -> float:
    """The largest relative L2 distance of a vector."""
    return float((np.linalg.norm(stored - read, axis=-1) / np.linalg.norm(read, axis=-1)).max())


def test_residuals_are_those_of_plain_hooks(tmp_path: Path) -> None:
    engine = open_engine(MODEL, TASK.protocol("aligned"), sequence_layers="3,11", dtype="float32")
    some = load_source(TASK, BUILTIN).candidates[:ROWS]
    rows = tiny.write_rows(tmp_path / "rows.jsonl", [dict(candidate.row) for candidate in some])
    build_store(settings(), load_source(TASK, str(rows)), engine, tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    hooked = Hooked(locate(MODEL).path)
    for split in SPLITS:
        examples = store.examples(split)
        for row in np.linspace(0, len(examples) - 1, EXAMPLES).astype(int):
            final, sequences = store.read_example(split, int(row))
            read = hooked.read(examples[row].token_ids)
            assert distance(final, np.stack([read[layer][-1] for layer in store.layers])) < 1e-4
            assert distance(sequences, np.stack([read[layer] for layer in store.sequence_layers])) < 1e-4
