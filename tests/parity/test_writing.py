"""How far are the residuals of one pass over prompt and answer from the states that ``generate`` computed?

The embedded model, real questions, float32. The states of ``generate`` come from a cache, a token at a time.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from wif_store.extract.engine import open_engine
from wif_store.records import widen
from wif_store.tasks.base import Request
from wif_store.tasks.own_rows import PROTOCOLS

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

LAYERS = (0, 5, 9, 13, 17)
PLACES = ("Kenya", "Norway", "Peru", "Japan", "Egypt", "Cuba", "Greece", "Chile")


def states_of_generate(
    model: Any, tokens: list[int], count: int
) -> tuple[list[int], dict[int, list[np.ndarray]]]:
    """What a plain ``generate`` writes, and of each layer the residual at the last token of each step."""
    found: dict[int, list[np.ndarray]] = {layer: [] for layer in LAYERS}

    def hook(layer: int) -> Any:
        def read(module: Any, inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            found[layer].append(hidden[0, -1].float().numpy())

        return read

    handles = [model.layers[layer].register_forward_hook(hook(layer)) for layer in LAYERS]
    try:
        with torch.inference_mode():
            output = model.causal_lm.generate(
                input_ids=torch.tensor([tokens]), max_new_tokens=count, do_sample=False, eos_token_id=None
            )
    finally:
        for handle in handles:
            handle.remove()
    return output[0, len(tokens) :].tolist(), found


def distances(dtype: str) -> Iterator[float]:
    """Relative L2 of each residual that is stored to the state that ``generate`` computed."""
    [protocol, _] = PROTOCOLS["targets"]
    engine = open_engine("gemma3-270m", protocol, layers="0", sequence_layers="0,5,9,13,17", dtype=dtype)
    requests = [Request(p, ((f"Q: What is the capital of {p}?\nA:", ""),)) for p in PLACES]
    for record in engine.extract(requests):
        written = int(record.choice_tokens[0])
        prompt = len(record.token_ids) - written
        tokens = record.token_ids.tolist()
        model = engine.extract.model  # type: ignore[attr-defined]
        again, states = states_of_generate(model, tokens[:prompt], written + 1)
        # In bfloat16 two tokens may change places; from there on it is another text.
        pairs = zip(again, tokens[prompt:], strict=False)
        same = 1 + sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        for row, layer in enumerate(LAYERS):
            stored = widen(record.sequence[row])[prompt - 1 :][:same]
            for here, there in zip(stored, states[layer], strict=False):
                yield float(np.linalg.norm(here - there) / np.linalg.norm(there))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-4), ("bfloat16", 0.2)])
def test_the_residuals_of_one_pass_are_near_the_states_of_generate(dtype: str, most: float) -> None:
    found = np.array(list(distances(dtype)))
    print(f"{dtype}: {len(found)} residuals, largest {found.max():.1e}, median {np.median(found):.1e}")
    assert len(found) > 100
    assert found.max() < most
