"""What models and hook points are called: by SAELens, and in a store."""

from __future__ import annotations

import re
from typing import Final

QUANTISED: Final = re.compile(r"[-._](i?q\d\w*|[bf]?f16|f32)$")
"""How a GGUF file ends that says how its weights are stored."""
ALIASES: Final = {"gpt2small": "gpt2", "mistral7b": "mistral7bv01"}
"""Names of TransformerLens, which SAELens uses, and those of the Hub."""


def hook(layer: int) -> str:
    """The hook point whose residuals a store holds.

    Example:
        >>> hook(12)
        'blocks.12.hook_resid_post'
    """
    return f"blocks.{layer}.hook_resid_post"


def plain_name(model: str) -> str:
    """A model's name without what differs between libraries: owner, case, ``-pt``, punctuation, quantisation.

    Example:
        >>> plain_name("google/gemma-3-270m (Q4_K_M, dequantised)")
        'gemma3270m'
        >>> plain_name("gemma3-270m") == plain_name("google/gemma-3-270m-pt")
        True
    """
    name = re.sub(r"\s*\(.*\)$", "", model.strip()).rstrip("/").rpartition("/")[2].lower()
    name = QUANTISED.sub("", name.removesuffix(".gguf"))
    name = re.sub(r"[-_]pt$", "", name)
    name = re.sub(r"[^a-z0-9]", "", name)
    return ALIASES.get(name, name)
