"""Compare a store's residuals with independent readings of the same tokens, one prompt at a time.

    python -m benchmarks.residuals STORE --model gemma3-270m --examples 50

Reads ``--examples`` examples, spread over the store, with plain ``transformers`` and forward hooks, and with
TransformerLens (``blocks.{l}.hook_resid_post``) where it is installed (``requirements/peers.txt``), in the
store's own dtype. Prints the relative L2 distance per vector: largest and median, per layer kind.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benchmarks.peers.published_loop import load_model
from wif_store import open_store
from wif_store.extract.model import DTYPES, locate

Read = Callable[[torch.Tensor], dict[int, np.ndarray]]


def hooked(path: str, dtype: torch.dtype) -> Read:
    """Plain transformers: the outputs of the blocks, by forward hooks."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
    seen: dict[int, np.ndarray] = {}

    def hook(layer: int) -> Callable[..., None]:
        def keep(module: object, inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
            value = output[0] if isinstance(output, tuple) else output
            seen[layer] = value[0].float().numpy()

        return keep

    for layer, block in enumerate(model.model.layers):
        block.register_forward_hook(hook(layer))

    def read(ids: torch.Tensor) -> dict[int, np.ndarray]:
        seen.clear()
        model(ids)
        return dict(seen)

    return read


def transformer_lens(path: str, name: str, dtype: torch.dtype) -> Read | None:
    """TransformerLens over the same weights, unprocessed; None where it is not installed."""
    try:
        model = load_model(path, name, dtype)
    except ImportError:
        return None

    def read(ids: torch.Tensor) -> dict[int, np.ndarray]:
        _, cache = model.run_with_cache(ids, names_filter=lambda n: n.endswith("hook_resid_post"))
        return {
            layer: cache[f"blocks.{layer}.hook_resid_post"][0].float().numpy()
            for layer in range(model.cfg.n_layers)
        }

    return read


def distance(stored: np.ndarray, read: np.ndarray) -> np.ndarray:
    """Relative L2 distance of each vector."""
    return np.linalg.norm(stored - read, axis=-1) / np.linalg.norm(read, axis=-1)


@torch.inference_mode()
def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--examples", type=int, default=50)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    store = open_store(args.store)
    dtype = DTYPES[store.manifest.model["dtype"]]
    path = locate(args.model).path
    rows = np.linspace(0, len(store) - 1, args.examples).astype(int)
    examples = store.examples()
    final = {layer: store.read_final_token(layer)[0][rows] for layer in store.layers}
    sequences = {
        layer: [s for i, s in enumerate(store.iter_sequences(layer)) if i in set(rows.tolist())]
        for layer in store.sequence_layers
    }
    readers = {
        "transformers": hooked(path, dtype),
        "TransformerLens": transformer_lens(path, args.model, dtype),
    }
    print(f"{args.store}: {len(rows)} examples, {store.manifest.model['dtype']}")
    print("| against | what | vectors | largest | median |")
    print("|---|---|---|---|---|")
    results = []
    for name, reader in readers.items():
        if reader is None:
            print(f"| {name} | not installed, not run | | | |")
            continue
        found: dict[str, list[np.ndarray]] = {"final token, all layers": [], "sequences": []}
        for n, row in enumerate(rows):
            read = reader(torch.from_numpy(examples[row].token_ids.astype(np.int64))[None])
            for layer in store.layers:
                found["final token, all layers"].append(distance(final[layer][n], read[layer][-1])[None])
            for layer in store.sequence_layers:
                found["sequences"].append(distance(sequences[layer][n], read[layer]))
        for what, parts in found.items():
            values = np.concatenate(parts)
            results.append({"against": name, "what": what, "largest": float(values.max())})
            print(f"| {name} | {what} | {len(values)} | {values.max():.1e} | {np.median(values):.1e} |")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
