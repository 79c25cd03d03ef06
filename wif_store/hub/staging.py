"""A store as it will stand on the Hub: the store's own files, and its Parquet view made beside it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from wif_store.errors import PublishError
from wif_store.format.manifest import LEFT_OUT
from wif_store.storage import describe, write_file
from wif_store.hub.parquet import VIEW_VERSION, export_view
from wif_store.format.schema import MANIFEST
from wif_store.store.reader import open_store
from wif_store.store.verify import verify_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wif_store.store.reader import ActivationStore

VIEW_RECORD: Final = "view.json"


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to publish."""

    path: Path
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Staged:
    """A verified store with its view. ``files`` are keyed by their path in the repository."""

    store: ActivationStore
    files: dict[str, LocalFile]


def view_folder(task: str) -> str:
    """Where a task's Parquet files stand in the repository."""
    return f"data/{task}"


def store_folder(task: str) -> str:
    """Where a task's store stands in the repository."""
    return f"zarr/{task}.zarr"


def stage(folder: Path, on_file: Callable[[int], None] = lambda size: None) -> Staged:
    """Verify a store and write its Parquet view into ``X.zarr.view``, unless it is there already.

    Raises:
        StoreError: If it is no finished store, or damaged.
        PublishError: If it holds only part of what was built, or another push is at it.
    """
    verify_store(folder)
    store = open_store(folder)
    content = (folder / MANIFEST).read_bytes()
    if LEFT_OUT in json.loads(content):
        msg = f"{folder} was pulled in part: pull it whole, or build it, to publish it"
        raise PublishError(msg)
    view = _view(store, folder, hashlib.sha256(content).hexdigest(), on_file)
    top, data = store_folder(store.task), view_folder(store.task)
    files = {f"{top}/{MANIFEST}": LocalFile(folder / MANIFEST, **describe(folder / MANIFEST))}
    files |= {
        f"{top}/{name}": LocalFile(folder / name, **entry) for name, entry in store.manifest.files.items()
    }
    place = view_place(folder)
    files |= {f"{data}/{name}": LocalFile(place / name, **entry) for name, entry in view.items()}
    return Staged(store, dict(sorted(files.items())))


def view_place(folder: Path) -> Path:
    """The folder beside a store that its view is written to."""
    return folder.with_name(folder.name + ".view")


def _view(
    store: ActivationStore, folder: Path, manifest: str, on_file: Callable[[int], None]
) -> dict[str, dict[str, Any]]:
    place = view_place(folder)
    found = _read_view(place, manifest)
    if found is not None:
        return found
    partial = place.with_name(place.name + ".partial")
    with _alone(folder):
        shutil.rmtree(partial, ignore_errors=True)
        files = export_view(store, partial, on_file)
        record = {"version": VIEW_VERSION, "manifest": manifest, "files": files}
        write_file(partial / VIEW_RECORD, json.dumps(record, indent=1).encode())
        shutil.rmtree(place, ignore_errors=True)
        partial.rename(place)
    return files


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a store's folder, so that two pushes do not write one view."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        msg = f"another push is exporting {folder}: wait for it"
        raise PublishError(msg) from None
    finally:
        os.close(descriptor)


def _read_view(place: Path, manifest: str) -> dict[str, dict[str, Any]] | None:
    """The files of a view that was made from this very store and is still whole."""
    try:
        record = json.loads((place / VIEW_RECORD).read_bytes())
        files: dict[str, dict[str, Any]] = record["files"]
        if (record["version"], record["manifest"]) != (VIEW_VERSION, manifest):
            return None
        same = all(describe(place / name) == entry for name, entry in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return files if same else None
