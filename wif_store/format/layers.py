"""Which layers a text such as ``0,4,9-12`` names: one grammar for every command."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from wif_store.errors import LayersError

if TYPE_CHECKING:
    from collections.abc import Sequence

GRAMMAR: Final = "all, none, auto, or 0-based layers as in 0,4,9-12"
"""What a text may be, in the words of help texts and errors."""

PART: Final = re.compile(r"\s*([0-9]{1,6})\s*(?:-\s*([0-9]{1,6})\s*)?")


def parse_layers(text: str, available: Sequence[int], option: str = "--layers") -> tuple[int, ...]:
    """The layers that a text names.

    Args:
        text: ``all``, ``none``, ``auto`` (every fifth of those that there are), or numbers and ranges with
            commas between them; both ends of a range belong to it.
        available: The 0-based layers that there are, in ascending order.
        option: What the text was given as, for the error.

    Returns:
        The layers in ascending order, each once.

    Raises:
        LayersError: If the text is none of these, or names a layer that is not there.

    Example:
        >>> parse_layers("0,4,9-12", range(26))
        (0, 4, 9, 10, 11, 12)
        >>> parse_layers("auto", range(26))
        (4, 9, 14, 19, 24)
    """
    named = {"all": available, "none": (), "auto": available[4::5]}
    if text.strip() in named:
        return tuple(named[text.strip()])
    layers: set[int] = set()
    for part in text.split(","):
        found = PART.fullmatch(part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if last < first:
            msg = f"{option} is {text[:60]!r}; expected {GRAMMAR}; there are: {_shown(available)}"
            raise LayersError(msg)
        layers.update(range(first, last + 1))
    if missing := sorted(layers.difference(available)):
        have = _shown(available)
        msg = f"{option} is {text[:60]!r}: there is no layer {missing[0]}; expected some of: {have}"
        raise LayersError(msg)
    return tuple(sorted(layers))


def _shown(layers: Sequence[int]) -> str:
    """Layers in few words: runs of them as ranges."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)[:200] or "none"
