"""How much faster is the ``logistic`` probe than the loop of scikit-learn fits that it stands in for?

    python -m benchmarks.score [STORE...] [--layers 0,9] [--loop] [--turns N] [--json FILE]

Both search the same grid of C at each layer by validation AUROC; reading is timed for none. The converged
loop fits in float64 by Newton's method, the quickest that scikit-learn has here, and the AUROCs are checked
against it. ``--loop`` adds the loop that one writes at first: ``LogisticRegression`` as it comes with enough
iterations, which takes minutes. Without stores the data are made up: 2,000 train examples of width 640,
correlated as residuals are.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from benchmarks.clock import interleave, median, ratio
from benchmarks.tables import Table, say, write_json
from wif_store.format.schema import SPLITS
from wif_store.scorer.probes.logistic import C_GRID, LogisticPath
from wif_store.scorer.stats import auroc
from wif_store.store.reader import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

Split = tuple[np.ndarray, np.ndarray]
Layer = list[Split]
"""Train, validation and test."""


def made_up(layer: int, width: int = 640, sizes: tuple[int, ...] = (2000, 1000, 1000)) -> Layer:
    """Residual-like features with a weak signal."""
    rng = np.random.default_rng(layer)
    axes = np.linalg.qr(rng.normal(size=(width, width)))[0]
    features = rng.normal(size=(sum(sizes), width)) * np.arange(1, width + 1) ** -0.6 @ axes
    logits = features @ rng.normal(size=width)
    labels = (0.6 * logits / logits.std() + rng.logistic(size=len(logits)) > 0).astype(np.int8)
    features[:, 0] = features[:, 0] * 1e3 + 5e4
    cuts = np.cumsum(sizes)[:-1]
    return list(zip(np.split(features.astype(np.float32), cuts), np.split(labels, cuts), strict=True))


def ours(layers: Sequence[Layer]) -> list[float]:
    """Search as the scorer does, layers on all cores; the AUROC of each on test."""

    def search(layer: Layer) -> float:
        train, held, test = layer
        probe = LogisticPath().fit(*train, validation=held)
        return auroc(test[1], probe.decision_function(test[0]))

    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(search, layers))


def loop(layers: Sequence[Layer], dtype: type, **settings: Any) -> list[float]:
    """Search by one scikit-learn fit after another; the AUROC of each layer on test."""
    found = []
    for train, held, test in layers:
        scaler = StandardScaler().fit(train[0].astype(dtype))
        parts = [scaler.transform(split[0].astype(dtype)) for split in (train, held, test)]
        models = [LogisticRegression(C=c, **settings).fit(parts[0], train[1]) for c in sorted(C_GRID)]
        best = max(models, key=lambda model: auroc(held[1], model.decision_function(parts[1])))
        found.append(auroc(test[1], best.decision_function(parts[2])))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stores", nargs="*", type=Path)
    parser.add_argument("--layers", default="0,9", help="0-based layers")
    parser.add_argument("--loop", action="store_true", help="also the loop that takes minutes")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    say("score: about a minute; with --loop, minutes a layer")
    wanted = list(map(int, options.layers.split(",")))
    data = {"made up": list(map(made_up, wanted))}
    if options.stores:
        stores = map(open_store, options.stores)
        data = {s.task: [[s.read_final_token(n, split) for split in SPLITS] for n in wanted] for s in stores}
    ways = {"ours": ours}
    ways["converged"] = partial(loop, dtype=np.float64, solver="newton-cholesky", tol=1e-10, max_iter=1000)
    if options.loop:
        ways["loop"] = partial(loop, dtype=np.float32, max_iter=20_000)
    columns = "data", "layers", "how", "s", "times ours", "AUROC differs"
    table = Table("Scoring", *columns)
    for name, layers in data.items():
        found: dict[str, list[float]] = {}
        works = {way: partial(_keep, found, way, search, layers) for way, search in ways.items()}
        seconds, _ = interleave(works, options.turns, name)
        differs = float(np.abs(np.subtract(found["ours"], found["converged"])).max())
        for way in ways:
            off = differs if way == "converged" else ""
            times = ratio(seconds, way, "ours")
            table.add(name, len(layers), way, median(seconds, way), times, off)
    write_json(options.json, [table], grid=C_GRID, turns=options.turns)


def _keep(found: dict[str, list[float]], way: str, search: Any, layers: list[Layer]) -> None:
    """Search, and keep what was found."""
    found[way] = search(layers)


if __name__ == "__main__":
    main()
