"""What does a pass with the residual stream moved cost, beside a plain one?

    python -m benchmarks.steer [--tasks NAME...] [--data FOLDER] [--layer L] [--examples N] [--turns N]

The same examples are scored without a hook, moved after a layer with all layers run, and moved with the
layers up to it not run again, as ``wif-store steer`` does. All three are laid out beforehand.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from benchmarks.clock import interleave, median, ratio
from benchmarks.tables import Table, say, write_json
from benchmarks.workload import add_options, open_model, rows_of
from wif_store.extract.intervention import Intervention
from wif_store.extract.rerun import Rerun
from wif_store.tasks import get_task

if TYPE_CHECKING:
    from wif_store.extract.extractor import Extractor

WAYS = ("plain", "moved", "moved, from the layer on")


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_options(parser, dtype="native")
    parser.add_argument("--tasks", nargs="+", default=["winogrande"])
    parser.add_argument("--layer", type=int, help="0-based; default: the middle one")
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args(arguments)
    say(f"steer: {', '.join(options.tasks)}; about a minute a task")
    table = Table("A pass with the residual stream moved", "task", "how", "s", "of plain", "asked")
    for name in options.tasks:
        task = get_task(name)
        with tempfile.TemporaryDirectory() as folder:
            source = rows_of(name, options.data, options.examples, Path(folder))
        engine = open_model(options, task, sequence_layers="none")
        count = len(cast("Any", engine.extract).model.layers)
        layer = count // 2 if options.layer is None else options.layer
        extractor = replace(cast("Extractor", engine.extract), layers=(layer,))
        requests = [task.request(candidate, extractor.protocol) for candidate in source.candidates]
        works = extractor.plan(requests)
        direction = np.full(engine.d_model, engine.d_model**-0.5, np.float32)
        move = Intervention(layer, direction, shift=1.0)
        whole, upper = Rerun(extractor, layer), Rerun(extractor, layer)
        whole.skips = False
        blocks = {way: rerun.block(requests) for way, rerun in zip(WAYS[1:], (whole, upper), strict=True)}
        for block in blocks.values():
            block.run(None)
            block.run(move)
        runs = {"plain": partial(extractor.run, works)}
        runs |= {way: partial(block.run, move) for way, block in blocks.items()}
        seconds, _ = interleave(runs, options.turns, name)
        for way in WAYS:
            asked = "<= 1.1" if way == "moved" else ""
            table.add(name, way, median(seconds, way), ratio(seconds, way, "plain"), asked)
    write_json(options.json, [table], examples=options.examples, turns=options.turns)


if __name__ == "__main__":
    main()
