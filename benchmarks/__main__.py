"""Run the benchmarks one after another; run by ``make bench``.

    python -m benchmarks [--data FOLDER_OF_JSONL] [--short] [--out FOLDER]

Each prints its tables and, with ``--out``, writes them to ``{name}.json``. Each runs by itself too, with
options of its own: ``python -m benchmarks.extract --help``. ``--short`` takes fewer examples and turns, to
see that they run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import build, extract, front_door, publish, read, score, start, steer, storage
from benchmarks.peers import compare

# What a short run is given; a full one has each benchmark's own defaults.
SHORT = {
    extract: ["--examples", "48", "--turns", "1"],
    compare: ["--examples", "48", "--turns", "1"],
    storage: ["--examples", "48", "--turns", "1", "--megabytes", "0.5", "--keep-all"],
    read: ["--examples", "200", "--turns", "1"],
    build: ["--per-class", "4"],
    publish: ["--per-class", "32", "--layers", "2", "--width", "64"],
    score: ["--layers", "0", "--turns", "1"],
    steer: ["--examples", "8", "--turns", "1"],
    start: ["--turns", "1"],
    front_door: ["--per-class", "64", "--python", sys.executable],
}
MADE_UP = (publish, score, front_door)
"""Those that take no rows."""


def main(arguments: list[str] | None = None) -> None:
    """Run them all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", help="folder of {task}.jsonl; default: the built-in splits")
    parser.add_argument("--out", type=Path, help="folder of the JSON files")
    parser.add_argument("--short", action="store_true", help="fewer examples, fewer turns")
    options = parser.parse_args(arguments)
    for module, short in SHORT.items():
        name = module.__name__.rpartition(".")[2]
        print(f"\n## {name}", flush=True)
        given = short if options.short else []
        given = given if module in MADE_UP or options.data is None else ["--data", options.data, *given]
        module.main([*given, *(["--json", str(options.out / f"{name}.json")] if options.out else [])])


if __name__ == "__main__":
    main()
