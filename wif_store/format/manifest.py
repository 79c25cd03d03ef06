"""The manifest: rendered with a digest of itself, and parsed without believing it."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from wif_store.errors import DamageError, StoreError, one_line
from wif_store.format.schema import (
    FINAL_TOKEN,
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    OUTCOMES,
    SEQUENCE,
    SITES,
    SPLITS,
    Manifest,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

MANIFEST_BYTES: Final = 64 * 2**20
"""Of a manifest, at most."""
MOST: Final = 2**40
"""Of anything that a manifest counts: more is no store, and its product with another count would overflow."""
DIGEST: Final = "manifest_sha256"
LEFT_OUT: Final = "left_out"
"""The section of a store that was pulled in part."""

# Only what the package itself reads is asked for: str is a printable text, float any finite number.
_READ: Final[Mapping[str, Mapping[str, type]]] = {
    "protocol": {"name": str, "version": int, "site": str},
    "model": {
        "id": str,
        "kind": str,
        "revision": str,
        "dtype": str,
        "device": str,
        "architecture": str,
        "n_layers": int,
        "d_model": int,
    },
    "source": {"kind": str, "id": str, "rows": int, "sha256": str},
    "selection": {"accuracy": float, "scanned": int, "seed": float, "k": int},
    "audit": {"counts": dict, "named": dict},
    "batching": {},
    "versions": {},
}
_COUNTS: Final = ("examples", "tokens", "groups", "scanned", "successes", "failures")


def render_manifest(sections: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest of these sections, with the SHA-256 of itself.

    The digest is that of the same bytes with 64 zeros where it stands.
    """
    blank = "0" * 64
    content = json.dumps({**sections, DIGEST: blank}, indent=1, sort_keys=True) + "\n"
    key = f'"{DIGEST}": "'
    digest = hashlib.sha256(content.encode()).hexdigest()
    return content.replace(key + blank, key + digest).encode()


def digest_of(sections: Mapping[str, Any]) -> str:
    """A SHA-256 over sections of a manifest, whatever their order; all of them name every byte of a store."""
    canonical = json.dumps(sections, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "backslashreplace")).hexdigest()


