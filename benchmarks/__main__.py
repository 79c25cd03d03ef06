"""Run the benchmarks one after another; run by ``make bench``.

    python -m benchmarks [--data FOLDER_OF_JSONL] [--short] [--out FOLDER]

Each prints its tables and, with ``--out``, writes them to ``{name}.json``. Each runs by itself too, with
options of its own: ``python -m benchmarks.extract --help``. ``--short`` takes fewer examples and turns, to
see that they run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import extract, projection, read, score, storage

# What a short run is given; a whole one has each benchmark's own defaults.
SHORT = {
    extract: ["--examples", "8", "--turns", "1", "--peer-examples", "1"],
    storage: ["--examples", "8", "--turns", "1", "--megabytes", "0.5"],
    read: ["--memory", "8,16", "--turns", "1"],
    projection: ["--examples", "8"],
    score: ["--layers", "0", "--repeats", "1"],
}


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
        # The scorer's is over synthetic data, or over stores that are named.
        given = given if module is score or options.data is None else ["--data", options.data, *given]
        module.main([*given, *(["--json", str(options.out / f"{name}.json")] if options.out else [])])


if __name__ == "__main__":
    main()
