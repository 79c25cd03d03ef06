"""How every array of a store is cut into chunks and files: a function of the counts in the manifest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wif_store.format.schema import ARRAYS, COORDINATES, FINAL_TOKEN, SEQUENCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

PLANE: Final = 128 * 2**10
"""Bytes that zstd compresses together; Blosc sorts a chunk into one plane for each byte of a float32."""
SEQUENCE_PLANE: Final = 4 * PLANE
"""Bytes of a plane of a chunk of sequences, at least."""
SHARD_BYTES: Final = 512 * 2**20
"""Of a shard of sequences, uncompressed, at most."""
SHARD_EXAMPLES: Final = 1024
"""Rows of a shard of final tokens, at most."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The plan of one array.

    Attributes:
        shape: Of the array.
        chunk: Of one chunk.
        shard: Of one file, where a file holds many chunks; None where each chunk is a file.
        transposed: Whether a chunk's last two axes are exchanged on disk.
    """

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    shard: tuple[int, ...] | None = None
    transposed: bool = False

    @property
    def file(self) -> tuple[int, ...]:
        """The shape of one file."""
        return self.shard or self.chunk

    @property
    def files(self) -> list[str]:
        """The names of the array's files, below the array."""
        counts = [math.ceil(length / step) for length, step in zip(self.shape, self.file, strict=True)]
        return ["c/" + "/".join(map(str, cell)) for cell in _grid(counts)]

    @property
    def chunks_per_shard(self) -> tuple[int, ...]:
        """How many chunks a shard has along each axis."""
        return tuple(file // chunk for file, chunk in zip(self.file, self.chunk, strict=True))


def sequence_chunk(d_model: int) -> int:
    """Tokens of a chunk of sequences: the fewest whose planes are multiples of ``PLANE`` and large enough."""
    step = PLANE // math.gcd(d_model, PLANE)
    return step * math.ceil(SEQUENCE_PLANE / (step * d_model))


def sequence_shard(d_model: int, layers: int) -> int:
    """Tokens of a full shard of sequences."""
    chunk = sequence_chunk(d_model)
    return chunk * max(1, SHARD_BYTES // (4 * d_model * chunk * max(1, layers)))


def sequence_layout(d_model: int, layers: int, tokens: int) -> Layout:
    """Plan of ``[sequence_layer, token, d_model]``: a shard has all layers of a range of tokens."""
    chunk = min(sequence_chunk(d_model), tokens)
    shard = min(sequence_shard(d_model, layers), chunk * math.ceil(tokens / chunk))
    return Layout((layers, tokens, d_model), (1, chunk, d_model), (layers, shard, d_model))


def final_token_layout(d_model: int, layers: int, examples: int) -> Layout:
    """Plan of ``[layer, example, d_model]``: a shard has all layers of a range of examples.

    A chunk has all examples of its shard. Channels differ more than examples do, so the values of each
    channel stand end to end. The rows of a full shard are a power of two, which makes the planes of its
    chunks multiples of ``PLANE`` at every width that models have: others take 2 to 5 percent more bytes.
    """
    rows = min(SHARD_EXAMPLES, 2 ** math.ceil(math.log2(examples)))
    return Layout((layers, examples, d_model), (1, rows, d_model), (layers, rows, d_model), transposed=True)


def split_layouts(
    layers: Mapping[str, Sequence[int]], sites: Iterable[str], d_model: int, examples: int, tokens: int
) -> dict[str, Layout]:
    """The plans of the arrays of a split, by name.

    Args:
        layers: The decoder layers of ``final_token`` and of ``sequence``.
        sites: Where the former are read.
        d_model: Width of the residual stream.
        examples: Rows of the split.
        tokens: Of all its examples.
    """
    sizes = {"boundary": examples + 1, "token": tokens, "example": examples}
    plans = {
        name: Layout((sizes[spec.dims[0]],), (sizes[spec.dims[0]],))
        for name, spec in ARRAYS.items()
        if len(spec.dims) == 1
    }
    if layers[FINAL_TOKEN]:
        plans |= dict.fromkeys(sites, final_token_layout(d_model, len(layers[FINAL_TOKEN]), examples))
    if layers[SEQUENCE]:
        plans[SEQUENCE] = sequence_layout(d_model, len(layers[SEQUENCE]), tokens)
    return {name: plans[name] for name in ARRAYS if name in plans}


def coordinate_layouts(layers: Mapping[str, Sequence[int]]) -> dict[str, Layout]:
    """The plans of the arrays that name the layers, by name."""
    counts = {"layer": len(layers[FINAL_TOKEN]), "sequence_layer": len(layers[SEQUENCE])}
    return {name: Layout((counts[name],), (max(1, counts[name]),)) for name in COORDINATES}


def _grid(counts: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every cell of a grid, in C order."""
    if not counts:
        yield ()
        return
    for first in range(counts[0]):
        for rest in _grid(counts[1:]):
            yield (first, *rest)
