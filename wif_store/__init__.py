"""Residual-stream activations with success labels: build, publish, read, score."""

TYPE_CHECKING = False  # what type checkers take for true; to import it from typing takes longer than all else
if TYPE_CHECKING:
    from wif_store.store.reader import ActivationStore, open_store

__version__ = "0.1.0"
__all__ = ["ActivationStore", "__version__", "open_store"]


def __getattr__(name: str) -> object:
    """Import the reader on first use, so that ``import wif_store`` itself costs nothing."""
    if name in ("ActivationStore", "open_store"):
        from wif_store import store

        return getattr(store, name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
