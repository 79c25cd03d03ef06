"""A finished store that is damaged: bits flipped, files cut short, gone, exchanged; then mended again."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.builds import made_up_job, numbers
from tests.faults.report import Row
from wif_store.errors import StoreError
from wif_store.format.chunks import index_bytes, read_index, shard_file
from wif_store.format.metadata import layouts_of
from wif_store.format.schema import COORDINATES, MANIFEST, METADATA
from wif_store.store.reader import open_store
from wif_store.store.verify import verify_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.campaign import Campaign


def flips(campaign: Campaign) -> Iterator[Row]:
    """One bit of one file changed: every file in turn, so that small ones are not left out."""
    store = campaign.at("flips") / "s.zarr"
    made_up_job(store.parent).run(store)
    files = sorted(p for p in store.rglob("*") if p.is_file())
    check = Damage(store, "one bit flipped", len(files) * campaign.count(1, 8))
    for number in range(check.wanted):
        path = files[number % len(files)]
        with _kept(path):
            content = bytearray(path.read_bytes())
            at = campaign.rng.randrange(8 * len(content))
            content[at // 8] ^= 1 << at % 8
            path.write_bytes(content)
            check(path, f"bit {at} flipped")
    yield from check.rows


def files(campaign: Campaign) -> Iterator[Row]:
    """Files and chunks that are cut short, empty, gone, links, of another split or store, or too many."""
    store = campaign.at("files") / "s.zarr"
    made_up_job(store.parent).run(store)
    # The same task and shape, other values: its files fit in every way but their content.
    other = store.with_name("other.zarr")
    made_up_job(store.parent / "rows", 56).run(other)
    paths = sorted(p for p in store.rglob("*") if p.is_file())
    check = Damage(store, "a file cut, gone or exchanged", 0)
    for path in paths[:: campaign.count(5, 1)]:
        name = path.relative_to(store)
        size = path.stat().st_size
        for length in {0, size // 2, size - 1}:
            with _kept(path):
                os.truncate(path, length)
                check(path, f"cut to {length} bytes")
        with _kept(path):
            path.unlink()
            check(path, "gone")
        with _kept(path):
            path.unlink()
            path.symlink_to(store.parent / "kept")
            check(path, "a link to itself elsewhere")
        others = [other / name, *[p for p in paths if p != path and p.stat().st_size == size][:2]]
        if len(name.parts) > 1 and name.parts[0] == "train":
            others.append(store / "validation" / Path(*name.parts[1:]))
        for source in others:
            if source.is_file() and source.read_bytes() != path.read_bytes():
                with _kept(path):
                    shutil.copyfile(source, path)
                    check(path, f"exchanged for {source.name} of {source.parent}")
    for name in ("stray", "train/stray", "train/sequence/c/0/99/0", ".hidden"):
        stray = store / name
        stray.parent.mkdir(parents=True, exist_ok=True)
        stray.write_bytes(b"stray")
        check(stray, "a file too many", harmless=True)
        stray.unlink()
        if not any(stray.parent.iterdir()):
            stray.parent.rmdir()
    yield from check.rows
    yield _chunks(store, campaign.count(8, 1))


def _chunks(store: Path, step: int) -> Row:
    """Chunks of a shard exchanged; the index and every checksum fit."""
    check = Damage(store, "two chunks of a shard exchanged", 0)
    opened = open_store(store)
    for path, layout in layouts_of(opened.manifest).items():
        if layout.shard is None:
            continue
        for file in layout.files:
            shard = store / path / file
            content = shard.read_bytes()
            count = layout.chunks_per_shard[0] * layout.chunks_per_shard[1] * layout.chunks_per_shard[2]
            places = read_index(content[-index_bytes(count) :], count, len(content) - index_bytes(count))
            chunks = [content[a : a + n] if n > 0 else None for a, n in places.tolist()]
            there = [i for i, chunk in enumerate(chunks) if chunk is not None]
            for i, j in list(pairwise(there))[::step]:
                with _kept(shard):
                    exchanged = list(chunks)
                    exchanged[i], exchanged[j] = chunks[j], chunks[i]
                    shard.write_bytes(b"".join(shard_file(exchanged, count)))
                    check(shard, f"chunks {i} and {j} exchanged")
    return check.rows[0].joined(check.rows[1])


class Damage:
    """Whether ``verify`` finds and names what was damaged, and what reading everything gives."""

    def __init__(self, store: Path, what: str, wanted: int) -> None:
        self.store, self.wanted = store, wanted
        self.rows = (Row(f"{what}: verify", wanted), Row(f"{what}: read everything", wanted))
        self.whole = numbers(store)

    def __call__(self, path: Path, how: str, *, harmless: bool = False) -> None:
        """Count one damage; one that is ``harmless`` must be found, but may be read past."""
        found, read = self.rows
        name = path.relative_to(self.store).as_posix()
        try:
            verify_store(self.store)
            found.bad(f"{name}, {how}: not found")
        except StoreError as error:
            # Another store's manifest is good by itself: what does not fit it is another file.
            named = name in str(error) or name == MANIFEST
            found.good(f"`{error}`") if named else found.bad(f"{name}, {how}: {error}")
        except Exception as error:
            found.bad(f"{name}, {how}: {type(error).__name__} {error}")
        try:
            same = numbers(self.store) == self.whole
        except StoreError as error:
            read.notes["raised"] += 1
            read.good(f"`{error}`")
        except Exception as error:
            read.bad(f"{name}, {how}: {type(error).__name__} {error}")
        else:
            if not same:
                read.bad(f"{name}, {how}: read as other numbers")
            elif not (harmless or path.name == METADATA or name.partition("/")[0] in COORDINATES):
                read.bad(f"{name}, {how}: not found by reading it")
            else:
                # The reader knows the metadata and the layers from the manifest.
                read.notes["not read, and right"] += 1
                read.good()


@contextmanager
def _kept(path: Path) -> Iterator[None]:
    """Put a file back afterwards."""
    content = path.read_bytes()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(content)
