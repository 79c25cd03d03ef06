"""Count the answers that change with the batch size, and how near a tie each of them was.

    python benchmarks/batch_sizes.py --task winogrande --source builtin --limit 256

Runs the same examples in batches of 1, 7 and 32, in float32 and in bfloat16. In float32 no answer may change
(exit status 1 if one does); in bfloat16 each that does is listed with its margin, in nats, at batch size 1,
beside how far batching alone moves any example's margin.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from wif_store.extract.engine import open_engine
from wif_store.builder.selection import visit_order
from wif_store.tasks.rows import load_source
from wif_store.tasks import get_task

SIZES = (1, 7, 32)


def leads(logprobs: np.ndarray) -> np.ndarray:
    """Nats by which the first choice leads the best of the others."""
    lead: np.ndarray = logprobs[:, 0] - logprobs[:, 1:].max(1)
    return lead


def main() -> None:
    """Run every size in both dtypes and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", default="winogrande")
    parser.add_argument("--source", default="builtin")
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--limit", type=int, default=256)
    args = parser.parse_args()
    task = get_task(args.task)
    protocol = task.protocol("aligned")
    candidates = visit_order(load_source(task, args.source).candidates, 0)[: args.limit]
    requests = [task.request(c, protocol) for c in candidates]
    failed = False
    print("| dtype | batch size | examples | changed | their margins | margin moves: median, largest |")
    print("|---|---|---|---|---|---|")
    for dtype in ("float32", "bfloat16"):
        alone = None
        for size in SIZES:
            engine = open_engine(
                args.model,
                protocol,
                layers="0",
                sequence_layers="none",
                dtype=dtype,
                batch_tokens=4096,
                batch_size=size,
            )
            logprobs = np.array([r.logprobs for r in engine.extract(requests)])
            alone = logprobs if alone is None else alone
            changed = np.flatnonzero(logprobs.argmax(1) != alone.argmax(1))
            failed |= dtype == "float32" and len(changed) > 0
            near = ", ".join(f"{m:.3f}" for m in np.abs(leads(alone[changed]))) or "none"
            # How far batching alone moves a margin says which margins are ties in this dtype.
            moves = np.abs(leads(logprobs) - leads(alone))
            print(
                f"| {dtype} | {size} | {len(logprobs)} | {len(changed)} | {near} "
                f"| {np.median(moves):.1e}, {moves.max():.1e} |",
                flush=True,
            )
    sys.exit(failed)


if __name__ == "__main__":
    main()
