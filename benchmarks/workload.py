"""What the benchmarks run on: rows of the tasks, a model, or an engine that makes its residuals up."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.tables import Working, say
from wif_store.builder.pipeline import Progress, Report, Settings, build_store
from wif_store.builder.selection import visit_order
from wif_store.records import Engine, Record
from wif_store.tasks import get_task
from wif_store.tasks.rows import BUILTIN, load_source

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from wif_store.builder.scan import SplitScan
    from wif_store.tasks.base import Request, Task
    from wif_store.tasks.rows import Source

NATIVE = "native"
POOL = 2**16
"""Vectors that made-up residuals are cut from: more than any chunk has."""


def add_options(parser: argparse.ArgumentParser, dtype: str = "bfloat16") -> None:
    """The options of every benchmark that runs a model."""
    parser.add_argument("--data", type=Path, help="folder of {task}.jsonl; default: the built-in splits")
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--dtype", default=dtype, help=f"of the forward pass; {NATIVE}: the quickest here")
    parser.add_argument("--device", default="auto", help="auto (the best there is) or a torch device")
    parser.add_argument("--sequence-layers", default="3,7,11,14,17", help="layers read at every token")
    parser.add_argument("--json", type=Path, help="also write the figures there")


def native_dtype(dtype: str, device: str) -> str:
    """The type itself; where it is ``native``, the type in which the device multiplies fastest."""
    import torch

    from wif_store.extract.float32_linear import needs_float32
    from wif_store.extract.model import resolve_device

    if dtype != NATIVE:
        return dtype
    slow = resolve_device(device) == "cpu" and needs_float32(torch.bfloat16)
    why = "has no instructions for bfloat16 products" if slow else "multiplies in bfloat16"
    found = "float32" if slow else "bfloat16"
    say(f"  this machine {why}: everything runs in {found} (--dtype takes another)")
    return found


def rows_of(name: str, data: Path | None, examples: int | None, folder: Path) -> Source:
    """The first examples of a task in visit order, as a source."""
    task = get_task(name)
    source = load_source(task, BUILTIN if data is None else str(data / f"{name}.jsonl"))
    chosen = visit_order(source.candidates, 0)[:examples]
    if examples and len(chosen) < examples:
        say(f"  {name}: the source has {len(chosen)} examples, not {examples}")
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({n: c.row[n] for n in task.fields}) + "\n" for c in chosen))
    return load_source(task, str(path))


def open_model(options: argparse.Namespace, task: Task, **more: Any) -> Engine:
    """The model of the options, ready for a task."""
    from wif_store.extract.engine import open_engine

    given = {
        "sequence_layers": options.sequence_layers,
        "device": options.device,
        "dtype": native_dtype(options.dtype, options.device),
    }
    with Working(f"loading {options.model}"):
        return open_engine(options.model, task.protocol("aligned"), **{**given, **more})


class Telling(Progress):
    """Notes how far a build is, for the lines of progress."""

    def __init__(self, working: Working) -> None:
        self._working = working

    def scanned(self, parts: Mapping[str, SplitScan], tokens: int) -> None:
        """Note how many examples were scored, and how many pairs there are."""
        seen = sum(part.tally.seen for part in parts.values())
        total = sum(part.most for part in parts.values())
        pairs = sum(part.tally.pairs for part in parts.values())
        self._working.note = f"{seen:,} of {total:,} examples scored, {pairs:,} pairs"

    def writing(self, done: int, total: int) -> None:
        """Note how much is in shards."""
        self._working.note = f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB written"

    def phase(self, name: str) -> None:
        """Note what is done at the end."""
        self._working.note = name


def build(task: Task, source: Source, engine: Engine, out: Path, per_class: int | None = None) -> Report:
    """Build a store of a source, saying how far it is."""
    settings = Settings(task, task.protocol("aligned"), per_class=per_class)
    with Working(f"building {out.name}") as working:
        return build_store(settings, source, engine, out, Telling(working))


@dataclass(frozen=True, slots=True)
class EveryOther:
    """An extractor by which every other example counts as answered right; its residuals are the real ones."""

    extract: Any
    gold: dict[str, int]

    def __call__(self, requests: Sequence[Request]) -> list[Record]:
        """Run one block of requests."""
        [records] = self.stream([requests])
        return records

    def stream(self, blocks: Iterable[Sequence[Request]]) -> Iterator[list[Record]]:
        """Run block after block."""
        for records in self.extract.stream(blocks):
            yield [self._answered(record, n % 2) for n, record in enumerate(records)]

    def _answered(self, record: Record, wrong: int) -> Record:
        answer = (self.gold[record.id] + wrong) % len(record.logprobs)
        logprobs = record.logprobs.copy()
        logprobs[[answer, record.prediction]] = logprobs[[record.prediction, answer]]
        return replace(record, prediction=answer, logprobs=logprobs)


def keep_all(engine: Engine, source: Source) -> Engine:
    """An engine by whose answers balance leaves next to no example out."""
    gold = {candidate.id: candidate.gold for candidate in source.candidates}
    return replace(engine, extract=EveryOther(engine.extract, gold))


class MadeUp:
    """Residuals drawn from a pool of made-up bfloat16 vectors, which compress about as real ones do.

    Whether an example is answered right is a hash of its id; a share ``accuracy`` of them is.
    """

    def __init__(
        self,
        layers: int,
        sequence_layers: int,
        d_model: int,
        tokens: int | None,
        accuracy: float,
        gold: Mapping[str, int],
    ) -> None:
        self.shape, self.tokens = (layers, sequence_layers), tokens
        self.accuracy, self.gold = accuracy, gold
        values = np.random.default_rng(0).standard_normal((POOL, d_model), np.float32)
        values *= np.exp2(np.arange(d_model) % 7)
        self.pool = (values.view(np.uint32) >> 16).astype(np.uint16)

    def __call__(self, requests: Sequence[Request]) -> list[Record]:
        """Run one block of requests."""
        return [self._record(request) for request in requests]

    def stream(self, blocks: Iterable[Sequence[Request]]) -> Iterator[list[Record]]:
        """Run block after block."""
        return map(self, blocks)

    def _record(self, request: Request) -> Record:
        digest = hashlib.sha256(request.id.encode()).digest()
        layers, sequence_layers = self.shape
        text = request.prompt or max("".join(pair) for pair in request.pairs)
        length = self.tokens or max(2, len(text) // 4)
        at = int.from_bytes(digest[:4], "little")
        starts = [(at + 7919 * i) % (POOL - length) for i in range(sequence_layers)]
        final = self.pool[(at + 104729 * np.arange(layers)) % POOL]
        sequence = np.zeros((sequence_layers, length, self.pool.shape[1]), np.uint16)
        for i, start in enumerate(starts):
            sequence[i] = self.pool[start : start + length]
            final[i * layers // sequence_layers] = sequence[i, -1]
        right = int.from_bytes(digest[4:8], "little") / 2**32 < self.accuracy
        answer = (self.gold[request.id] + (not right)) % len(request.pairs)
        logprobs = np.full(len(request.pairs), -2.0)
        logprobs[answer] = -1.0
        return Record(
            id=request.id,
            logprobs=logprobs,
            choice_tokens=np.full(len(request.pairs), 2, np.int32),
            prediction=answer,
            prompt=text,
            cut=0,
            cost=length,
            token_ids=np.arange(length, dtype=np.int32),
            final_token=final,
            sequence=sequence,
        )


def made_up_engine(
    source: Source,
    *,
    layers: int = 18,
    sequence_layers: int = 5,
    d_model: int = 640,
    tokens: int | None = None,
    accuracy: float = 0.5,
) -> Engine:
    """An engine without a model, of the shape of Gemma 3 270M unless told otherwise.

    Args:
        source: Whose right answers it knows.
        layers: Of the final token.
        sequence_layers: Of every token.
        d_model: Width of the residual stream.
        tokens: Of every example; None for a quarter of the characters of its text.
        accuracy: Share of the examples that count as answered right.
    """
    gold = {candidate.id: candidate.gold for candidate in source.candidates}
    return Engine(
        extract=MadeUp(layers, sequence_layers, d_model, tokens, accuracy, gold),
        model={
            "id": "made/up",
            "kind": "made up",
            "revision": "0",
            "architecture": "None",
            "dtype": "bfloat16",
            "device": "cpu",
            "n_layers": layers,
            "d_model": d_model,
        },
        batching={},
        versions={},
        layers=tuple(range(layers)),
        sequence_layers=tuple(i * layers // max(1, sequence_layers) for i in range(sequence_layers)),
        d_model=d_model,
    )


def made_up_rows(folder: Path, count: int) -> Source:
    """Rows of WinoGrande that are made up, each in a group of its own."""
    path = folder / "made_up.jsonl"
    row = {"sentence": "Cup {} did not fit the case because the _ was small.", "answer": "1"}
    with path.open("w") as file:
        for i in range(count):
            named = {"sentence": row["sentence"].format(i), "option1": f"cup {i}", "option2": f"case {i}"}
            file.write(json.dumps({**row, **named}) + "\n")
    return load_source(get_task("winogrande"), str(path))
