"""Ways to keep a matrix of bfloat16 residuals, each a pair of functions: what is stored, and back."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numcodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import zarr
from safetensors import torch as safetensors

from wif_store.format.layout import Layout, final_token_layout, sequence_layout
from wif_store.records import narrow, widen
from wif_store.builder.shards import chunks_of

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKSUM = 4
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


def blosc(
    name: str, rows: int, *, level: int = 1, shuffle: int = numcodecs.Blosc.SHUFFLE, block: bool = True
) -> Codec:
    """Blosc's zstd over the float32 numbers in chunks of ``rows``, each one block or cut as Blosc likes."""

    def encode(bits: Bits) -> list[bytes]:
        size = 4 * rows * bits.shape[1] if block else 0
        codec = numcodecs.Blosc("zstd", level, shuffle, size)
        return [codec.encode(widen(bits[at : at + rows])) for at in range(0, len(bits), rows)]

    return Codec(name, encode, lambda kept: [numcodecs.Blosc().decode(c) for c in kept], _total)


def as_built(name: str, layout: Callable[[int, int], Layout]) -> Codec:
    """The package's own chunks, as a build makes them: widened, compressed, with their checksums."""

    def encode(bits: Bits) -> list[bytes]:
        return list(chunks_of(layout(bits.shape[1], len(bits)), bits))

    def decode(kept: list[bytes]) -> list[bytes]:
        return [numcodecs.Blosc().decode(chunk[:-CHECKSUM]) for chunk in kept]

    return Codec(name, encode, decode, _total)


def planned(name: str, layout: Callable[[int, int], Layout]) -> Codec:
    """The package's own layout, through zarr, checksums and shard index included."""

    def encode(bits: Bits) -> dict[str, Any]:
        plan = layout(bits.shape[1], len(bits))
        return _through_zarr(
            widen(bits)[None],
            chunks=plan.chunks,
            shards=plan.shards,
            filters=plan.filters or "auto",
            compressors=plan.compressors,
            fill_value=np.nan,
        )

    return Codec(name, encode, _from_zarr, _total_of_zarr)


def zarr_default(name: str, rows: int, view: Callable[[Bits], np.ndarray]) -> Codec:
    """What zarr does unless told otherwise, in the same chunks."""
    return Codec(
        name,
        lambda bits: _through_zarr(view(bits)[None], chunks=(1, min(rows, len(bits)), bits.shape[1])),
        _from_zarr,
        _total_of_zarr,
    )


def savez(bits: Bits) -> bytes:
    """``numpy.savez_compressed`` of the float32 numbers."""
    file = io.BytesIO()
    np.savez_compressed(file, residuals=widen(bits))
    return file.getvalue()


def parquet(bits: Bits) -> bytes:
    """Parquet, float32 in fixed-size lists, byte streams split, zstd-1."""
    file = io.BytesIO()
    values = pa.FixedSizeListArray.from_arrays(pa.array(widen(bits).reshape(-1)), bits.shape[1])
    pq.write_table(
        pa.table({"residuals": values}),
        file,
        compression="zstd",
        compression_level=1,
        use_dictionary=False,
        column_encoding={"residuals.list.element": "BYTE_STREAM_SPLIT"},
    )
    return file.getvalue()


def sequences(d_model: int) -> list[Codec]:
    """The plan for sequences and its alternatives; the plan stands first."""
    rows = sequence_layout(d_model, 2**31).chunks[1]
    return [
        as_built("the plan, as built", sequence_layout),
        planned("the same layout through zarr, with its index", sequence_layout),
        blosc("Blosc zstd-1, shuffle, one block a chunk", rows),
        blosc("Blosc zstd-1, shuffle, automatic blocks", rows, block=False),
        blosc("Blosc zstd-1, bit shuffle, one block a chunk", rows, shuffle=numcodecs.Blosc.BITSHUFFLE),
        blosc("Blosc zstd-3, shuffle, one block a chunk", rows, level=3),
        blosc("Blosc zstd-5, shuffle, one block a chunk", rows, level=5),
        blosc("Blosc zstd-9, shuffle, one block a chunk", rows, level=9),
        *others(rows),
    ]


def chunk_plans(d_model: int) -> list[Codec]:
    """The plan for sequences in chunks of other sizes."""

    def of(rows: int) -> Callable[[int, int], Layout]:
        return lambda d_model, tokens: replace(sequence_layout(d_model, tokens), chunks=(1, rows, d_model))

    return [
        as_built(f"{rows:,} tokens, {4 * rows * d_model / 2**20:.3g} MiB", of(rows))
        for rows in (64, 128, 256, 512, 1024, 2048, 4096)
    ]


def final_tokens(d_model: int) -> list[Codec]:
    """The plan for final tokens and its alternatives; the plan stands first."""
    rows = final_token_layout(d_model, 2**31).chunks[1]
    return [
        as_built("the plan, as built: channel-major", final_token_layout),
        planned("the same layout through zarr, with its index", final_token_layout),
        as_built("as sequences: example-major", sequence_layout),
        *others(rows),
    ]


def others(rows: int) -> list[Codec]:
    """What people use."""
    return [
        zarr_default("zarr's default, float32", rows, widen),
        zarr_default("zarr's default, the bits as uint16", rows, lambda bits: bits),
        Codec(
            "Parquet float32, byte streams split, zstd-1",
            parquet,
            lambda kept: pq.read_table(io.BytesIO(kept)),
        ),
        Codec("numpy.savez_compressed, float32", savez, lambda kept: np.load(io.BytesIO(kept))["residuals"]),
        Codec(
            "safetensors, bfloat16",
            lambda bits: safetensors.save({"residuals": torch.from_numpy(bits).view(torch.bfloat16)}),
            lambda kept: safetensors.load(kept)["residuals"].float().numpy(),
        ),
    ]


def _through_zarr(values: np.ndarray, **plan: Any) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    array = zarr.create_array(zarr.storage.MemoryStore(kept), shape=values.shape, dtype=values.dtype, **plan)
    array[...] = values
    return kept


def _from_zarr(kept: dict[str, Any]) -> Any:
    return zarr.open_array(zarr.storage.MemoryStore(kept), mode="r")[...]


def _total(kept: list[bytes]) -> int:
    return sum(map(len, kept))


def _total_of_zarr(kept: dict[str, Any]) -> int:
    return sum(len(value) for name, value in kept.items() if not name.endswith("zarr.json"))
