"""How much faster is the ``logistic`` probe than the loop of scikit-learn fits it stands in for?

    python -m benchmarks.score [STORE...] [--repeats N] [--layers 0,9] [--no-loop] [--json FILE]

All search the same grid of C at every layer of every task by validation AUROC. The loop is what one
writes at first: ``StandardScaler``, then ``LogisticRegression`` as it comes with enough iterations, one
fit for each C. The converged loop is one in float64 by Newton's method, the quickest that scikit-learn has
here, and what the AUROCs are checked against. They take turns, task by task, and their medians are compared;
reading the data is timed for none.

Without stores the data are synthetic: four tasks of 18 layers, 2,000 train examples of width 640,
correlated like residuals.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from wif_store.cli.score import find_stores, parse_layers
from wif_store.scorer.logistic import C_GRID, LogisticPath
from wif_store.scorer.stats import auroc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Split = tuple[np.ndarray, np.ndarray]
Layer = tuple[Split, Split, Split]
Found = tuple[float, float]


@dataclass
class Task:
    """The layers of one task: train, validation and test of each."""

    name: str
    layers: list[Layer]


def stored(paths: list[str], wanted: list[int] | None) -> Iterator[Task]:
    """Read tasks from stores."""
    from wif_store.store.reader import open_store

    for path in (found for given in paths for found in find_stores(given)):
        store = open_store(path)
        splits = ("train", "validation", "test")
        layers = [tuple(store.read_final_token(n, s) for s in splits) for n in wanted or store.layers]
        yield Task(store.task, layers)


def synthetic(wanted: list[int] | None) -> Iterator[Task]:
    """Make tasks of residual-like features with a weak signal."""
    width, sizes = 640, (2000, 1000, 1000)
    for number, name in enumerate(("boolq", "piqa", "social_i_qa", "winogrande")):
        layers = []
        for layer in wanted or range(18):
            rng = np.random.default_rng([number, layer])
            axes = np.linalg.qr(rng.normal(size=(width, width)))[0]
            features = rng.normal(size=(sum(sizes), width)) * np.arange(1, width + 1) ** -0.6 @ axes
            logits = features @ rng.normal(size=width)
            labels = (0.6 * logits / logits.std() + rng.logistic(size=len(logits)) > 0).astype(np.int8)
            features[:, 0] = features[:, 0] * 1e3 + 5e4
            cuts = np.cumsum(sizes)[:-1]
            parts = zip(np.split(features.astype(np.float32), cuts), np.split(labels, cuts), strict=True)
            layers.append(tuple(parts))
        yield Task(name, layers)


def ours(task: Task) -> list[Found]:
    """Search as the scorer does: layers on all cores, one BLAS thread each."""

    def search(layer: Layer) -> Found:
        train, held, test = layer
        probe = LogisticPath().fit(*train, validation=held)
        return probe.C_, auroc(test[1], probe.decision_function(test[0]))

    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(search, task.layers))


def loop(task: Task) -> list[Found]:
    """Search by one scikit-learn fit after another, as they come."""
    return _loop(task, np.float32, max_iter=20_000)


def exact(task: Task) -> list[Found]:
    """Search by one converged scikit-learn fit after another."""
    return _loop(task, np.float64, solver="newton-cholesky", tol=1e-10, max_iter=1000)


def _loop(task: Task, dtype: type, **settings: Any) -> list[Found]:
    found = []
    for train, held, test in task.layers:
        scaler = StandardScaler().fit(train[0].astype(dtype))
        parts = [scaler.transform(split[0].astype(dtype)) for split in (train, held, test)]
        best = (-1.0, 0.0, 0.0)
        for c in C_GRID:
            model = LogisticRegression(C=c, **settings).fit(parts[0], train[1])
            by = auroc(held[1], model.decision_function(parts[1]))
            if by > best[0]:
                best = (by, c, auroc(test[1], model.decision_function(parts[2])))
        found.append(best[1:])
    return found


SEARCHES = {"ours": ours, "loop": loop, "converged": exact}


def timed(work: Callable[[Task], list[Found]], task: Task) -> tuple[float, list[Found]]:
    """Return seconds and what was found."""
    start = time.perf_counter()
    found = work(task)
    return time.perf_counter() - start, found


def times(seconds: dict[str, float]) -> str:
    """Return the middle of a row: three times and two ratios."""
    fast = seconds["ours"]
    shown = [f"{seconds[name]:.2f} s" if name in seconds else "" for name in SEARCHES]
    ratios = [f"{seconds[name] / fast:.1f}" if name in seconds else "" for name in ("loop", "converged")]
    return f"| {' | '.join([*shown, *ratios])} | "


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stores", nargs="*")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers")
    parser.add_argument("--no-loop", action="store_true", help="leave out the loop that takes minutes a task")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    wanted = parse_layers(options.layers)
    searches = {name: s for name, s in SEARCHES.items() if name != "loop" or not options.no_loop}
    rows = []
    header = (
        "task,layers,train x d,logistic,loop,converged loop,loop / ours,converged / ours,"
        "AUROC differs,where C is the same,same C"
    )
    print("|", header.replace(",", " | "), "|\n" + "|---" * 11 + "|", flush=True)
    for task in stored(options.stores, wanted) if options.stores else synthetic(wanted):
        seconds: dict[str, list[float]] = {name: [] for name in searches}
        found: dict[str, list[Found]] = {}
        for _ in range(options.repeats):
            for name, search in searches.items():
                took, found[name] = timed(search, task)
                seconds[name].append(took)
        pairs = list(zip(found["ours"], found["converged"], strict=True))
        rows.append(
            {
                "task": task.name,
                "layers": len(task.layers),
                "train": len(task.layers[0][0][1]),
                "d_model": task.layers[0][0][0].shape[1],
                "seconds": {name: statistics.median(taken) for name, taken in seconds.items()},
                "largest_auroc_difference": max(abs(a[1] - b[1]) for a, b in pairs),
                "with_the_same_C": max((abs(a[1] - b[1]) for a, b in pairs if a[0] == b[0]), default=0.0),
                "same_C": sum(a[0] == b[0] for a, b in pairs),
                "C_and_auroc": found,
            }
        )
        row = rows[-1]
        shape = f"| {row['task']} | {row['layers']} | {row['train']} x {row['d_model']} "
        check = (
            f"{row['largest_auroc_difference']:.1e} | {row['with_the_same_C']:.1e} "
            f"| {row['same_C']} of {row['layers']} |"
        )
        print(shape + times(row["seconds"]) + check, flush=True)
    total = {name: sum(row["seconds"][name] for row in rows) for name in searches}
    print("| all | | " + times(total) + "| | |")
    if options.json:
        record = {
            "grid": C_GRID,
            "repeats": options.repeats,
            "machine": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "tasks": rows,
            "total_seconds": total,
            "loop_over_ours": total["loop"] / total["ours"] if "loop" in total else None,
            "converged_over_ours": total["converged"] / total["ours"],
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