def parse_manifest(content: bytes, name: str) -> Manifest:
    """Check and parse a manifest.

    Raises:
        StoreError: If it is not a manifest of this format version.
        DamageError: If it is not what was written.
    """
    try:
        data = json.loads(content)
        if data["format"] != FORMAT:
            msg = f"format is {data['format']!r}"
            raise ValueError(msg)
        version = data["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        msg = f"{name}: {MANIFEST} is not a {FORMAT} manifest ({one_line(error)})"
        raise StoreError(msg) from None
    if type(version) is not int or version != FORMAT_VERSION:
        msg = (
            f"{name}: {MANIFEST} has format version {str(version)[:20]}; this wif-store reads version "
            f"{FORMAT_VERSION}: install the wif-store that wrote it, or build it again"
        )
        raise StoreError(msg)
    if "layers" not in data:
        msg = f"{name}: the store has an earlier layout, which nothing reads any more: build it again"
        raise StoreError(msg)
    _check_digest(content, data, name)
    try:
        return _checked(data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{name}: {MANIFEST} is not a valid manifest ({one_line(error)})"
        raise StoreError(msg) from None


def _check_digest(content: bytes, data: Mapping[str, Any], name: str) -> None:
    # A damaged name would hide a section, or the digest itself.
    known = {*Manifest.__slots__, "format", "format_version", DIGEST, LEFT_OUT}
    if unknown := sorted(data.keys() - known):
        msg = f"{name}: {MANIFEST} has an unknown section {unknown[0]!r:.40}: build or pull the store again"
        raise DamageError(msg)
    recorded = str(data.get(DIGEST)).encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(content.replace(recorded, b"0" * 64)).hexdigest()
    if len(recorded) != 64 or digest.encode() != recorded:
        msg = (
            f"{name}: {MANIFEST} is damaged (it does not have its own SHA-256): build or pull the store again"
        )
        raise DamageError(msg)


def _checked(data: Mapping[str, Any]) -> Manifest:
    manifest = Manifest(**{section: data[section] for section in Manifest.__slots__})
    _check_text(manifest.task, "task")
    if manifest.outcome not in OUTCOMES:
        msg = f"outcome is {manifest.outcome!r:.40}; expected one of: {', '.join(OUTCOMES)}"
        raise ValueError(msg)
    for section, fields in _READ.items():
        values = getattr(manifest, section)
        _check_object(values, section)
        for field, kind in fields.items():
            value = values[field]
            if kind is str:
                _check_text(value, f"{section}.{field}")
            elif kind is int:
                _check_count(value, f"{section}.{field}")
            elif kind is dict:
                _check_object(value, f"{section}.{field}")
            elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                msg = f"{section}.{field} is {value!r:.40}; expected a number"
                raise ValueError(msg)
    _check_audit(manifest.audit)
    _check_splits(manifest.splits)
    _check_layers(manifest)
    _check_object(manifest.sites, "sites")
    if FINAL_TOKEN not in manifest.sites or any(SITES.get(s) != m for s, m in manifest.sites.items()):
        msg = (
            f"the sites are {list(manifest.sites)!r:.80}; expected {FINAL_TOKEN}, and others of {list(SITES)}"
        )
        raise ValueError(msg)
    _check_files(manifest.files)
    _check_adapter(manifest.model.get("adapter"))
    return manifest


def _check_adapter(adapter: Any) -> None:
    if adapter is None:
        return
    _check_object(adapter, "model.adapter")
    for field in ("id", "kind", "revision"):
        _check_text(adapter[field], f"model.adapter.{field}")


def _check_files(files: Any) -> None:
    _check_object(files, "files")
    for file, entry in files.items():
        path = PurePosixPath(file)
        plain = file.isprintable() and "\\" not in file and ":" not in file and str(path) == file != "."
        if path.is_absolute() or ".." in path.parts or not plain:
            msg = f"{file!r:.80} is not a file below the store"
            raise ValueError(msg)
        _check_count(entry["size"], f"the size of {file}")
        _check_text(entry["sha256"], f"the SHA-256 of {file}")
        _check_text(entry.get("chunk_crc32c", ""), f"the CRC32C of {file}")


def _check_audit(audit: Mapping[str, Any]) -> None:
    published = audit.get("published_source")
    for found, name in ((audit, "audit"), (published, "audit.published_source")):
        if found is None:
            continue
        _check_object(found, name)
        for part in ("counts", "named"):
            _check_object(found[part], f"{name}.{part}")
        for flaw, count in found["counts"].items():
            _check_count(count, f"{name}.counts.{flaw:.40}")
        for flaw, ids in found["named"].items():
            if not isinstance(ids, list):
                msg = f"{name}.named.{flaw:.40} is not a list"
                raise TypeError(msg)
            for one in ids:
                _check_text(one, f"{name}.named.{flaw:.40}")


def _check_splits(splits: Any) -> None:
    _check_object(splits, "splits")
    if set(splits) != set(SPLITS):
        msg = f"the splits are not {', '.join(SPLITS)}"
        raise ValueError(msg)
    for split in SPLITS:
        for field in _COUNTS:
            _check_count(splits[split][field], f"{field} of {split}")
        examples, tokens = splits[split]["examples"], splits[split]["tokens"]
        if not 0 < examples <= tokens or examples % 2:
            msg = f"{split} has {examples} examples of {tokens} tokens; expected pairs, each with tokens"
            raise ValueError(msg)


def _check_layers(manifest: Manifest) -> None:
    if not 0 < manifest.model["d_model"] <= 2**20:
        msg = f"d_model is {manifest.model['d_model']}; expected a width"
        raise ValueError(msg)
    _check_object(manifest.layers, "layers")
    for name in (FINAL_TOKEN, SEQUENCE):
        layers = manifest.layers[name]
        if not isinstance(layers, list):
            msg = f"layers.{name} is not a list"
            raise TypeError(msg)
        for layer in layers:
            _check_count(layer, f"a layer of {name}")
        if layers != sorted(set(layers)) or (layers and layers[-1] >= manifest.model["n_layers"]):
            msg = f"layers.{name} are not layers of the model in their order"
            raise ValueError(msg)


def _check_object(value: object, what: str) -> None:
    if not isinstance(value, dict):
        msg = f"{what} is not an object"
        raise TypeError(msg)


def _check_text(value: object, what: str) -> None:
    # What is not printable could write to the terminal of whoever looks at it.
    if not isinstance(value, str) or not value.isprintable():
        msg = f"{what} is {value!r:.40}; expected a text"
        raise ValueError(msg)


def _check_count(value: object, what: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MOST:
        msg = f"{what} is {value!r:.40}; expected a count"
        raise ValueError(msg)
