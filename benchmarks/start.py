"""How long does a build take to its first forward pass, beside what nobody can do without?

    python -m benchmarks.start [--data FOLDER] [--model MODEL] [--dtype TYPE] [--turns N] [--json FILE]

Without which it does not go: a new process that imports torch and transformers, and has transformers load the
weights. Beside it: a new process that builds a store of 16 rows, up to where the first batch is run. It reads
the rows and the tokenizer, tries the decoder, and makes the journal. Both are timed from outside.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.clock import interleave, median, ratio
from benchmarks.tables import Table, say, write_json
from benchmarks.workload import add_options, rows_of

BARE = """
import sys
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging
logging.disable_progress_bar()
AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
"""
BUILD = """
import os
import sys
from wif_store.cli.app import main
from wif_store.extract.extractor import Extractor
Extractor._launch = lambda *arguments: os._exit(0)
sys.argv = ["wif-store", "-q", "build", *sys.argv[1:]]
main()
sys.exit("the build ended before its first batch")
"""


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_options(parser, dtype="bfloat16")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args(arguments)
    say(f"start: {options.turns} turns of about ten seconds")
    from wif_store.extract.checkpoint import locate

    with tempfile.TemporaryDirectory() as folder:
        rows_of("winogrande", options.data, 16, Path(folder))
        model = locate(options.model).path
        given = [
            "--task",
            "winogrande",
            "--source",
            str(Path(folder, "winogrande.jsonl")),
            "--per-class",
            "4",
        ]
        build = [*given, "--model", options.model, "--dtype", options.dtype, "--out"]
        turns = iter(range(10**6))

        def run(code: str, *arguments: str) -> None:
            subprocess.run([sys.executable, "-c", code, *arguments], check=True)

        runs = {
            "torch, transformers, weights": partial(run, BARE, model, options.dtype),
            "build, to its first batch": lambda: run(BUILD, *build, str(Path(folder, f"{next(turns)}.zarr"))),
        }
        seconds, _ = interleave(runs, options.turns, "start")
    table = Table("From nothing to the first forward pass", "what", "s", "of the first", "asked")
    bare, ours = runs
    table.add(bare, median(seconds, bare), 1.0, "")
    table.add(ours, median(seconds, ours), ratio(seconds, ours, bare), "<= 1.25")
    write_json(options.json, [table], turns=options.turns)


if __name__ == "__main__":
    main()
