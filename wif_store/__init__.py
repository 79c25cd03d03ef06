"""Residual-stream activations with success labels: build, publish, read, score."""

TYPE_CHECKING = False  # what type checkers take for true; to import it from typing takes longer than all else
if TYPE_CHECKING:
    from wif_store.api import build, evaluate, pull, push, score, steer
    from wif_store.store.reader import ActivationStore, open_store

__version__ = "0.1.0"
__all__ = [
    "ActivationStore",
    "__version__",
    "build",
    "evaluate",
    "open_store",
    "pull",
    "push",
    "score",
    "steer",
]

_ROOMS = {
    "ActivationStore": "wif_store.store.reader",
    "build": "wif_store.api",
    "evaluate": "wif_store.api",
    "open_store": "wif_store.store.reader",
    "pull": "wif_store.api",
    "push": "wif_store.api",
    "score": "wif_store.api",
    "steer": "wif_store.api",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that ``import wif_store`` itself costs nothing."""
    if name in _ROOMS:
        from importlib import import_module

        return getattr(import_module(_ROOMS[name]), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    """The public names, for completion in a notebook."""
    return __all__
