"""A store as it will stand on the Hub: the store's own files, and its Parquet view made beside it."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from wif_store.errors import PublishError, one_line
from wif_store.format.manifest import LEFT_OUT
from wif_store.format.schema import MANIFEST
from wif_store.hub.parquet import VIEW_VERSION, export_view
from wif_store.hub.repo import check_task_name, store_folder, view_folder
from wif_store.storage import PARTIAL, LocalStorage, describe, write_file
from wif_store.store.reader import open_store
from wif_store.store.verify import verify_store

if TYPE_CHECKING:
    from collections.abc import Callable
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


def stage(folder: Path, on_file: Callable[[int], None] = lambda size: None) -> Staged:
    """Verify a store and write its Parquet view into ``X.zarr.view``, unless it is there already.

    Args:
        folder: The store.
        on_file: Called with the uncompressed bytes of the residuals of each file that is written.

    Raises:
        StoreError: If it is no finished store, or damaged.
        PublishError: If it holds only part of what was built, another push is at it, or the view cannot be
            written.
    """
    verify_store(folder)
    store = open_store(folder)
    check_task_name(store.task, str(folder))
    content = (folder / MANIFEST).read_bytes()
    if LEFT_OUT in json.loads(content):
        msg = f"{folder} was pulled in part: pull it with all layers, or build it, to publish it"
        raise PublishError(msg)
    if not store.layers:
        msg = (
            f"{folder} has no residuals at the final token; expected some to publish: build it with --layers"
        )
        raise PublishError(msg)
    try:
        view = _view(store, folder, hashlib.sha256(content).hexdigest(), on_file)
    except BlockingIOError:
        msg = f"another push is exporting {folder}: wait for it"
        raise PublishError(msg) from None
    except OSError as error:
        msg = f"{view_path(folder)}, the Parquet view of the store, cannot be written ({one_line(error)}): "
        msg += "make room, or make the folder around it writable, or push a copy of the store"
        raise PublishError(msg) from error
    top, data = store_folder(store.task), view_folder(store.task)
    files = {f"{top}/{MANIFEST}": LocalFile(folder / MANIFEST, **describe(folder / MANIFEST))}
    for name, entry in store.manifest.files.items():
        files[f"{top}/{name}"] = LocalFile(folder / name, entry["size"], entry["sha256"])
    for name, entry in view.items():
        files[f"{data}/{name}"] = LocalFile(view_path(folder) / name, **entry)
    return Staged(store, dict(sorted(files.items())))


def view_path(folder: Path) -> Path:
    """The folder beside a store that its view is written to."""
    return folder.with_name(folder.name + ".view")


def _view(
    store: ActivationStore, folder: Path, manifest: str, on_file: Callable[[int], None]
) -> dict[str, dict[str, Any]]:
    view = view_path(folder)
    found = _read_view(view, manifest)
    if found is not None:
        return found
    partial = view.with_name(view.name + PARTIAL)
    with LocalStorage(view).hold():
        shutil.rmtree(partial, ignore_errors=True)
        files = export_view(store, partial, on_file)
        record = {"version": VIEW_VERSION, "manifest": manifest, "files": files}
        write_file(partial / VIEW_RECORD, json.dumps(record, indent=1).encode())
        shutil.rmtree(view, ignore_errors=True)
        partial.rename(view)
    return files


def _read_view(view: Path, manifest: str) -> dict[str, dict[str, Any]] | None:
    """The files of a view that was made from this very store and is still complete."""
    try:
        record = json.loads((view / VIEW_RECORD).read_bytes())
        files: dict[str, dict[str, Any]] = record["files"]
        if (record["version"], record["manifest"]) != (VIEW_VERSION, manifest):
            return None
        same = all(describe(view / name) == entry for name, entry in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return files if same else None
