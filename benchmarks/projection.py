"""What Gemma-2 2B would cost on one modern GPU: arithmetic over real token counts, nothing that was measured.

    python -m benchmarks.projection --data FOLDER_OF_JSONL [--tflops 990] [--json FILE]

Tokens are those of the Gemma tokenizer of ``--model``; its vocabulary is not quite Gemma-2's. What a build
must run is what its choices share, once, and the rest of each; the head is run at scored positions. A
multiplication and an addition are two FLOPs. The floor is that arithmetic at ``--use`` of the card's dense
bfloat16 peak; the host, the disk and the cores that compress must then keep up with its residuals.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import AutoTokenizer, Gemma2Config

from benchmarks import workload
from benchmarks.tables import Table, write_json
from wif_store.extract.model import locate
from wif_store.tasks.rows import load_source
from wif_store.tasks import get_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wif_store.tasks.base import Protocol, Request

TASKS = ("boolq", "piqa", "social_i_qa", "winogrande")
# Of raw bfloat16, as storage.py measures it on real residuals.
STORED = 0.68


@dataclass(frozen=True, slots=True)
class Cost:
    """Counts of one example."""

    run: int
    """Tokens that must be run."""
    pairs: int
    """Pairs of a token and one it attends to, itself included."""
    scored: int
    """Positions whose logits are needed."""
    read: int
    """Tokens of the sequence that is read."""


def count(request: Request, protocol: Protocol, tokenizer: Any) -> Cost:
    """The cost of one example, with what its choices share run once."""
    wholes = tokenizer([context + continuation for context, continuation in request.pairs]).input_ids
    contexts = tokenizer([context for context, _ in request.pairs]).input_ids
    preferred = protocol.site == "preferred"
    # Where only the likelihood of a choice is wanted, nothing is read of its last token.
    sequences = wholes if preferred else [whole[:-1] for whole in wholes]
    stem = 0
    for column in zip(*sequences, strict=False):
        if len(set(column)) > 1:
            break
        stem += 1
    pairs = triangle(stem) + sum(triangle(len(s)) - triangle(stem) for s in sequences)
    scored = {tuple(w[:end]) for w, c in zip(wholes, contexts, strict=True) for end in range(len(c), len(w))}
    return Cost(
        run=stem + sum(len(s) - stem for s in sequences),
        pairs=pairs,
        scored=len(scored),
        read=round(float(np.mean([len(w) for w in wholes]))) if preferred else len(contexts[0]),
    )


def triangle(length: int) -> int:
    """Pairs of a token and one that it may attend to in a causal sequence."""
    return length * (length + 1) // 2


def flops(cost: Cost, config: Gemma2Config) -> dict[str, float]:
    """FLOPs of one example, by part."""
    attended, shared = (
        config.num_attention_heads * config.head_dim,
        config.num_key_value_heads * config.head_dim,
    )
    weights = config.hidden_size * (2 * attended + 2 * shared + 3 * config.intermediate_size)
    return {
        "blocks": 2.0 * weights * config.num_hidden_layers * cost.run,
        "attention": 4.0 * attended * config.num_hidden_layers * cost.pairs,
        "head": 2.0 * config.hidden_size * config.vocab_size * cost.scored,
    }


def mean(costs: Sequence[Cost], name: str) -> float:
    """The mean of one count."""
    return float(np.mean([getattr(cost, name) for cost in costs]))


def main(arguments: list[str] | None = None) -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    workload.add_options(parser)
    parser.add_argument("--examples", type=int, default=4000)
    parser.add_argument("--tflops", type=float, default=990, help="dense bfloat16 peak of the card")
    parser.add_argument("--use", default="0.4,0.6", help="shares of the peak that a forward pass may reach")
    parser.add_argument("--core-rate", type=float, default=350, help="raw MB/s that one core compresses")
    parser.add_argument("--layers-read", type=int, default=5, help="blocks read at every token")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    config = Gemma2Config()  # transformers' defaults are Gemma-2 2B's
    tokenizer = AutoTokenizer.from_pretrained(locate(options.model).path)
    found = {}
    work = Table(
        "Work of an example",
        *("task", "examples", "tokens run", "tokens read", "scored positions"),
        *("GFLOPs: blocks", "attention", "head", "raw KB: final tokens", "sequences"),
    )
    final = 2.0 * config.num_hidden_layers * config.hidden_size
    for name in TASKS:
        task = get_task(name)
        protocol = task.protocol("aligned")
        source = load_source(task, workload.source_of(name, options.data))
        requests = [task.request(c, protocol) for c in source.candidates[: options.examples]]
        costs = [count(request, protocol, tokenizer) for request in requests]
        parts = [flops(cost, config) for cost in costs]
        giga = {part: float(np.mean([p[part] for p in parts])) / 1e9 for part in parts[0]}
        sequences = 2 * options.layers_read * config.hidden_size * mean(costs, "read")
        tokens = (mean(costs, counted) for counted in ("run", "read", "scored"))
        work.add(name, len(costs), *tokens, *giga.values(), final / 1e3, sequences / 1e3)
        found[name] = len(costs), sum(giga.values()), final + sequences
    floor = Table(
        f"Floor at {options.tflops:g} TFLOP/s",
        *("task", "share of peak", "examples/s", "s for all", "to the host, GB/s", "cores to compress"),
        *("to disk, GB/s", "on disk, GB"),
    )
    for name, (examples, giga_each, raw_each) in found.items():
        for use in map(float, options.use.split(",")):
            rate = options.tflops * 1e3 * use / giga_each
            raw = raw_each * rate / 1e9
            speed = [rate, examples / rate, raw, 1e3 * raw / options.core_rate, STORED * raw]
            floor.add(name, use, *speed, STORED * raw_each * examples / 1e9)
    write_json(options.json, [work, floor], model=options.model, tflops=options.tflops)


if __name__ == "__main__":
    main()
