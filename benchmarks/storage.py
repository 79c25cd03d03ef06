"""How small is a store, how quick are its codecs, and what would other formats make of it?

    python -m benchmarks.storage [STORE...] [--data FOLDER_OF_JSONL] [--examples N] [--keep-all] [--json FILE]

Bytes are those of the shards of an array, index and checksums included, over two for every value. Codecs
take turns on one core, over the first ``--megabytes`` of raw bfloat16 of the middle layer; a rate is in that,
and by CPU time. Without stores one of each of ``--tasks`` is built, in ``--folder`` to read it again; with
``--keep-all`` balance leaves no example out, for every other one counts as a success.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numcodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

from benchmarks import workload
from benchmarks.clock import interleave, median, one_core
from benchmarks.tables import Table, say, write_json
from wif_store.builder.shards import encode_rows
from wif_store.format.chunks import decode
from wif_store.format.layout import Layout, final_token_layout, sequence_layout
from wif_store.format.schema import FINAL_TOKEN, SEQUENCE
from wif_store.records import narrow, widen
from wif_store.store.reader import ActivationStore, open_store
from wif_store.tasks import get_task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Bits = np.ndarray
"""uint16 ``[rows, d_model]``: bfloat16 bits."""


@dataclass(frozen=True, slots=True)
class Codec:
    """``encode`` takes bits and gives what is stored; ``decode`` takes that and gives numbers."""

    name: str
    encode: Callable[[Bits], Any]
    decode: Callable[[Any], Any]
    size: Callable[[Any], int] = len


def bits_of(values: np.ndarray) -> Bits:
    """The bits of float32 numbers that came from bfloat16.

    Raises:
        ValueError: If they did not.
    """
    values = np.ascontiguousarray(values)
    if np.any(values.view(np.uint32) & 0xFFFF):
        msg = "the values are not bfloat16 numbers; expected a store that was built with --dtype bfloat16"
        raise ValueError(msg)
    return narrow(values, "bfloat16")


def ours(layout: Layout) -> Codec:
    """The chunks of a store, made as a build makes them: widened, compressed, with their checksums."""
    _, rows, channels = layout.chunk

    def encoded(bits: Bits) -> list[bytes]:
        # A shard has fewer rows than its chunks only at the end of a split.
        whole = range(0, len(bits) - rows + 1, rows)
        return [encode_rows(bits[at : at + rows], layout) for at in whole]

    out = np.empty((channels, rows) if layout.transposed else (rows, channels), np.float32)

    def decoded(kept: list[bytes]) -> None:
        for chunk in kept:
            decode(np.frombuffer(chunk, np.uint8), out)

    return Codec("the store's", encoded, decoded, lambda kept: sum(map(len, kept)))


def others(rows: int) -> list[Codec]:
    """What people use."""
    return [
        Codec("zarr's default, float32", partial(_to_zarr, rows), _from_zarr, _size_of_zarr),
        Codec("Parquet float32, byte streams split, zstd-1", _to_parquet, _from_parquet),
        Codec("numpy.savez_compressed, float32", _to_savez, lambda kept: np.load(io.BytesIO(kept))["x"]),
    ]


def _to_zarr(rows: int, bits: Bits) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    chunks = (min(rows, len(bits)), bits.shape[1])
    array = zarr.create_array(
        zarr.storage.MemoryStore(kept), shape=bits.shape, dtype="float32", chunks=chunks
    )
    array[...] = widen(bits)
    return kept


def _from_zarr(kept: dict[str, Any]) -> Any:
    return zarr.open_array(zarr.storage.MemoryStore(kept), mode="r")[...]


def _size_of_zarr(kept: dict[str, Any]) -> int:
    return sum(len(value) for name, value in kept.items() if not name.endswith("zarr.json"))


def _to_parquet(bits: Bits) -> bytes:
    file = io.BytesIO()
    values = pa.FixedSizeListArray.from_arrays(pa.array(widen(bits).reshape(-1)), bits.shape[1])
    split = {"x.list.element": "BYTE_STREAM_SPLIT"}
    given: dict[str, Any] = {"compression_level": 1, "use_dictionary": False, "column_encoding": split}
    pq.write_table(pa.table({"x": values}), file, compression="zstd", **given)
    return file.getvalue()


def _from_parquet(kept: bytes) -> Any:
    return pq.read_table(io.BytesIO(kept))


def _to_savez(bits: Bits) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, x=widen(bits))
    return file.getvalue()


def stored_bytes(store: ActivationStore, array: str) -> int:
    """Bytes of an array's shards, as the manifest counts them."""
    return sum(entry["size"] for name, entry in store.manifest.files.items() if f"/{array}/c/" in name)


