"""Blocks one after another: prepared ahead, given back in order, and cut smaller where memory is full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wif_store.errors import ModelError

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future, ThreadPoolExecutor

    from wif_store.extract.work import Work
    from wif_store.records import Record
    from wif_store.tasks.base import Request


def ahead(
    pool: ThreadPoolExecutor,
    prepare: Callable[[Sequence[Request]], list[Work]],
    blocks: Iterable[Sequence[Request]],
) -> Iterator[list[Work]]:
    """Prepare each block while the one before it is used."""
    prepared: Future[list[Work]] | None = None
    for requests in blocks:
        following = pool.submit(prepare, requests)
        if prepared is not None:
            yield prepared.result()
        prepared = following
    if prepared is not None:
        yield prepared.result()


def finished(begun: deque[list[Record | None]]) -> Iterator[list[Record]]:
    """Blocks whose records are all there, in their order."""
    while begun and all(record is not None for record in begun[0]):
        yield [record for record in begun.popleft() if record is not None]


def halved(tokens: int, works: Sequence[Work]) -> int:
    """Half as many tokens for a batch.

    Args:
        tokens: How many it could have.
        works: What did not fit into memory: some batches that were scored together.

    Raises:
        ModelError: If the longest example of them was alone in its batch already.
    """
    longest = max(works, key=len)
    if tokens <= len(longest):
        msg = (
            f"example {longest.encoded.request.id} has {len(longest)} tokens to run, which do not fit into "
            "memory even alone: pass --sequence-layers none or --device-map auto, or leave so long texts out"
        )
        raise ModelError(msg)
    return tokens // 2
