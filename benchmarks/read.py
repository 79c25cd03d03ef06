"""How quick is it to open and read a store, and to start; and does a build's memory grow with its examples?

    python -m benchmarks.read [STORE] [--examples N] [--memory 256,1024 --data FOLDER_OF_JSONL] [--json FILE]

Reading takes turns with ``numpy.load`` of the float32 matrix it returns, both from the page cache; a command
takes turns with a Python that does nothing. Without a store, one of ``--examples`` examples is made up in the
shape of Gemma 3 270M's. Each build of ``--memory`` examples is a ``wif-store build`` of its own process,
whose peak resident memory the system counts.
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
from benchmarks.tables import Table, Working, say, write_json
from wif_store.store.reader import ActivationStore, open_store
from wif_store.tasks import get_task

if TYPE_CHECKING:
    from collections.abc import Callable

PYTHON = [sys.executable, "-c"]
COMMANDS = {
    "wif-store --help": ([sys.executable, "-m", "wif_store.cli.app", "--help"], "< 0.4 s"),
    "import wif_store": ([*PYTHON, "import wif_store"], "< 0.1 s"),
    "from wif_store import open_store": ([*PYTHON, "from wif_store import open_store"], ""),
}


def starts(turns: int) -> Table:
    """Seconds from nothing to the end of a command, and how much of it is Python's own."""
    table = Table("Starting", "command", "s", "Python alone, s", "asked")
    works: dict[str, Callable[[], object]] = {
        name: partial(_seconds, command) for name, (command, _) in COMMANDS.items()
    }
    seconds, _ = interleave({**works, "nothing": partial(_seconds, [*PYTHON, "pass"])}, turns, "starting")
    for name, (_, asked) in COMMANDS.items():
        table.add(name, median(seconds, name), median(seconds, "nothing"), asked)
    return table


def _seconds(command: list[str]) -> float:
    return child(command)[0]


def memory(options: argparse.Namespace, folder: Path) -> Table:
    """Peak resident memory of builds of several sizes."""
    table = Table("Memory", "examples", "peak MB", "to the first", "s", "asked")
    first = 0
    for wanted in map(int, options.memory.split(",")):
        count = len(workload.rows_of(options.task, options.data, wanted, folder).candidates)
        flags = {
            "task": options.task,
            "model": options.model,
            "source": folder / f"{options.task}.jsonl",
            "sequence-layers": options.sequence_layers,
            "dtype": options.dtype,
            "per-class": "max",
            "out": folder / f"{wanted}.zarr",
        }
        words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
        with Working(f"a build of {count} examples"):
            seconds, peak = child([sys.executable, "-m", "wif_store.cli.app", "build", *words])
        first = first or peak
        table.add(count, peak / 1e6, peak / first, seconds, "<= 1.1")
    return table


def readings(store: ActivationStore, path: Path, folder: Path, turns: int) -> Table:
    """Opening, and reading the parts of a store that people read, against numpy's own file of the same."""
    table = Table(f"Reading: {store.task}", "what", "shape", "s", "np.load, s", "ratio", "asked")
    layer = store.layers[len(store.layers) // 2]
    reads: dict[str, tuple[Callable[[], np.ndarray], str]] = {
        "final tokens of a layer": (lambda: store.read_final_token(layer)[0], "<= 3"),
        "final tokens of a layer, test": (lambda: store.read_final_token(layer, "test")[0], ""),
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


def made_up(folder: Path, examples: int) -> Path:
    """A store of made-up residuals."""
    source = workload.made_up_rows(folder, 2 * examples + 100)  # the rest is not scanned
    out = folder / "made_up.zarr"
    workload.build(
        get_task("winogrande"), source, workload.made_up_engine(source, tokens=25), out, examples // 2
    )
    return out


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("store", nargs="?", type=Path)
    workload.add_options(parser)
    parser.add_argument("--task", default="winogrande")
    parser.add_argument("--examples", type=int, default=4000, help="of the store that is made up")
    parser.add_argument("--memory", default="", help="examples of each build, as in 256,1024; default: none")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args(arguments)
    builds = sum(int(n) for n in options.memory.split(",") if n) * 0.12 / 60
    say(f"read: about {1 + builds:.0f} minutes on two cores")
    tables = [starts(options.turns)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.memory:
            tables.append(memory(options, folder))
        path = options.store or made_up(folder, options.examples)
        tables.append(readings(open_store(path), path, folder, options.turns))
    write_json(options.json, tables, turns=options.turns, dtype=options.dtype, model=options.model)


if __name__ == "__main__":
    main()