def sizes(stores: Sequence[ActivationStore]) -> Table:
    """The size of every store."""
    table = Table("Size", "store", "array", "examples", "tokens", "bytes / raw", "asked")
    for store in stores:
        tokens = int(store.offsets()[-1])
        kinds = ((SEQUENCE, store.sequence_layers, tokens), (FINAL_TOKEN, store.layers, len(store)))
        for array, layers, rows in kinds:
            if layers:
                raw = 2 * len(layers) * rows * store.d_model
                table.add(store.task, array, len(store), tokens, stored_bytes(store, array) / raw, "<= 0.68")
    return table


def compare(title: str, layout: Layout, bits: Bits, turns: int) -> Table:
    """Size and speed of every way to keep ``bits``, on one core."""
    table = Table(title, "codec", "bytes / raw", "encode MB/s", "decode MB/s", "asked")
    rows = layout.chunk[1]
    bits = bits[: len(bits) - len(bits) % rows]
    megabytes = bits.nbytes / 1e6
    ways = [ours(layout), *others(rows)]
    kept = {way.name: way.encode(bits) for way in ways}
    works: dict[str, Callable[[], object]] = {f"encode {way.name}": partial(way.encode, bits) for way in ways}
    works |= {f"decode {way.name}": partial(way.decode, kept[way.name]) for way in ways}
    numcodecs.blosc.set_nthreads(1)
    with one_core():
        _, seconds = interleave(works, turns, title)
    for way in ways:
        rates = [megabytes / median(seconds, f"{verb} {way.name}") for verb in ("encode", "decode")]
        asked = "encode >= 350 with AVX-512, 250 without" if way is ways[0] else ""
        table.add(way.name, way.size(kept[way.name]) / bits.nbytes, *rates, asked)
    return table


def built(name: str, options: argparse.Namespace, folder: Path) -> Path:
    """Build a store of the first examples of a task below ``folder``."""
    task = get_task(name)
    source = workload.rows_of(name, options.data, options.examples, folder)
    engine = workload.open_model(options, task)
    out = folder / f"{name}.zarr"
    workload.build(task, source, workload.keep_all(engine, source) if options.keep_all else engine, out)
    return out


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stores", nargs="*", type=Path)
    workload.add_options(parser)
    parser.add_argument("--tasks", default="winogrande")
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--keep-all", action="store_true", help="count every other example as a success")
    parser.add_argument("--folder", type=Path, help="where stores are built, to be kept")
    parser.add_argument("--megabytes", type=float, default=16)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args(arguments)
    count = 0 if options.stores else options.examples * len(options.tasks.split(","))
    say(f"storage: about {0.5 + 0.1 * options.turns + count * 0.2 / 60:.1f} minutes on two cores")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        paths = options.stores or [built(name, options, folder) for name in options.tasks.split(",")]
        stores = [open_store(path) for path in paths]
        tables, store = [sizes(stores)], stores[0]
        rows = max(1, int(options.megabytes * 1e6) // (2 * store.d_model))
        arrays = (
            ("sequences", store.sequence_layers, store.read_sequences, sequence_layout),
            ("final tokens", store.layers, store.read_final_token, final_token_layout),
        )
        for what, layers, read, layout in arrays:
            if layers:
                layer = layers[len(layers) // 2]
                bits = bits_of(read(layer)[0][:rows])
                title = f"{store.task}: {what} of layer {layer}, {len(bits):,} rows"
                plan = layout(
                    store.d_model, len(layers), len(bits) if what == "sequences" else _fitting(len(bits))
                )
                tables.append(compare(title, plan, bits, options.turns))
    write_json(options.json, tables, turns=options.turns, model=options.model)


def _fitting(rows: int) -> int:
    """The largest power of two that is not more."""
    return 1 << rows.bit_length() - 1


if __name__ == "__main__":
    main()
