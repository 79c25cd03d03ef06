"""Decoders that look at how much a chunk says it holds before they make room for it.

A few bytes of zstd or Blosc can stand for gigabytes, and a list of texts can say that it has billions. What
a chunk must hold is known from its shape, which is checked against the files before.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Final

from zarr import codecs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SLACK: Final = 16 * 2**20
MOST_COMPRESSED: Final = 100
"""Texts may hold this many times the bytes of their chunk, and ``SLACK`` besides for constant ones."""
ZSTD_MAGIC: Final = bytes.fromhex("28b52ffd")


class _Bounded:
    """Refuses a chunk that declares more than its place in the array has."""

    def _check(self, chunk: bytes, size: int, values: int, itemsize: int | None) -> None:
        raise NotImplementedError

    def _decode_sync(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        itemsize = getattr(chunk_spec.dtype.to_native_dtype(), "itemsize", 0)
        variable = chunk_spec.dtype.to_native_dtype().kind in "OT"
        head = bytes(chunk_bytes.as_array_like()[:20])
        self._check(head, len(chunk_bytes), math.prod(chunk_spec.shape), None if variable else itemsize)
        return super()._decode_sync(chunk_bytes, chunk_spec)  # type: ignore[misc]

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)


# Named as zarr's own: it looks at a codec's name to see whether it fits a type.
class BloscCodec(_Bounded, codecs.BloscCodec):
    """Blosc, whose header says how much it holds."""

    def _check(self, chunk: bytes, size: int, values: int, itemsize: int | None) -> None:
        expect_size(int.from_bytes(chunk[4:8], "little"), size, values, itemsize)


class ZstdCodec(_Bounded, codecs.ZstdCodec):
    """Zstd, whose frame says how much it holds."""

    def _check(self, chunk: bytes, size: int, values: int, itemsize: int | None) -> None:
        expect_size(zstd_content_size(chunk), size, values, itemsize)


class VLenUTF8Codec(_Bounded, codecs.VLenUTF8Codec):
    """Texts, which say first how many they are."""

    def _check(self, chunk: bytes, size: int, values: int, itemsize: int | None) -> None:
        expect_size(int.from_bytes(chunk[:4], "little"), size, values, 1)


_OURS: Final[Mapping[str, Any]] = {
    "blosc": BloscCodec,
    "zstd": ZstdCodec,
    "vlen-utf8": VLenUTF8Codec,
}


def bounded(pipeline: Sequence[Any]) -> list[Any]:
    """The codecs of an array's metadata, with decoders in place of those that would trust a chunk."""
    made: list[Any] = []
    for codec in pipeline:
        if codec["name"] == "sharding_indexed":
            inside = codec["configuration"]
            made.append({**codec, "configuration": {**inside, "codecs": bounded(inside["codecs"])}})
        else:
            made.append(_OURS[codec["name"]].from_dict(codec) if codec["name"] in _OURS else codec)
    return made


def zstd_content_size(frame: bytes) -> int:
    """What a zstd frame says it holds, in bytes (RFC 8878, 3.1.1.1).

    Raises:
        ValueError: If it is no frame, or does not say.
    """
    flags = frame[4] if len(frame) > 4 and frame[:4] == ZSTD_MAGIC else None
    if flags is None:
        msg = "a chunk is not a zstd frame"
        raise ValueError(msg)
    single = bool(flags & 0x20)
    width = {0: 1 if single else 0, 1: 2, 2: 4, 3: 8}[flags >> 6]
    start = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    if not width or len(frame) < start + width:
        msg = "a zstd frame does not say how much it holds"
        raise ValueError(msg)
    return int.from_bytes(frame[start : start + width], "little") + (256 if width == 2 else 0)


def expect_size(declared: int, size: int, values: int, itemsize: int | None) -> None:
    """Hold what a chunk of ``size`` bytes says it holds against its place in the array.

    Raises:
        ValueError: If it is another size; where the size of an item varies, if it is absurd.
    """
    if itemsize is None:
        wrong = declared > SLACK + MOST_COMPRESSED * size
    else:
        wrong = declared != values * itemsize
    if wrong:
        msg = f"a chunk of {size} bytes says it holds {declared}; its place has {values} values"
        raise ValueError(msg)
