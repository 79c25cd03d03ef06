"""What the length of a sequence changes: rotary embeddings that are scaled by how long the longest row is.

Some models compute every token of a batch with other rotary frequencies once a row of it is long. longrope
switches at one length; dynamic NTK has other frequencies for each length, and keeps those of the last long
row. So what a row gives would depend on its neighbours.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch

from wif_store.errors import ModelError
from wif_store.extract.trees import grow, pad

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wif_store.extract.decoder import Decoder

TOKENS: Final = tuple(range(3, 12)) * 2
"""A short sequence, whose states no other row may change."""

SAME: Final = 1e-6
"""Absolute difference of cosines within which rotary embeddings are equal."""

MOVED: Final = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
"""Relative L2 of a state beyond which it is another one, where no rotary embedding can be looked at."""


def with_lengths(decoder: Decoder, config: Any, context_length: int | None) -> Decoder:
    """The decoder with its ``switch`` and ``longest``, as a trial shows them.

    The trial runs a short row beside one whose last token is said to stand far behind: so it can see what a
    row of any length would change, and costs a few tokens.

    Args:
        decoder: A decoder that has not been tried.
        config: The configuration of the text model.
        context_length: The most tokens that the model is made for; None where that is not known.

    Raises:
        ModelError: If the short row depends on its neighbours in a way that cannot be kept apart.
    """
    if not decoder.trees or context_length is None or context_length <= len(TOKENS):
        return _as_configured(decoder, config)  # it takes no positions, or there is no farthest one
    trial = _Trial(decoder)
    if not trial.changes(context_length):
        return decoder
    shortest = trial.shortest(context_length, _original_length(config))
    if shortest <= len(TOKENS) + 1:
        raise trial.refusal()
    if trial.same(shortest, context_length):
        return replace(decoder, switch=shortest)
    return replace(decoder, longest=shortest - 1)


class _Trial:
    """Runs of a short row beside one that ends far behind; what is compared is the short row alone."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._exact = False
        self._first = self._run(len(TOKENS))

    @torch.inference_mode()
    def _run(self, length: int) -> torch.Tensor:
        """What the short row gives beside one of this length: its rotary embeddings, or its last state."""
        rows = pad([grow([TOKENS]), grow([TOKENS])], self._decoder.module.device)
        rows.depth[1, -1] = length - 1
        # Not as chains, so that the positions are given to the model.
        with _rotary_outputs(self._decoder.module) as seen:
            states = self._decoder.states(replace(rows, chains=False))
        self._exact = bool(seen)
        return (
            torch.cat([values[0].flatten().double() for values in seen]) if seen else states[0, -1].double()
        )

    def _differ(self, one: torch.Tensor, other: torch.Tensor) -> bool:
        if self._exact:
            return bool((one - other).abs().max() > SAME)
        return bool((one - other).norm() > MOVED[self._decoder.module.dtype] * other.norm())

    def _check_near(self) -> None:
        """Run the short row beside another short one, which undoes what a long row has left behind.

        Raises:
            ModelError: If the model does not compute again what it did at first.
        """
        if self._differ(self._run(len(TOKENS)), self._first):
            raise self.refusal()

    def changes(self, length: int) -> bool:
        """Whether the short row gives something else beside a row of this length."""
        if not self._differ(self._run(length), self._first):
            return False
        self._check_near()
        return True

    def same(self, length: int, other: int) -> bool:
        """Whether rows of two lengths change the short one alike."""
        found = self._run(length)
        same = not self._differ(self._run(other), found)
        self._check_near()
        return same

    def shortest(self, length: int, guess: int | None) -> int:
        """The shortest row that changes the short one, given that one of ``length`` does."""
        low, high = len(TOKENS), length
        if guess is not None and low < guess < high and not self.changes(guess) and self.changes(guess + 1):
            return guess + 1
        while low + 1 < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.changes(middle) else (middle, high)
        return high

    def refusal(self) -> ModelError:
        """Says that rows cannot be kept apart."""
        msg = (
            f"the states of {type(self._decoder.module).__name__} depend on other rows of a batch, or on "
            "what was run before; expected a model that computes each row by itself"
        )
        return ModelError(msg)


@contextmanager
def _rotary_outputs(module: Any) -> Iterator[list[torch.Tensor]]:
    """Collect what the rotary embeddings give that have a value for each row: exact, whatever the weights."""
    seen: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        values = output if isinstance(output, tuple) else (output,)
        seen.extend(v for v in values if isinstance(v, torch.Tensor) and v.dim() > 1 and len(v) == 2)

    handles = [m.register_forward_hook(keep) for m in module.modules() if "Rotary" in type(m).__name__]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _rope_settings(config: Any) -> list[dict[str, Any]]:
    """The settings of the rotary embeddings: one mapping, or one for each kind of layer."""
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if not isinstance(found, dict):
        return []
    return [s for s in found.values() if isinstance(s, dict)] or [found]


def _original_length(config: Any) -> int | None:
    """The length that a model was trained for before its context was extended; None where none is named."""
    named = [s.get("original_max_position_embeddings") for s in _rope_settings(config)]
    named.append(getattr(config, "original_max_position_embeddings", None))
    named.append(getattr(config, "max_position_embeddings", None))
    return next((int(value) for value in named if isinstance(value, int | float)), None)


def _as_configured(decoder: Decoder, config: Any) -> Decoder:
    """What the configuration says, of a decoder that cannot be tried."""
    kinds = {str(s.get("rope_type", s.get("type", ""))) for s in _rope_settings(config)}
    original = _original_length(config)
    if "longrope" in kinds and original is not None:
        return replace(decoder, switch=original + 1)
    if "dynamic" in kinds or getattr(config, "use_dynamic_ntk", False):
        return replace(decoder, longest=original)
    return decoder
