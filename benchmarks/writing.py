"""The writing half of a build alone: a journal that is there already -> shards, metadata and manifest.

    python -m benchmarks.writing [--folder DIR]

Journals examples of 150 tokens, 5 layers of sequences and 18 of final tokens, 640 wide, whose values are made
up and compress about as Gemma 3's do, and has the store written in a process of its own: MB of raw bfloat16 a
second of clock and of one core's time, everything included (reading, checksums, SHA-256, fsync); what it is
for encoding alone; and the memory that process came to hold. Sizes take turns; medians are printed. It takes
2 GB of disk a thousand examples.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wif_store.format.chunks import ChunkEncoder
from wif_store.builder.journal import Journal
from wif_store.records import Record
from wif_store.builder.shards import write_shards
from wif_store.builder.writer import Kept, StoreWriter

if TYPE_CHECKING:
    from collections.abc import Callable

LAYERS, SEQUENCE_LAYERS, D_MODEL, TOKENS, BLOCK = 18, 5, 640, 150, 256
HEADER = {
    **{name: {} for name in ("source", "selection", "audit", "batching", "versions")},
    "task": "made up",
    "protocol": {"name": "none", "version": 1},
    "model": {"id": "made/up"},
}


def made_up(rng: np.random.Generator, rows: int) -> np.ndarray:
    """bfloat16 bits ``[rows, d_model]``: channels of many scales, as a residual stream has."""
    values = rng.standard_normal((rows, D_MODEL), np.float32) * np.exp2(np.arange(D_MODEL) % 7)
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def journal_examples(out: Path, count: int) -> None:
    """Journal ``count`` examples; they are drawn from a pool that is larger than any chunk."""
    rng = np.random.default_rng(0)
    size = min(count, BLOCK // 4)
    pool = [np.stack([made_up(rng, TOKENS) for _ in range(SEQUENCE_LAYERS)]) for _ in range(size)]
    journal = Journal(out)
    journal.open({})
    for number, start in enumerate(range(0, count, BLOCK)):
        records = [
            Record(
                id=str(i),
                logprobs=np.array([-1.0, -2.0]),
                choice_tokens=np.array([1, 1], np.int32),
                prediction=0,
                prompt="",
                cut=0,
                cost=TOKENS,
                token_ids=np.zeros(TOKENS, np.int32),
                final_token=made_up(rng, LAYERS),
                sequence=pool[i % len(pool)],
            )
            for i in range(start, min(start + BLOCK, count))
        ]
        journal.blocks.write(number, records, [True] * len(records))
    journal.close()


def write(out: Path, threads: int) -> None:
    """Write the store of a journal; print seconds, those of the processor, memory and bytes."""
    journal = Journal(out)
    values = {
        **dict.fromkeys(("source_row", "gold", "prediction", "cut_tokens"), 0),
        "choices": ["a", "b"],
        "n_choices": 2,
        "choice_logprob": [-1.0, -2.0],
        "choice_tokens": [1, 1],
    }
    blocks = [journal.blocks.block(number) for number in sorted(journal.blocks.numbers())]
    rows = [(block, row) for block in blocks for row in range(len(block.prediction))]
    # The cycle of the splits: neighbours in a shard are not neighbours in the journal.
    cycle = ("train", "validation", "train", "test")
    kept = [
        Kept(block, row, cycle[i // 2 % 4], {**values, "example_id": f"x-{i:016x}", "success": i % 2})
        for i, (block, row) in enumerate(rows)
    ]
    kept.sort(key=lambda e: ("train", "validation", "test").index(e.split))
    encoding = [0.0]
    ChunkEncoder.__call__ = timed(ChunkEncoder.__call__, encoding)  # type: ignore[method-assign]
    started, worked = time.perf_counter(), time.process_time()
    writer = StoreWriter(kept, range(LAYERS), range(SEQUENCE_LAYERS), D_MODEL)
    shards = list(write_shards(journal, writer.shards(), threads))
    writer.finish(journal.store, HEADER, {shard.name: shard.entry for shard in shards})
    seconds, core = time.perf_counter() - started, time.process_time() - worked
    raw = sum(shard.size for shard in shards) // 2
    stored = sum(shard.entry["size"] for shard in shards)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    digest = hashlib.sha256(journal.store.read("manifest.json")).hexdigest()[:12]
    print(seconds, core, sum(encoding), memory, raw, stored, digest)


def timed(function: Callable[..., bytes], spent: list[float]) -> Callable[..., bytes]:
    """The same, adding the time of the core it runs on to ``spent``."""

    def run(*args: object) -> bytes:
        started = time.thread_time()
        try:
            return function(*args)
        finally:
            spent.append(time.thread_time() - started)

    return run


def main() -> None:
    """Journal, write in turn, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder unless given")
    parser.add_argument("--examples", type=int, nargs="+", default=[500, 4000])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--write", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        write(args.folder, args.write)
        return
    found: dict[tuple[int, int], list[list[str]]] = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for count in args.examples:
            journal_examples(Path(folder, f"{count}.zarr"), count)
        for _ in range(args.turns):
            for count in args.examples:
                for threads in args.threads:
                    out = Path(folder, f"{count}.zarr")
                    command = [sys.executable, "-m", "benchmarks.writing", "--folder", str(out)]
                    done = subprocess.run(
                        [*command, "--write", str(threads)], check=True, capture_output=True, text=True
                    )
                    found.setdefault((count, threads), []).append(done.stdout.split())
                    for made in ("store", "shards"):
                        shutil.rmtree(Path(folder, f"{count}.zarr.partial", made))
    print("| examples | threads | raw MB | MB/s | MB/s a core | encoding alone | stored / raw | memory, MB |")
    print("|---" * 8 + "|")
    for (count, threads), runs in found.items():
        medians = [statistics.median(float(run[i]) for run in runs) for i in range(4)]
        seconds, core, encoding, memory = medians
        raw, stored = int(runs[0][4]), int(runs[0][5])
        cells = (
            *(count, threads, f"{raw / 1e6:,.0f}", f"{raw / 1e6 / seconds:.0f}"),
            *(
                f"{raw / 1e6 / core:.0f}",
                f"{raw / 1e6 / encoding:.0f}",
                f"{stored / raw:.3f}",
                f"{memory:.0f}",
            ),
        )
        print("| " + " | ".join(map(str, cells)) + " |")
        if len({run[6] for run in runs}) > 1:
            sys.exit("two runs differ in their bytes")


if __name__ == "__main__":
    main()
