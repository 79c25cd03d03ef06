"""How evenly do blocks keep workers busy, and what would thirty models over fifty tasks take?

    python -m benchmarks.scaling [--data FOLDER] [--model gemma3-270m] [--figure FILE]

Balance: the examples of the data are tokenised and cut into blocks in visit order, as a build cuts them. A
block costs the padded tokens of its batches. Workers take blocks in order, each the next when it is free,
which is what the Ray crew does; a worker is idle from its last block to the end of the build. Loading a
model and writing shards are not counted. It is simulated, not measured.

Arithmetic: bytes, GPU-hours and files of a sweep, from the same lengths and the assumptions that are
printed with it.
"""

from __future__ import annotations

import argparse
import heapq
import math
from dataclasses import dataclass
from itertools import chain, cycle, islice
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from wif_store.format.layout import sequence_layout
from wif_store.extract.batching import GPU_LAUNCHES, BatchLimits, plan_batches
from wif_store.extract.engine import BLOCK, parse_layers
from wif_store.extract.outline import outline
from wif_store.builder.selection import visit_order
from wif_store.tasks.rows import load_source
from wif_store.builder.sweep import STORED
from wif_store.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
WORKERS = (1, 2, 4, 8, 16, 32, 64)
BATCH = BatchLimits(16_384, overhead=16_384 // GPU_LAUNCHES)
"""What a GPU of 80 GB gets."""
A_BUILD = 4
"""Workers of one build where several are run at once."""
TASKS_OF_A_SWEEP = 50


@dataclass(frozen=True)
class Size:
    """Models of one size: the published shape that stands for them, and how many there are."""

    like: str
    count: int
    blocks: int
    d_model: int
    weights: float
    """Parameters without the embedding, which costs no arithmetic."""


SIZES = (
    Size("Llama 3.2 1B", 10, 16, 2048, 0.97e9),
    Size("Gemma 2 2B", 10, 26, 2304, 2.02e9),
    Size("Llama 3.1 8B", 8, 32, 4096, 6.98e9),
    Size("Gemma 2 27B", 2, 46, 4608, 26.05e9),
)

Lengths = dict[str, list[tuple[int, float]]]
"""By task: tokens run and tokens read of every example, in visit order."""


def read_lengths(folder: Path, model: str) -> Lengths:
    """Tokenise every task's examples as a build would."""
    found, lengths = outline(model), {}
    for name, task in TASKS.items():
        protocol = task.protocol("aligned")
        candidates = visit_order(load_source(task, str(folder / f"{name}.jsonl")).candidates, 0)
        lengths[name] = found.tokens([task.request(c, protocol) for c in candidates], protocol)
    return lengths


def block_costs(lengths: Sequence[tuple[int, float]], size: int = BLOCK) -> list[int]:
    """Padded tokens of each block."""
    costs = []
    for start in range(0, len(lengths), size):
        run = [tokens for tokens, _ in lengths[start : start + size]]
        # The longest of a batch comes first.
        costs.append(sum(len(b) * run[b[0]] for b in plan_batches(run, BATCH)))
    return costs


def makespan(costs: Sequence[float], workers: int) -> float:
    """When the last worker is done, if each takes the next of these as soon as it is free."""
    free = [0.0] * workers
    for cost in costs:
        heapq.heapreplace(free, free[0] + cost)
    return max(free)


def idle(costs: Iterable[float], workers: int, span: float) -> float:
    """The share of the workers' time in which they did nothing."""
    return max(0.0, 1 - sum(costs) / (workers * span))


def policies(lengths: Lengths, workers: int) -> dict[str, float]:
    """Idle share of the same work, handed out in four ways."""
    tasks = [block_costs(part) for part in lengths.values()]
    small = [block_costs(part, BLOCK // 4) for part in lengths.values()]
    queue = [*chain(*tasks)]
    # Several builds at once are themselves work that is taken by whichever group of workers is free.
    group = min(A_BUILD, workers)
    sweep = list(islice(cycle(tasks), TASKS_OF_A_SWEEP))
    weights = [size.weights for size in reversed(SIZES) for _ in range(size.count)]
    alone = [makespan(costs, group) for costs in sweep]
    span = makespan([w * a for w in weights for a in alone], workers // group)

    def one_by_one(parts: list[list[int]]) -> float:
        return idle(chain(*parts), workers, sum(makespan(p, workers) for p in parts))

    return {
        "four builds, one by one": one_by_one(tasks),
        f"the same, blocks of {BLOCK // 4}": one_by_one(small),
        "four builds as one queue": idle(queue, workers, makespan(queue, workers)),
        f"{len(weights) * len(sweep):,} builds, {A_BUILD} workers each": idle(
            (w * cost for w in weights for cost in chain(*sweep)), workers, span
        ),
    }


def draw(lengths: Lengths, path: Path) -> None:
    """Idle share against workers; lines differ by dashes and markers, so that grey is enough."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    counts = [n for n in range(1, 65) if n < A_BUILD or n % A_BUILD == 0]
    drawn = [policies(lengths, n) for n in counts]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    styles = (("-", "o", "0.0"), ("--", "s", "0.0"), ("-.", "^", "0.45"), (":", "D", "0.45"))
    for name, (dashes, marker, grey) in zip(drawn[0], styles, strict=True):
        shares = [100 * d[name] for d in drawn]
        axes.plot(counts, shares, dashes, marker=marker, markevery=3, color=grey, label=name, markersize=5)
    axes.set(xlabel="workers", ylabel="idle, percent of worker time", xlim=(0, 65), ylim=(0, 100))
    axes.grid(color="0.9")
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})


EXAMPLES = 4000
ACCURACY = 0.65
PEAK, USED = 990e12, 0.4
SMALL_FILES = 60
"""Metadata, columns and manifest of a store, and its Parquet files."""


@dataclass(frozen=True)
class Need:
    """What one model of a size needs for all tasks of the sweep."""

    size: Size
    hours: float
    raw: float
    final: float
    files: int


def needs(lengths: Lengths) -> list[Need]:
    """Per model size; the mean of the four tasks stands for each of fifty."""
    every = [pair for part in lengths.values() for pair in part]
    run, read = fmean(r for r, _ in every), fmean(r for _, r in every)
    visited = EXAMPLES / 2 / min(ACCURACY, 1 - ACCURACY)
    found = []
    for size in SIZES:
        sequences = len(parse_layers("auto", size.blocks))
        flops = 2 * size.weights * run * visited * TASKS_OF_A_SWEEP
        final = 2 * size.d_model * EXAMPLES * TASKS_OF_A_SWEEP * size.blocks
        raw = final + 2 * size.d_model * EXAMPLES * TASKS_OF_A_SWEEP * sequences * read
        tokens = round(EXAMPLES * read)
        shards = sequences * math.ceil(tokens / sequence_layout(size.d_model, tokens).outer[1])
        found.append(
            Need(
                size,
                flops / (PEAK * USED) / 3600,
                raw,
                final,
                TASKS_OF_A_SWEEP * (size.blocks + shards + SMALL_FILES),
            )
        )
    return found


def print_tables(lengths: Lengths) -> None:
    """Lengths, balance and arithmetic, as they stand in docs/scaling.md."""
    print("| task | examples | blocks | tokens run: mean, most | tokens read | largest block to the mean |")
    print("|---|---|---|---|---|---|")
    for name, part in lengths.items():
        costs, run = block_costs(part), [r for r, _ in part]
        print(
            f"| {name} | {len(part):,} | {len(costs)} | {fmean(run):.0f}, {max(run)} "
            f"| {fmean(r for _, r in part):.0f} | {max(costs) / fmean(costs):.2f} |"
        )
    names = list(policies(lengths, 1))
    print("\n| workers | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for workers in WORKERS:
        shares = policies(lengths, workers).values()
        print(f"| {workers} | " + " | ".join(f"{100 * s:.1f} %" for s in shares) + " |")
    print("\n| models like | how many | H100-hours | raw TB | stored TB | of it final tokens | files |")
    print("|---|---|---|---|---|---|---|")
    total = [0.0] * 5
    for need in needs(lengths):
        n = need.size.count
        line = [n * need.hours, *(n * b / 1e12 for b in (need.raw, STORED * need.raw, STORED * need.final))]
        line.append(n * need.files)
        total = [a + b for a, b in zip(total, line, strict=True)]
        print(f"| {need.size.like} | {n} | {_cells(line)} |")
    print(f"| all | {sum(s.count for s in SIZES)} | {_cells(total)} |")


def _cells(line: Sequence[float]) -> str:
    return f"{line[0]:,.1f} | {line[1]:,.2f} | {line[2]:,.2f} | {line[3]:,.3f} | {line[4]:,.0f}"


def main(arguments: list[str] | None = None) -> None:
    """Print the tables; draw the figure where one is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="a folder of {task}.jsonl")
    parser.add_argument("--model", default="gemma3-270m", help="whose tokenizer counts")
    parser.add_argument("--figure", type=Path, help="a PNG to draw")
    args = parser.parse_args(arguments)
    lengths = read_lengths(args.data, args.model)
    print_tables(lengths)
    if args.figure:
        draw(lengths, args.figure)


if __name__ == "__main__":
    main()
