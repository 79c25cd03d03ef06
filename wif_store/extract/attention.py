"""Which attention a model runs with.

transformers keeps the name in a private attribute. Only this module reads it, and does without it where it
is gone.
"""

from __future__ import annotations

from typing import Any, Final

EAGER: Final = "eager"
UNKNOWN: Final = "unknown"


def attention_of(config: Any) -> str:
    """``eager``, ``sdpa`` or another name of transformers; ``unknown`` where a release does not say."""
    found = getattr(config, "_attn_implementation", None)
    return found if isinstance(found, str) else UNKNOWN


def needs_mask(config: Any) -> bool:
    """Whether a mask must be given even where plain causal attention will do.

    Eager attention makes a mask by itself, and waits for a GPU before it does.
    """
    return attention_of(config) in (EAGER, UNKNOWN)


def keep_soft_capping(model: Any, config: Any) -> None:
    """Have a model with soft-capped attention run with eager attention.

    torch's own attention has no soft-capping, and some releases of transformers take it all the same.
    """
    if getattr(config, "attn_logit_softcapping", None):
        model.set_attn_implementation(EAGER)
