"""A tiny model whose answer one direction decides, beside another one that only goes with it.

Its layers add nothing, so the residual stream is the embedding of the token. The last token of a prompt says
yes or no along one direction, which the head reads. Along another it says so too, but nothing reads that.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.support import tiny

if TYPE_CHECKING:
    from pathlib import Path

SWITCH, BYSTANDER = 0, 1
"""The channels of the two directions."""
WIDTH = 32


@dataclass(frozen=True)
class Planted:
    """Where the model and its rows are, and the two directions, float32 ``[32]``."""

    model: Path
    rows: Path
    switch: np.ndarray
    bystander: np.ndarray


def plant(folder: Path, count: int = 400) -> Planted:
    """Make the model and its rows: it answers yes or no, and yes is right."""
    model = tiny.save_model("llama", folder / "model")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    yes, no = (tokenizer(f" {word}", add_special_tokens=False).input_ids[0] for word in ("yes", "no"))
    random = np.random.default_rng(0)

    def changed(weights: dict[str, Any]) -> dict[str, Any]:
        import torch

        for name, weight in weights.items():
            if "o_proj" in name or "down_proj" in name:
                weight.zero_()
            elif "norm" in name:
                weight.fill_(1)
        tokens = random.standard_normal((512, WIDTH))
        side = random.choice([-1.0, 1.0], 512)
        tokens[:, SWITCH], tokens[:, BYSTANDER] = side, side + random.standard_normal(512) / 2
        head = random.standard_normal((512, WIDTH))
        head[:, [SWITCH, BYSTANDER]] = 0
        head[[yes, no]] = 0
        head[yes, SWITCH], head[no, SWITCH] = 1, -1
        weights["model.embed_tokens.weight"].copy_(torch.from_numpy(tokens))
        weights["lm_head.weight"].copy_(torch.from_numpy(head))
        return weights

    tiny.change_weights(model, changed)
    ends = [token for token in range(3, 512) if len(tokenizer.decode([token]).strip()) == 1]
    lines = []
    for i in range(count):
        end = tokenizer.decode([ends[i % len(ends)]]).strip()
        lines.append({"prompt": f"question {i} {end}", "choices": ["yes", "no"], "gold": 0})
    rows = tiny.write_rows(folder / "rows.jsonl", lines)
    directions = np.eye(WIDTH, dtype=np.float32)[[SWITCH, BYSTANDER]]
    for name, direction in zip(("switch", "bystander"), directions, strict=True):
        np.save(folder / f"{name}.npy", direction)
    (folder / "planted.json").write_text(json.dumps({"yes": yes, "no": no}))
    return Planted(model, rows, *directions)
