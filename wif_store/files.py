"""The files of a store, in a folder or behind a URL: read within bounds, listed, never through a link."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import zarr

from wif_store.errors import DamageError, StoreError
from wif_store.manifest import MANIFEST_BYTES, parse_manifest
from wif_store.schema import MANIFEST

if TYPE_CHECKING:
    from pathlib import Path

    from wif_store.schema import Manifest


class LocalFiles:
    """A store in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str, most: int) -> bytes:
        """A file of at most ``most`` bytes."""
        path = self.folder / name
        if self.folder.with_name(self.folder.name + ".partial").is_dir() and not path.exists():
            msg = f"{self.folder} is unfinished: run the build command that began it again"
            raise StoreError(msg)
        if not path.is_file():
            msg = f"{self.folder} is not a store: found no {name}; expected what `wif-store build` wrote"
            raise StoreError(msg)
        _check_size(str(path), path.stat().st_size, most)
        return path.read_bytes()

    def sizes(self) -> dict[str, int]:
        """Every file below, with its bytes; links are refused."""
        found: dict[str, int] = {}
        folders = [""]
        while folders:
            inside = folders.pop()
            with os.scandir(self.folder / inside) as entries:
                for entry in entries:
                    name = f"{inside}{entry.name}"
                    kind = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(kind.st_mode):
                        folders.append(f"{name}/")
                    elif stat.S_ISREG(kind.st_mode):
                        found[name] = kind.st_size
                    else:
                        _refuse_link(str(self.folder), name)
        return found

    def zarr_store(self) -> Any:
        """What zarr reads from."""
        return zarr.storage.LocalStore(self.folder, read_only=True)


class RemoteFiles:
    """A store behind a URL; only what is read is fetched."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        # The Hub's file system fetches 5 MiB more than each read asks for, unless told otherwise.
        self.options = {"block_size": 1} if self.url.startswith("hf://") else {}
        self.fs, self.root = fsspec.url_to_fs(self.url, **self.options)

    def read(self, name: str, most: int) -> bytes:
        """A file of at most ``most`` bytes."""
        path = f"{self.root}/{name}"
        try:
            _check_size(path, self.fs.info(path)["size"] or 0, most)
            content: bytes = self.fs.cat_file(path, end=most)
        except FileNotFoundError:
            msg = f"{self.url} is not a store: found no {name}"
            raise StoreError(msg) from None
        return content

    def sizes(self) -> dict[str, int]:
        """Every file below, with its bytes; links are refused."""
        found = self.fs.find(self.root, detail=True)
        sizes = {}
        for path, info in found.items():
            name = path.removeprefix(self.root).lstrip("/")
            if info.get("islink"):
                _refuse_link(self.url, name)
            sizes[name] = info["size"]
        return sizes

    def zarr_store(self) -> Any:
        """What zarr reads from."""
        return zarr.storage.FsspecStore.from_url(self.url, storage_options=self.options, read_only=True)


def _check_size(path: str, size: int, most: int) -> None:
    if size > most:
        msg = f"{path} has {size} bytes; expected at most {most}"
        raise StoreError(msg)


def _refuse_link(store: str, name: str) -> None:
    msg = f"{store}: {name} is a link or no ordinary file; expected only files: copy what it stands for"
    raise DamageError(msg)


def read_manifest(files: LocalFiles | RemoteFiles, name: str) -> Manifest:
    """The manifest, once every file that it names is there and has its size.

    Raises:
        StoreError: If there is no manifest that can be believed.
        DamageError: If a file is missing or has another size.
    """
    manifest = parse_manifest(files.read(MANIFEST, MANIFEST_BYTES), name)
    sizes = files.sizes()
    for file, entry in manifest.files.items():
        if sizes.get(file) != entry["size"]:
            found = "nothing" if file not in sizes else f"{sizes[file]} bytes"
            msg = (
                f"{name}: {file} is damaged (found {found}, expected {entry['size']} bytes): "
                "build or pull the store again"
            )
            raise DamageError(msg)
    return manifest
