"""Residual-stream activations with success labels: build, publish, read, score."""

TYPE_CHECKING = False  # what type checkers take for true; to import it from typing takes longer than all else
if TYPE_CHECKING:
    from wif_store.api import BuildOptions as BuildOptions
    from wif_store.api import build as build
    from wif_store.explainer.run import ask as ask
    from wif_store.explainer.run import explain as explain
    from wif_store.explainer.run import quiz as quiz
    from wif_store.extract.recompute import recompute as recompute
    from wif_store.hub.pull import pull_dataset as pull
    from wif_store.hub.push import push_stores as push
    from wif_store.sae.training import train_sae as train_sae
    from wif_store.scorer.run import evaluate as evaluate
    from wif_store.scorer.run import score as score
    from wif_store.steering.run import steer as steer
    from wif_store.store.audit import audit_store as audit
    from wif_store.store.reader import ActivationStore as ActivationStore
    from wif_store.store.reader import open_store as open_store
    from wif_store.store.verify import verify_store as verify

__version__ = "0.1.0"
__all__ = [
    "ActivationStore",
    "BuildOptions",
    "__version__",
    "ask",
    "audit",
    "build",
    "evaluate",
    "explain",
    "open_store",
    "pull",
    "push",
    "quiz",
    "recompute",
    "score",
    "steer",
    "train_sae",
    "verify",
]

_HOMES = {
    "ActivationStore": "store.reader:ActivationStore",
    "BuildOptions": "api:BuildOptions",
    "ask": "explainer.run:ask",
    "audit": "store.audit:audit_store",
    "build": "api:build",
    "evaluate": "scorer.run:evaluate",
    "explain": "explainer.run:explain",
    "open_store": "store.reader:open_store",
    "pull": "hub.pull:pull_dataset",
    "push": "hub.push:push_stores",
    "quiz": "explainer.run:quiz",
    "recompute": "extract.recompute:recompute",
    "score": "scorer.run:score",
    "steer": "steering.run:steer",
    "train_sae": "sae.training:train_sae",
    "verify": "store.verify:verify_store",
}
"""Where each public name stands: a module below this package, and its name there."""


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that ``import wif_store`` itself costs nothing."""
    if name in _HOMES:
        from importlib import import_module

        module, _, attribute = _HOMES[name].partition(":")
        return getattr(import_module(f"{__name__}.{module}"), attribute)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    """The public names, for completion in a notebook."""
    return __all__
