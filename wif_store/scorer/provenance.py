"""What must be written down for a score to be repeated."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

from wif_store import __version__
from wif_store.errors import ScoreError
from wif_store.format.manifest import digest_of

if TYPE_CHECKING:
    from wif_store.scorer.features import Store


PARTS: Final = ("model", "protocol", "source", "selection")
"""The sections of a manifest that say where a store is from."""
DEEPEST: Final = 32
"""Levels of nesting in a manifest, at most; Python cannot write JSON of thousands."""


def describe_store(store: Store) -> dict[str, Any]:
    """Return what pins a store: its origin, and a hash over all that its manifest says.

    The manifest names the SHA-256 of every file of the store, so the hash pins every byte.

    Raises:
        ScoreError: if the manifest holds what no build writes.
    """
    manifest = {field.name: getattr(store.manifest, field.name) for field in fields(store.manifest)}
    try:
        for part in PARTS:
            if not isinstance(manifest[part], Mapping):
                msg = f"{part} is a {type(manifest[part]).__name__}; expected an object"
                raise ValueError(msg)
        manifest = {name: _plain(value) for name, value in manifest.items()}
    except ValueError as error:
        msg = f"the store of task {store.task!r} has a damaged manifest ({error}): build or pull it again"
        raise ScoreError(msg) from None
    return {
        "manifest_sha256": digest_of(manifest),
        "d_model": store.d_model,
        **{part: manifest[part] for part in PARTS},
    }


def package_versions() -> dict[str, str]:
    """Return the versions that a score may depend on."""
    found = {"wif-store": __version__, "python": platform.python_version()}
    for package in ("numpy", "scipy", "scikit-learn", "torch", "transformers", "sae-lens"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _plain(value: Any, depth: int = 0) -> Any:
    """Return JSON's own types all the way down, with texts that UTF-8 can hold.

    Raises:
        ValueError: if the value is nested too deeply, or JSON has no such number.
    """
    if depth > DEEPEST:
        msg = f"more than {DEEPEST} levels of nesting"
        raise ValueError(msg)
    if isinstance(value, Mapping):
        return {_text(str(key)): _plain(held, depth + 1) for key, held in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(held, depth + 1) for held in value]
    if isinstance(value, float) and not math.isfinite(value):
        msg = f"the number {value}"
        raise ValueError(msg)
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
