"""How quick is it to open and read a store, and to start; and does a build's memory grow with its examples?

    python -m benchmarks.read [STORE] [--data FOLDER_OF_JSONL] [--memory 500,4000] [--json FILE]

Every build of ``--memory`` examples is a ``wif-store build`` of its own process, whose peak resident memory
the system counts. Without a store, the largest of them is read. Reading takes turns with ``numpy.load`` of
the float32 matrix it returns, both from the page cache; a command takes turns with a Python that does
nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import workload
from benchmarks.clock import child, interleave, median, ratio
from benchmarks.tables import Table, write_json
from wif_store.store.reader import ActivationStore, open_store

if TYPE_CHECKING:
    from collections.abc import Callable

PYTHON = [sys.executable, "-c"]
COMMANDS = {
    "wif-store --help": ([sys.executable, "-m", "wif_store.cli.app", "--help"], "< 0.4 s"),
    "import wif_store": ([*PYTHON, "import wif_store"], "< 0.1 s"),
    "from wif_store import open_store": ([*PYTHON, "from wif_store import open_store"], ""),
}


def starts(turns: int) -> Table:
    """Seconds from nothing to the end of a command, and how much of it is ours."""
    table = Table("Starting", "command", "s", "Python alone, s", "asked")
    works: dict[str, Callable[[], object]] = {
        name: partial(child, command) for name, (command, _) in COMMANDS.items()
    }
    seconds, _ = interleave({**works, "nothing": partial(child, [*PYTHON, "pass"])}, turns)
    for name, (_, asked) in COMMANDS.items():
        table.add(name, median(seconds, name), median(seconds, "nothing"), asked)
    return table


def memory(options: argparse.Namespace, folder: Path) -> tuple[Table, Path]:
    """Peak resident memory of builds of several sizes; the store of the last."""
    table = Table(
        f"Memory: {options.model}, {options.dtype}", "examples", "peak MB", "to the first", "s", "asked"
    )
    first = 0
    out = folder
    for wanted in map(int, options.memory.split(",")):
        rows, out = folder / f"{wanted}.jsonl", folder / f"{wanted}.zarr"
        count = workload.write_rows(rows, options.task, options.data, wanted)
        if count < wanted:
            print(f"the source has {count} examples, not {wanted}", file=sys.stderr)
        flags = {
            "task": options.task,
            "model": options.model,
            "source": rows,
            "sequence-layers": options.sequence_layers,
            "dtype": options.dtype,
            "per-class": "max",
            "out": out,
        }
        words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
        seconds, peak = child([sys.executable, "-m", "wif_store.cli.app", "build", *words])
        first = first or peak
        table.add(count, peak / 1e6, peak / first, seconds, "<= 1.1")
    return table, out


def readings(store: ActivationStore, path: Path, folder: Path, turns: int) -> Table:
    """Opening, and reading the parts of a store that people read, against numpy's own file of the same."""
    table = Table(f"Reading: {store.task}", "what", "shape", "s", "np.load, s", "ratio", "asked")
    layer = store.layers[len(store.layers) // 2]
    reads: dict[str, tuple[Callable[[], np.ndarray], str]] = {
        "final tokens of a layer": (lambda: store.read_final_token(layer)[0], "<= 3"),
        "final tokens of a layer, train": (lambda: store.read_final_token(layer, "train")[0], ""),
    }
    if store.sequence_layers:
        deep = store.sequence_layers[len(store.sequence_layers) // 2]
        reads["sequences of a layer, test"] = lambda: store.read_sequences(deep, "test")[0], ""
        reads["sequences of a layer, train"] = lambda: store.read_sequences(deep, "train")[0], ""
    opening, _ = interleave({"open": partial(open_store, path)}, 3 * turns)
    table.add("open_store", "", median(opening, "open"), "", "", "")
    for number, (what, (read, asked)) in enumerate(reads.items()):
        values = read()
        np.save(folder / f"{number}.npy", np.ascontiguousarray(values))
        works = {"ours": read, "numpy": partial(np.load, folder / f"{number}.npy")}
        interleave(works, 2)  # both are warm now
        seconds, _ = interleave(works, 5 * turns)
        shape = " x ".join(f"{n:,}" for n in values.shape)
        times = ratio(seconds, "ours", "numpy")
        table.add(what, shape, median(seconds, "ours"), median(seconds, "numpy"), times, asked)
    return table


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("store", nargs="?", type=Path)
    workload.add_options(parser)
    parser.add_argument("--task", default="winogrande")
    parser.add_argument("--memory", default="500,4000", help="examples of each build; none where empty")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if not (options.store or options.memory):
        parser.error("there is nothing to read: name a store, or the sizes of --memory")
    tables = [starts(options.turns)]
    with tempfile.TemporaryDirectory() as folder:
        path = options.store
        if options.memory:
            table, built = memory(options, Path(folder))
            tables.append(table)
            path = path or built
        tables.append(readings(open_store(path), path, Path(folder), options.turns))
    write_json(options.json, tables, turns=options.turns, dtype=options.dtype, model=options.model)


if __name__ == "__main__":
    main()
