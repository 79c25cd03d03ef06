"""Bit rot: single bytes of a finished store, changed one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.faults.builds import numbers
from benchmarks.faults.report import Row
from wif_store.errors import StoreError
from wif_store.store.verify import verify_store

if TYPE_CHECKING:
    import random
    from pathlib import Path


def byte_flips(store: Path, count: int, rng: random.Random) -> tuple[Row, Row]:
    """Change one byte of one file, ``count`` times: is it found and named, and what is read?"""
    found, read = Row("one byte changed: verify"), Row("one byte changed: read everything")
    files = sorted(p for p in store.rglob("*") if p.is_file())
    whole = numbers(store)
    for number in range(count):
        # Every file in turn, so that small ones are not left out.
        path = files[number % len(files)]
        content = path.read_bytes()
        at, mask = rng.randrange(len(content)), rng.randrange(1, 256)
        path.write_bytes(content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :])
        name = path.relative_to(store).as_posix()
        try:
            verify_store(store)
            found.bad(f"{name}, byte {at} ^ {mask}: not found")
        except StoreError as error:
            if name in str(error):
                found.good(f"`{error}`")
            else:
                found.bad(f"{name}, byte {at} ^ {mask}: {error}")
        except Exception as error:
            found.bad(f"{name}, byte {at} ^ {mask}: {type(error).__name__} {error}")
        try:
            if numbers(store) == whole:
                read.notes["never read (an array's own metadata)"] += 1
                read.good()
            else:
                read.bad(f"{name}, byte {at} ^ {mask}: read as other numbers")
        except StoreError as error:
            read.notes["raised"] += 1
            read.good(f"`{error}`")
        except Exception as error:
            read.bad(f"{name}, byte {at} ^ {mask}: {type(error).__name__} {error}")
        path.write_bytes(content)
    return found, read
