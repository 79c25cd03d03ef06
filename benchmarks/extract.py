"""What does a build cost, against the bare forward pass and against what people use today?

    python -m benchmarks.extract --data FOLDER_OF_JSONL [--examples N] [--turns N] [--json FILE]

Per task, in turns, over the first ``--examples`` examples in visit order:

* *build*: ``build.build`` from texts to a finished store: labels, every layer at the final token,
  ``--sequence-layers`` at every token, compressed, on disk.
* *bare forward*: the decoder alone over every sequence whose likelihood decides an answer, tokenised and made
  into tensors beforehand, in the best of ten batchings (the quickest of each kind takes part in the turns).
* *read*: a build of ``--sequence-layers`` alone over the prompts that the first build read, one sequence an
  example, in batches of ``--peer-batch``; beside it lmprobe's ``extract`` of the same.
* *published loop*: TransformerLens in its default type, one example and one layer a pass, over
  ``--peer-examples`` examples of every length.

Loading is timed apart and in no ratio; reading the source and making the peers' jobs are timed nowhere.
A ratio is the median of the turns' own ratios.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import workload
from benchmarks.bare import Bare
from benchmarks.clock import Seconds, interleave, median, ratio
from benchmarks.peers import PYTHON, NotRun, Peer
from benchmarks.tables import Table, write_json
from wif_store.extract.engine import open_engine
from wif_store.extract.model import locate
from wif_store.tasks.rows import load_source
from wif_store.tasks import get_task
from wif_store.tasks.base import HubSource, MultipleChoiceTask, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from wif_store.builder.pipeline import Report
    from wif_store.records import Engine, Record
    from wif_store.tasks.rows import Source
    from wif_store.tasks.base import Request

READ = Protocol("read", context="{text}", continuation=" {choice}")
# A text to be read, as a task: its one-token choices are scored where it ends, which costs next to nothing.
TEXTS = MultipleChoiceTask(
    name="texts",
    source=HubSource("", "", "", ""),
    builtin="",
    fields={"text": str, "gold": int},
    choices=lambda row: ("yes", "no"),
    gold=lambda row: int(row["gold"]),
    key=("text",),
    protocols=(READ,),
)


@dataclass
class Build:
    """A build that can be run again and again, each time from nothing."""

    task: MultipleChoiceTask
    protocol: Protocol
    source: Source
    engine: Engine
    folder: Path
    report: Report | None = None
    size: int = 0

    def __call__(self) -> float:
        """Seconds of one build; what it left is counted and removed."""
        out = self.folder / f"{self.task.name}.zarr"
        started = time.perf_counter()
        self.report = workload.build_all(self.task, self.protocol, self.source, self.engine, out)
        seconds = time.perf_counter() - started
        self.size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        shutil.rmtree(out)
        return seconds

    @property
    def kept(self) -> int:
        """Examples in the store."""
        assert self.report is not None
        return 2 * int(self.report.selection["k"])


def read_build(records: list[Record], options: argparse.Namespace, folder: Path) -> Build:
    """The build of residuals alone, over the prompts of ``records``."""
    path = folder / "texts.jsonl"
    engine = open_engine(
        options.model,
        READ,
        layers=options.sequence_layers,
        sequence_layers=options.sequence_layers,
        device=options.device,
        dtype=options.dtype,
        batch_tokens=10**6,
        batch_size=options.peer_batch,
    )

    rows = [{"text": record.prompt, "gold": 0} for record in records]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = load_source(TEXTS, str(path))
    return Build(TEXTS, READ, source, workload.keep_all(engine, source), folder)


def loop_examples(
    records: list[Record], requests: list[Request], tokenizer: Any, most: int
) -> list[dict[str, Any]]:
    """Examples of every length, as tokens, for the loop that is too slow for all of them."""
    by_length = sorted(range(len(records)), key=lambda i: (records[i].cost, i))
    count = min(most, len(by_length))
    examples = []
    for i in (by_length[(2 * n + 1) * len(by_length) // (2 * count)] for n in range(count)):
        tokens = tokenizer([context + continuation for context, continuation in requests[i].pairs]).input_ids
        choices = list(zip(tokens, records[i].choice_tokens.tolist(), strict=True))
        prompt = records[i].token_ids.tolist()
        examples.append({"choices": choices, "prompt": prompt, "ours": records[i].prediction})
    return examples


def measure(name: str, options: argparse.Namespace, folder: Path) -> list[Table]:
    """Run one task's turns; its ratios, and the figures behind them."""
    task = get_task(name)
    protocol = task.protocol("aligned")
    workload.write_rows(folder / "rows.jsonl", name, options.data, options.examples)
    source = load_source(task, str(folder / "rows.jsonl"))
    started = time.perf_counter()
    engine = open_engine(
        options.model,
        protocol,
        sequence_layers=options.sequence_layers,
        device=options.device,
        dtype=options.dtype,
    )
    opening = time.perf_counter() - started
    path = locate(options.model).path
    bare = Bare(path, options.dtype, options.device)
    requests = workload.requests_of(task, protocol, source)
    records = engine.extract(requests)  # it is warm now, and has said what the peers are to read
    sequences = workload.deciding_sequences(requests, bare.tokenizer, protocol)
    batchings = bare.best(sequences)
    build = Build(task, protocol, source, engine, folder)
    read = read_build(records, options, folder)
    works: dict[str, Callable[[], object]] = {"build": build, "read": read}
    works |= {title: partial(bare.run, batches) for title, batches in batchings.items()}
    job = {
        "path": path,
        "dtype": options.dtype,
        "device": str(bare.device),
        "layers": list(engine.sequence_layers),
    }
    prompts = [c.row["text"] for c in read.source.candidates]
    loop = loop_examples(records, requests, bare.tokenizer, options.peer_examples)
    jobs = {
        "lmprobe_extract": {**job, "batch_size": options.peer_batch, "prompts": prompts},
        "published_loop": {
            **job,
            "dtype": options.loop_dtype,
            "model": Path(options.model).name,
            "examples": loop,
        },
    }
    with ExitStack() as stack:
        peers: dict[str, Peer] = {}
        for peer in jobs:
            try:
                peers[peer] = Peer(options.peers, f"benchmarks.peers.{peer}", jobs[peer])
                stack.callback(peers[peer].close)
            except NotRun as reason:
                print(f"{peer}: not run ({reason})", file=sys.stderr, flush=True)
        works |= {peer: process.run for peer, process in peers.items()}
        seconds, cpu = interleave(works, options.turns)
    assert build.report is not None
    best = min(batchings, key=lambda title: median(seconds, title))
    tokens = sum(map(len, sequences))
    ratios = Table(f"Extraction: {name}", "ours", "rate", "against", "its rate", "ratio", "asked")
    bare_ratio = ratio(seconds, best, "build")
    count = len(requests)
    ours, theirs = median(seconds, "build"), median(seconds, best)
    ratios.add(
        "build, examples/s", count / ours, f"bare forward, {best}", count / theirs, bare_ratio, ">= 0.90"
    )
    ratios.add(
        "build, tokens run/s",
        build.report.tokens / ours,
        "the same",
        tokens / theirs,
        bare_ratio * build.report.tokens / tokens,
        "",
    )
    add_loop(ratios, seconds, peers, loop, count)
    add_lmprobe(ratios, seconds, peers, read, count)
    figures = Table(f"Behind it: {name}", "figure", "value")
    for figure, value in {
        "examples": count,
        "examples kept": build.kept,
        "tokens of the deciding sequences": tokens,
        "tokens that the build ran": build.report.tokens,
        "build, s": ours,
        "of which scanning, last turn, s": build.report.scan_seconds,
        "of which writing, last turn, s": build.report.write_seconds,
        "bare forward, s": theirs,
        "build, CPU s": median(cpu, "build"),
        "bare forward, CPU s": median(cpu, best),
        "bare forward / build, CPU s": ratio(cpu, best, "build"),
        "loading: engine, s": opening,
        "loading: bare forward, s": bare.load_seconds,
        **{f"loading: {peer}, s": process.loaded["seconds"] for peer, process in peers.items()},
    }.items():
        figures.add(figure, value)
    return [ratios, figures]


