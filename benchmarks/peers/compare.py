"""How much faster is a build than the tools that people use for the same today?

    python -m benchmarks.peers.compare [--task NAME] [--examples N] [--turns N] [--json FILE]

The published loop gives the same labels, and residuals of the sequence layers at the final token; lmprobe's
``extract`` gives residuals of those layers at every token, and no labels. Each is in a process of its own,
in the environment that ``make bench`` makes of ``requirements/peers.txt``; where that is missing it is said
to be not run. A rate is of the examples that a tool was given: the loop gets ``--loop-examples``.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import workload
from benchmarks.clock import interleave, median
from benchmarks.extract import Build
from benchmarks.peers import PYTHON, NotRun, Peer
from benchmarks.tables import Table, say, write_json
from wif_store.extract.checkpoint import locate
from wif_store.extract.model import resolve_device
from wif_store.tasks import get_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from wif_store.records import Engine
    from wif_store.tasks.base import Request

ASKED = {"published_loop": ">= 60", "lmprobe_extract": ">= 3"}


def jobs_of(
    engine: Engine, requests: list[Request], options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """What each peer is given."""
    from transformers import AutoTokenizer

    records = engine.extract(requests)
    path = locate(options.model).path
    tokenizer = AutoTokenizer.from_pretrained(path)
    step = max(1, len(records) // options.loop_examples)
    examples = []
    for record, request in list(zip(records, requests, strict=True))[::step][: options.loop_examples]:
        tokens = tokenizer([context + continuation for context, continuation in request.pairs]).input_ids
        choices = list(zip(tokens, record.choice_tokens.tolist(), strict=True))
        examples.append({"choices": choices, "prompt": record.token_ids.tolist()})
    job = {
        "path": path,
        "dtype": engine.model["dtype"],
        "device": resolve_device(options.device),
        "layers": list(engine.sequence_layers),
    }
    return {
        "published_loop": {**job, "model": Path(options.model).name, "examples": examples},
        "lmprobe_extract": {**job, "batch_size": 32, "prompts": [record.prompt for record in records]},
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    workload.add_options(parser, workload.NATIVE)
    parser.add_argument("--task", default="winogrande")
    parser.add_argument("--examples", type=int, default=128)
    parser.add_argument("--loop-examples", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=PYTHON, help="the Python of the peers' environment")
    options = parser.parse_args(arguments)
    task = get_task(options.task)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        source = workload.rows_of(options.task, options.data, options.examples, Path(name))
        engine = workload.open_model(options, task)
        requests = [task.request(c, task.protocol("aligned")) for c in source.candidates]
        jobs = jobs_of(engine, requests, options)
        kept = workload.keep_all(engine, source)
        works: dict[str, Callable[[], object]] = {"build": Build(task, source, kept, Path(name))}
        for peer, job in jobs.items():
            try:
                process = Peer(options.peers, f"benchmarks.peers.{peer}", job)
            except NotRun as reason:
                say(f"{peer}: not run ({reason})")
            else:
                stack.callback(process.close)
                works[peer] = process.run
        seconds, _ = interleave(works, options.turns, "peers")
    counts = {"build": len(requests), "published_loop": len(jobs["published_loop"]["examples"])}
    rate = partial(_rate, seconds, counts)
    table = Table(
        f"Peers: {options.task}, {engine.model['dtype']}", "what", "examples/s", "build / it", "asked"
    )
    table.add("build", rate("build"), 1.0, "")
    for peer in jobs:
        ran = peer in works
        table.add(peer, rate(peer) if ran else None, rate("build") / rate(peer) if ran else None, ASKED[peer])
    write_json(options.json, [table], turns=options.turns, model=options.model)


def _rate(seconds: dict[str, list[float]], counts: dict[str, int], name: str) -> float:
    return counts.get(name, counts["build"]) / median(seconds, name)


if __name__ == "__main__":
    main()
