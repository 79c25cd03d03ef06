"""Where stores and unfinished builds are kept: a local folder, or one behind a URL that fsspec understands.

May import errors only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from wif_store.storage.base import PARTIAL as PARTIAL
from wif_store.storage.base import write_described as write_described
from wif_store.storage.local import LOCK as LOCK
from wif_store.storage.local import LocalStorage as LocalStorage
from wif_store.storage.local import describe as describe
from wif_store.storage.local import write_file as write_file
from wif_store.storage.remote import RemoteStorage as RemoteStorage

if TYPE_CHECKING:
    from wif_store.storage.base import Entry as Entry
    from wif_store.storage.base import Storage as Storage


def storage_of(address: str | os.PathLike[str]) -> Storage:
    """The storage of a path or a URL.

    Raises:
        StoreError: If nothing that is installed understands the URL.
    """
    text = os.fspath(address)
    return RemoteStorage(text) if "://" in text else LocalStorage(Path(text))