def add_loop(
    ratios: Table, seconds: Seconds, peers: dict[str, Peer], loop: list[dict[str, Any]], count: int
) -> None:
    """The row of the published loop, whose answers must be ours but for ties."""
    peer = "published_loop"
    rate = times = None
    against = peer
    if peer in peers:
        answers = zip(loop, peers[peer].found["predictions"], strict=True)
        same = sum(example["ours"] == prediction for example, prediction in answers)
        against = f"{peer}, {same} of {len(loop)} answers the same"
        rate = len(loop) / median(seconds, peer)
        times = ratio(seconds, peer, "build") * count / len(loop)
    ratios.add("build, examples/s", count / median(seconds, "build"), against, rate, times, ">= 60")


def add_lmprobe(ratios: Table, seconds: Seconds, peers: dict[str, Peer], read: Build, count: int) -> None:
    """The rows of lmprobe, which has residuals and no labels."""
    peer = "lmprobe_extract"
    rate = read_ratio = build_ratio = size = size_ratio = None
    ours = read.size / read.kept
    if peer in peers:
        rate, size = count / median(seconds, peer), peers[peer].found["bytes"] / count
        read_ratio, build_ratio = ratio(seconds, peer, "read"), ratio(seconds, peer, "build")
        size_ratio = ours / size
    ratios.add("read, examples/s", count / median(seconds, "read"), peer, rate, read_ratio, ">= 3")
    ratios.add("build, examples/s", count / median(seconds, "build"), peer, rate, build_ratio, "")
    ratios.add("read, bytes/example", ours, peer, size, size_ratio, "<= 0.60")


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    workload.add_options(parser)
    parser.add_argument("--tasks", default="winogrande,boolq")
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=PYTHON, help="the Python of the peers' environment")
    parser.add_argument("--peer-examples", type=int, default=8, help="of the published loop")
    parser.add_argument("--loop-dtype", default="float32", help="of the published loop; default: its own")
    parser.add_argument("--peer-batch", type=int, default=32, help="examples of one batch of lmprobe")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    tables = []
    for name in options.tasks.split(","):
        with tempfile.TemporaryDirectory() as folder:
            tables += measure(name, options, Path(folder))
    write_json(options.json, tables, turns=options.turns, dtype=options.dtype, model=options.model)


if __name__ == "__main__":
    main()
