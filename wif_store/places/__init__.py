"""Where stores and builds stand: a folder, or a folder behind any URL that fsspec understands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from wif_store.places.base import PARTIAL as PARTIAL
from wif_store.places.base import write_described as write_described
from wif_store.places.local import LocalPlace as LocalPlace
from wif_store.places.local import describe as describe
from wif_store.places.local import write_file as write_file
from wif_store.places.remote import RemotePlace as RemotePlace

if TYPE_CHECKING:
    from wif_store.places.base import Entry as Entry
    from wif_store.places.base import Place as Place


def place_of(address: str | os.PathLike[str]) -> Place:
    """The place of a path or a URL.

    Raises:
        StoreError: If nothing that is installed can speak to it.
    """
    text = os.fspath(address)
    return RemotePlace(text) if "://" in text else LocalPlace(Path(text))
