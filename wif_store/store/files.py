"""The files of a store, read within bounds and held against the manifest."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from wif_store.errors import DamageError, StoreError, one_line
from wif_store.format.chunks import index_bytes
from wif_store.format.manifest import MANIFEST_BYTES, parse_manifest
from wif_store.format.metadata import data_files, layouts_of, metadata_files
from wif_store.format.schema import ARRAYS, COORDINATES, MANIFEST, METADATA
from wif_store.format.table import MOST_COMPRESSED, SLACK
from wif_store.storage import PARTIAL

if TYPE_CHECKING:
    from wif_store.format.schema import Manifest
    from wif_store.storage import Storage


def read_file(storage: Storage, name: str, most: int) -> bytes:
    """A file of a store, of at most ``most`` bytes.

    Raises:
        StoreError: If it is not there, larger, or cannot be read.
    """
    try:
        size = storage.size(name)
        if size > most:
            msg = f"{storage}/{name} has {size} bytes; expected at most {most}"
            raise StoreError(msg)
        return storage.read(name, 0, size)
    except (FileNotFoundError, NotADirectoryError):
        if storage.parent.exists(storage.name + PARTIAL):
            msg = f"{storage} is unfinished: run the build command that began it again"
        else:
            msg = f"{storage} is not a store: found no {name}; expected what `wif-store build` wrote"
        raise StoreError(msg) from None
    except OSError as error:
        msg = f"{storage}/{name} cannot be read ({one_line(error)}): mend that, or open another store"
        raise StoreError(msg) from error


def read_small(storage: Storage, manifest: Manifest, name: str) -> bytes:
    """A file of a store that is read whole, once it has the SHA-256 of the manifest.

    Raises:
        DamageError: If it has another.
    """
    entry = manifest.files[name]
    try:
        content = storage.read(name, 0, entry["size"])
    except FileNotFoundError:
        content = b""
    except OSError as error:
        msg = f"{storage}/{name} cannot be read ({one_line(error)}): mend that, or open another store"
        raise StoreError(msg) from error
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        msg = f"{storage}: {name} does not have its SHA-256: build or pull the store again"
        raise DamageError(msg)
    return content


def read_manifest(storage: Storage) -> Manifest:
    """The manifest, once every file that it names is there and has its size.

    Raises:
        StoreError: If there is no manifest that can be believed.
        DamageError: If a file is missing or has another size.
    """
    manifest = parse_manifest(read_file(storage, MANIFEST, MANIFEST_BYTES), str(storage))
    check_files(manifest, str(storage))
    sizes = storage.sizes()
    for file, entry in manifest.files.items():
        if sizes.get(file) != entry["size"]:
            found = "nothing" if file not in sizes else f"{sizes[file]} bytes"
            msg = (
                f"{storage}: {file} is damaged (found {found}, expected {entry['size']} bytes): "
                "build or pull the store again"
            )
            raise DamageError(msg)
    return manifest


def check_files(manifest: Manifest, name: str) -> None:
    """Refuse a manifest whose files are not those of the store that it describes.

    The metadata of a store follow from its manifest, so that their digests are known; and what an array holds
    is bounded by the bytes of its files.

    Raises:
        DamageError: Saying which file.
    """
    try:
        _check_sizes(manifest)
        expected = metadata_files(manifest)
        found = manifest.files.keys()
        if strangers := sorted(found ^ (expected.keys() | data_files(manifest))):
            msg = f"{strangers[0]} is {'' if strangers[0] in found else 'not '}named; expected otherwise"
            raise ValueError(msg)
        for file, content in expected.items():
            if hashlib.sha256(content).hexdigest() != manifest.files[file]["sha256"]:
                array = file.removesuffix(f"/{METADATA}")
                msg = f"{array} is not described as the store's counts require"
                raise ValueError(msg)
    except ValueError as error:
        msg = f"{name}: {MANIFEST} does not describe this format ({error}): build or pull the store again"
        raise DamageError(msg) from None


def _check_sizes(manifest: Manifest) -> None:
    """Counts that the files cannot hold are refused before anything is made of them."""
    stored: dict[str, int] = {}
    for file, entry in manifest.files.items():
        array = file.partition("/c/")[0]
        stored[array] = stored.get(array, 0) + entry["size"]
    for path, layout in layouts_of(manifest).items():
        spec = (COORDINATES | ARRAYS)[path.rpartition("/")[2]]
        held = 1 if spec.dtype == "int8" else 4
        chunks = 1
        for length, part, step in zip(layout.shape, layout.chunk, layout.file, strict=True):
            held *= length
            chunks *= -(-length // step) * (step // part)
        size = stored.get(path, 0)
        if held > SLACK + MOST_COMPRESSED * size or (layout.shard and index_bytes(chunks) > size + SLACK):
            msg = f"the {size} bytes of {path} cannot hold the shape {list(layout.shape)}"
            raise ValueError(msg)
