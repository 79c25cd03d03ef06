"""The scorer: stores and probes, or anyone's predictions, to test AUROCs with intervals.

``score(stores, ...)`` and ``evaluate(predictions, stores, ...)`` are the whole of it in Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wif_store.scorer.run import evaluate, score

__all__ = ["evaluate", "score"]


def __getattr__(name: str) -> object:
    """Import the scorer on first use, so that the command line can list its options without it."""
    if name in __all__:
        from wif_store.scorer import run

        return getattr(run, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
