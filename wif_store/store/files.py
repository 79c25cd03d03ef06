"""What a stranger's store says of itself, read within bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wif_store.errors import DamageError, StoreError, one_line
from wif_store.format.manifest import MANIFEST_BYTES, parse_manifest
from wif_store.storage import PARTIAL
from wif_store.format.schema import MANIFEST

if TYPE_CHECKING:
    from wif_store.storage import Storage
    from wif_store.format.schema import Manifest


def read_file(place: Storage, name: str, most: int) -> bytes:
    """A file of a store, of at most ``most`` bytes.

    Raises:
        StoreError: If it is not there, larger, or cannot be read.
    """
    try:
        size = place.size(name)
        if size > most:
            msg = f"{place}/{name} has {size} bytes; expected at most {most}"
            raise StoreError(msg)
        return place.read(name, 0, size)
    except (FileNotFoundError, NotADirectoryError):
        if place.parent.exists(place.name + PARTIAL):
            msg = f"{place} is unfinished: run the build command that began it again"
        else:
            msg = f"{place} is not a store: found no {name}; expected what `wif-store build` wrote"
        raise StoreError(msg) from None
    except OSError as error:
        msg = f"{place}/{name} cannot be read ({one_line(error)}): mend that, or open another store"
        raise StoreError(msg) from error


def read_manifest(place: Storage) -> Manifest:
    """The manifest, once every file that it names is there and has its size.

    Raises:
        StoreError: If there is no manifest that can be believed.
        DamageError: If a file is missing or has another size.
    """
    manifest = parse_manifest(read_file(place, MANIFEST, MANIFEST_BYTES), str(place))
    sizes = place.sizes()
    for file, entry in manifest.files.items():
        if sizes.get(file) != entry["size"]:
            found = "nothing" if file not in sizes else f"{sizes[file]} bytes"
            msg = (
                f"{place}: {file} is damaged (found {found}, expected {entry['size']} bytes): "
                "build or pull the store again"
            )
            raise DamageError(msg)
    return manifest
