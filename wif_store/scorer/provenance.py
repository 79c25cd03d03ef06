"""What must be written down for a score to be repeated."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from wif_store import __version__

if TYPE_CHECKING:
    from wif_store.scorer.features import Store


def describe_store(store: Store) -> dict[str, Any]:
    """Return what pins a store: its origin, and a hash over all that its manifest says.

    The manifest names the SHA-256 of every file of the store, so the hash pins every byte.
    """
    manifest = {field.name: _plain(getattr(store.manifest, field.name)) for field in fields(store.manifest)}
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {
        "manifest_sha256": hashlib.sha256(canonical.encode()).hexdigest(),
        "d_model": store.d_model,
        **{part: manifest[part] for part in ("model", "protocol", "source", "selection")},
    }


def package_versions() -> dict[str, str]:
    """Return the versions that a score may depend on."""
    found = {"wif-store": __version__, "python": platform.python_version()}
    for package in ("numpy", "scipy", "scikit-learn", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _plain(value: Any) -> Any:
    """Return JSON's own types all the way down."""
    if isinstance(value, Mapping):
        return {str(key): _plain(held) for key, held in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(held) for held in value]
    return value
