"""What the benchmarks run on: the first examples of a task in visit order, and their sequences."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wif_store.builder.pipeline import Report, Settings, build
from wif_store.builder.selection import visit_order
from wif_store.tasks.rows import BUILTIN, load_source
from wif_store.tasks import get_task

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Sequence

    from wif_store.records import Engine, Record
    from wif_store.tasks.rows import Source
    from wif_store.tasks.base import MultipleChoiceTask, Protocol, Request


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of every benchmark that runs a model."""
    parser.add_argument("--data", type=Path, help="folder of {task}.jsonl; default: the built-in splits")
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="auto", help="auto (the best there is) or a torch device")
    parser.add_argument("--sequence-layers", default="3,7,11,14,17", help="blocks read at every token")


def source_of(name: str, data: Path | None) -> str:
    """Where a task's rows come from, as ``load_source`` wants it said."""
    return BUILTIN if data is None else str(data / f"{name}.jsonl")


def write_rows(path: Path, name: str, data: Path | None, examples: int) -> int:
    """Write the first examples of a task in visit order as JSONL; how many there were."""
    task = get_task(name)
    source = load_source(task, source_of(name, data))
    chosen = visit_order(source.candidates, 0)[:examples]
    path.write_text("".join(json.dumps({n: c.row[n] for n in task.fields}) + "\n" for c in chosen))
    return len(chosen)


def requests_of(task: MultipleChoiceTask, protocol: Protocol, source: Source) -> list[Request]:
    """The source's examples as the engine is given them."""
    return [task.request(candidate, protocol) for candidate in source.candidates]


def build_all(
    task: MultipleChoiceTask, protocol: Protocol, source: Source, engine: Engine, out: Path
) -> Report:
    """Build a store of every example of a source that balance lets in."""
    return build(Settings(task, protocol, per_class=None), source, engine, out)


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


@dataclass(frozen=True, slots=True)
class EveryOther:
    """An extractor by which every other example counts as answered right."""

    extract: Any
    gold: dict[str, int]

    def __call__(self, requests: Sequence[Request]) -> list[Record]:
        """Run one block of requests."""
        [records] = self.stream([requests])
        return records

    def stream(self, blocks: Iterable[Sequence[Request]]) -> Iterator[list[Record]]:
        """Run block after block."""
        for records in self.extract.stream(blocks):
            yield [
                replace(record, prediction=(self.gold[record.id] + n % 2) % len(record.logprobs))
                for n, record in enumerate(records)
            ]


def keep_all(engine: Engine, source: Source) -> Engine:
    """An engine by whose labels balance leaves no example out; its residuals are the real ones."""
    gold = {candidate.id: candidate.gold for candidate in source.candidates}
    return replace(engine, extract=EveryOther(engine.extract, gold))


def make_store(name: str, options: argparse.Namespace, folder: Path) -> Path:
    """Build a store of the first ``options.examples`` examples of a task below ``folder``."""
    from wif_store.extract.engine import open_engine

    task = get_task(name)
    protocol = task.protocol("aligned")
    write_rows(folder / f"{name}.jsonl", name, options.data, options.examples)
    engine = open_engine(
        options.model,
        protocol,
        sequence_layers=options.sequence_layers,
        device=options.device,
        dtype=options.dtype,
    )
    source = load_source(task, str(folder / f"{name}.jsonl"))
    if options.keep_all:
        engine = keep_all(engine, source)
    out = folder / f"{name}.zarr"
    build_all(task, protocol, source, engine, out)
    return out
