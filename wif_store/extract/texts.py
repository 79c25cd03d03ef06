"""The texts of a store's tokens: what its model's own tokenizer makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wif_store.extract.checkpoint import load_tokenizer, locate
from wif_store.extract.replay import recorded_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any


def token_texts(model: Mapping[str, Any], given: str | None = None) -> Callable[[Sequence[int]], str]:
    """What turns tokens of a store into text; nothing but the tokenizer is fetched or loaded.

    Args:
        model: What the manifest says of the model.
        given: Where the model is, if not where the store says.

    Raises:
        ModelError: If the model or its tokenizer cannot be had.
    """
    located = locate(recorded_spec(model, given), weights=False)
    tokenizer = load_tokenizer(located, trust_remote_code=False)
    return lambda tokens: str(tokenizer.decode(list(tokens), skip_special_tokens=True))
