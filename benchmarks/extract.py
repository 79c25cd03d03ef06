"""What does a build cost, against the bare forward pass?

    python -m benchmarks.extract [--data FOLDER_OF_JSONL] [--examples N] [--turns N] [--json FILE]

Per task, in turns, over the first ``--examples`` examples in visit order:

* *build*: ``build_store`` from texts to a finished store: labels, every layer at the final token,
  ``--sequence-layers`` at every token, compressed, on disk. Every other example counts as a success, so that
  the store keeps them all: no build has more to write.
* *bare forward*: the decoder as transformers runs it over every sequence whose likelihood decides an answer,
  tokenised and made into tensors beforehand, in the quickest batching found. No head, no cache, no hooks.

Both run in the type in which this machine multiplies fastest, unless ``--dtype`` says otherwise. Loading is
timed apart. A ratio is the median of the turns' own ratios.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks import workload
from benchmarks.clock import interleave, median, ratio
from benchmarks.tables import Table, Working, say, write_json
from wif_store.extract.checkpoint import locate
from wif_store.extract.model import DTYPES, resolve_device
from wif_store.tasks import get_task

if TYPE_CHECKING:
    from wif_store.builder.pipeline import Report
    from wif_store.records import Engine
    from wif_store.tasks.base import Protocol, Request, Task
    from wif_store.tasks.rows import Source

BATCHINGS = {
    "cpu": ((512, True), (1024, True), (2048, True), (1024, False)),
    "gpu": ((8192, True), (16384, True), (32768, True), (16384, False)),
}
"""Those that are tried, by kind of device: tokens, and whether they are padded."""
SAMPLE = {"cpu": 1000, "gpu": 64_000}
"""Tokens on which batchings are tried."""
ASKED = {"bfloat16": ">= 0.85", "float32": ">= 0.75"}

Batch = tuple[torch.Tensor, torch.Tensor | None]


@dataclass(frozen=True, slots=True)
class Batching:
    """How sequences are put together: in length order, up to so many tokens, padded or of one length."""

    tokens: int
    padded: bool

    def __str__(self) -> str:
        return f"{self.tokens} tokens, {'padded' if self.padded else 'equal lengths'}"

    def batches(self, sequences: list[list[int]], device: torch.device) -> list[Batch]:
        """Ids and masks, on the device; a batch without padding has no mask, which is quicker."""
        ordered = sorted(sequences, key=len, reverse=True)
        made, start = [], 0
        while start < len(ordered):
            width = len(ordered[start])
            stop = start + max(1, self.tokens // width)
            rows = [s for s in ordered[start:stop] if self.padded or len(s) == width]
            start += len(rows)
            ids = torch.tensor([s + [0] * (width - len(s)) for s in rows])
            mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in rows])
            made.append((ids.to(device), None if bool(mask.all()) else mask.to(device)))
        return made


class Bare:
    """A decoder as transformers loads it, and nothing else."""

    def __init__(self, path: str, dtype: str, device: str) -> None:
        started = time.perf_counter()
        self.device = torch.device(resolve_device(device))
        model = AutoModelForCausalLM.from_pretrained(path, dtype=DTYPES[dtype]).to(self.device).eval()
        self.decoder = model.get_decoder()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.load_seconds = time.perf_counter() - started

    @torch.inference_mode()
    def run(self, batches: list[Batch]) -> None:
        """One forward pass over each batch, whose tensors are there already."""
        for ids, mask in batches:
            self.decoder(input_ids=ids, attention_mask=mask, use_cache=False)
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def best(self, sequences: list[list[int]]) -> Batching:
        """The quickest batching, found on some of the sequences."""
        kind = "cpu" if self.device.type == "cpu" else "gpu"
        sample = sequences[:: max(1, sum(map(len, sequences)) // SAMPLE[kind])]
        batchings = {str(b): b for b in (Batching(*how) for how in BATCHINGS[kind])}
        works = {n: partial(self.run, b.batches(sample, self.device)) for n, b in batchings.items()}
        with Working("trying batchings of the bare forward"):
            self.run(batchings[next(iter(batchings))].batches(sample, self.device)[:2])  # the first are slow
            seconds, _ = interleave(works, 2)
        return batchings[min(works, key=lambda name: min(seconds[name]))]


@dataclass
class Build:
    """A build that can be run again and again, each time from nothing."""

    task: Task
    source: Source
    engine: Engine
    folder: Path
    report: Report | None = None

    def __call__(self) -> float:
        """Seconds of one build; what it left is removed."""
        out = self.folder / "built.zarr"
        started = time.perf_counter()
        self.report = workload.build(self.task, self.source, self.engine, out)
        seconds = time.perf_counter() - started
        shutil.rmtree(out)
        return seconds


def deciding_sequences(requests: list[Request], tokenizer: Any, protocol: Protocol) -> list[list[int]]:
    """The distinct sequences whose likelihood decides each example, as tokens.

    Of a choice that is only scored the last token need not be run, since nothing is read there: choices of
    one token that share their context are then one sequence, as they are for the evaluation harness.
    """
    texts = [context + continuation for r in requests for context, continuation in r.pairs]
    tokens = iter(tokenizer(texts).input_ids)
    end = None if protocol.site == "preferred" else -1
    found = []
    for request in requests:
        distinct = {tuple(next(tokens)[:end]) for _ in request.pairs}
        found += [list(sequence) for sequence in sorted(distinct)]
    return found


def measure(name: str, options: argparse.Namespace, folder: Path) -> list[Table]:
    """Run one task's turns; its ratios, and the figures behind them."""
    task = get_task(name)
    protocol = task.protocol("aligned")
    source = workload.rows_of(name, options.data, options.examples, folder)
    started = time.perf_counter()
    engine = workload.open_model(options, task)
    opening = time.perf_counter() - started
    dtype = engine.model["dtype"]
    with Working("loading the bare decoder"):
        bare = Bare(locate(options.model).path, dtype, options.device)
    requests = [task.request(candidate, protocol) for candidate in source.candidates]
    sequences = deciding_sequences(requests, bare.tokenizer, protocol)
    batching = bare.best(sequences)
    build = Build(task, source, workload.keep_all(engine, source), folder)
    some = workload.rows_of(name, options.data, 48, folder)
    warm = Build(task, some, workload.keep_all(engine, some), folder)
    with Working("warming up"):
        warm()  # imports, and kernels
    works = {"build": build, "bare": partial(bare.run, batching.batches(sequences, bare.device))}
    seconds, cpu = interleave(works, options.turns, name)
    assert build.report is not None
    tokens, run, count = sum(map(len, sequences)), build.report.tokens, len(requests)
    ours, theirs = median(seconds, "build"), median(seconds, "bare")
    by_clock, by_cpu = ratio(seconds, "bare", "build"), ratio(cpu, "bare", "build")
    table = Table(
        f"Extraction: {name}, {count} examples, {dtype}",
        *("", "build", f"bare forward, {batching}", "build / bare", "asked"),
    )
    table.add("examples/s", count / ours, count / theirs, by_clock, ASKED.get(dtype, ""))
    table.add("the same, by CPU time", count / median(cpu, "build"), count / median(cpu, "bare"), by_cpu, "")
    table.add("tokens run", run, tokens, run / tokens, "")
    table.add("tokens run/s", run / ours, tokens / theirs, by_clock * run / tokens, "")
    table.add("loading, s", opening, bare.load_seconds, opening / bare.load_seconds, "")
    parts = Table(f"Of the last build: {name}", "part", "s")
    parts.add("scanning", build.report.scan_seconds)
    parts.add("after the scan", build.report.write_seconds)
    return [table, parts]


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    workload.add_options(parser, workload.NATIVE)
    parser.add_argument("--tasks", default="winogrande")
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args(arguments)
    each = options.examples * (options.turns + 0.5) * 0.2
    say(f"extract: {options.tasks}; about {1 + each / 60:.0f} minutes a task on two cores (BoolQ: thrice)")
    tables = []
    for name in options.tasks.split(","):
        with tempfile.TemporaryDirectory() as folder:
            tables += measure(name, options, Path(folder))
    write_json(options.json, tables, turns=options.turns, model=options.model)


if __name__ == "__main__":
    main()
