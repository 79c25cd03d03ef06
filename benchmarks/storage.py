"""How small is a store, how near is that to what the data allow, and what would other formats make of it?

    python -m benchmarks.storage [STORE...] [--data FOLDER_OF_JSONL] [--examples N] [--json FILE]

Bytes are those of the shards of an array, index and checksums included, over two for every value. The
entropy is that of a value given its channel, in the middle layer: as counted, which is too low where the rows
are few, and with the Miller-Madow correction. Codecs take turns on one core, over the first ``--megabytes``
of raw bfloat16 of that layer; a rate is in that, and by CPU time. Without stores, one of each task is built,
in ``--folder`` to read them again; with ``--keep-all``, balance leaves no example out.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numcodecs
import numpy as np
import torch

from benchmarks import codecs, workload
from benchmarks.clock import interleave, median, one_core
from benchmarks.tables import Table, write_json
from wif_store.format.schema import FINAL_TOKEN, SEQUENCE
from wif_store.store.reader import ActivationStore, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def entropy(bits: codecs.Bits) -> tuple[float, float]:
    """Bits per value given its channel, over 16: as counted, and corrected for what was not seen."""
    rows, channels = bits.shape
    counted = corrected = 0.0
    for channel in range(channels):
        counts = np.bincount(bits[:, channel])
        counts = counts[counts > 0]
        shares = counts / rows
        here = -float((shares * np.log2(shares)).sum())
        counted += here
        corrected += here + (len(counts) - 1) / (2 * rows * np.log(2))
    return counted / channels / 16, corrected / channels / 16


def stored_bytes(store: ActivationStore, array: str) -> int:
    """Bytes of an array's shards, as the manifest counts them."""
    return sum(
        entry["size"] for name, entry in store.manifest.files.items() if name.startswith(f"{array}/c/")
    )


def sizes(stores: Sequence[ActivationStore]) -> Table:
    """The size of every store against the entropy of one of its layers."""
    table = Table(
        "Size", "store", "array", "examples", "tokens", "bytes / raw", "entropy / raw", "corrected", "asked"
    )
    for store in stores:
        tokens = int(store.offsets()[-1])
        for array, layers, rows, asked, read in (
            (SEQUENCE, store.sequence_layers, tokens, "<= 0.68", store.read_sequences),
            (FINAL_TOKEN, store.layers, len(store), "<= 0.67", store.read_final_token),
        ):
            if layers:
                raw = 2 * len(layers) * rows * store.d_model
                found = entropy(codecs.bits_of(read(layers[len(layers) // 2])[0]))
                table.add(
                    store.task, array, len(store), tokens, stored_bytes(store, array) / raw, *found, asked
                )
    return table


def compare(title: str, ways: Sequence[codecs.Codec], bits: codecs.Bits, turns: int) -> Table:
    """Size and speed of every way to keep ``bits``, on one core."""
    table = Table(title, "codec", "bytes / raw", "encode MB/s", "decode MB/s", "asked")
    megabytes = bits.nbytes / 1e6
    kept = {way.name: way.encode(bits) for way in ways}
    works: dict[str, Callable[[], object]] = {f"encode {way.name}": partial(way.encode, bits) for way in ways}
    works |= {f"decode {way.name}": partial(way.decode, kept[way.name]) for way in ways}
    numcodecs.blosc.set_nthreads(1)
    # A thread of torch's that spins for more work would take the one core from whoever has the next turn.
    torch.set_num_threads(1)
    with one_core():
        _, seconds = interleave(works, turns)
    for way in ways:
        rates = (megabytes / median(seconds, f"{verb} {way.name}") for verb in ("encode", "decode"))
        asked = "encode >= 350" if "plan" in way.name else ""
        table.add(way.name, way.size(kept[way.name]) / bits.nbytes, *rates, asked)
    return table


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stores", nargs="*", type=Path)
    workload.add_options(parser)
    parser.add_argument("--tasks", default="winogrande,boolq,piqa,social_i_qa")
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--keep-all", action="store_true", help="count every other example as a success")
    parser.add_argument("--folder", type=Path, help="where stores are built, to be kept")
    parser.add_argument("--megabytes", type=float, default=16)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        paths = options.stores or [
            workload.make_store(name, options, folder) for name in options.tasks.split(",")
        ]
        stores = [open_store(path) for path in paths]
        tables = [sizes(stores)]
        store = stores[0]
        rows = max(1, int(options.megabytes * 1e6) // (2 * store.d_model))
        if store.sequence_layers:
            layer = store.sequence_layers[len(store.sequence_layers) // 2]
            bits = codecs.bits_of(store.read_sequences(layer)[0][:rows])
            title = f"{store.task}: sequences of layer {layer}, {len(bits):,} tokens"
            tables.append(compare(title, codecs.sequences(store.d_model), bits, options.turns))
            tables.append(compare(f"{title}: chunks", codecs.chunk_plans(store.d_model), bits, options.turns))
        layer = store.layers[len(store.layers) // 2]
        bits = codecs.bits_of(store.read_final_token(layer)[0][:rows])
        title = f"{store.task}: final tokens of layer {layer}, {len(bits):,} examples"
        tables.append(compare(title, codecs.final_tokens(store.d_model), bits, options.turns))
    write_json(options.json, tables, turns=options.turns, dtype=options.dtype, model=options.model)


if __name__ == "__main__":
    main()
