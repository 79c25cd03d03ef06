"""In what two plans differ, for the line that refuses one of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def differences(
    found: Mapping[str, Any], wanted: Mapping[str, Any], under: str = ""
) -> dict[str, tuple[Any, Any]]:
    """In what two plans differ, as ``model.threads``, with what was found and what is wanted."""
    differing: dict[str, tuple[Any, Any]] = {}
    for name in sorted(found.keys() | wanted.keys()):
        one, other = found.get(name), wanted.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            differing |= differences(one, other, f"{under}{name}.")
        elif one != other:
            differing[under + name] = one, other
    return differing


def listed(differing: Mapping[str, tuple[Any, Any]]) -> str:
    """Differences in a line: all their names, and after the first its values."""
    (name, values), *others = differing.items()
    found, wanted = (_short(json.dumps(value)) for value in values)
    return ", ".join([f"{name} (found {found}, expected {wanted})", *(other for other, _ in others)])


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
