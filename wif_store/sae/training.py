"""Train an SAE on the sequences of stores, and say how good it is."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wif_store.errors import SaeError, one_line
from wif_store.format.manifest import digest_of
from wif_store.format.schema import SEQUENCE
from wif_store.sae.autoencoder import OUTLIER, explained, library, ordinary
from wif_store.sae.names import hook
from wif_store.sae.settings import Settings

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    from wif_store.format.schema import Float32
    from wif_store.store.reader import ActivationStore

TRAIN: Final = "train"
"""The split that SAEs are trained on: the labels of the others are for measuring, and so are their tokens."""
VALIDATION: Final = "validation"

HELD_BYTES: Final = 2**30
"""Of the tokens that are trained on, at most; where a split has more, some are drawn."""
VALIDATION_BYTES: Final = 2**26

WIDTH: Final = 8
"""Features of an SAE for each channel of the residual stream, where nothing else is asked for."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a training.

    Attributes:
        folder: Where the SAE is.
        width: How many features it has.
        variance_explained: The share of the variance of validation tokens that it gives back.
        dead: How many features are active at none of the tokens that it was trained on.
        tokens: How many tokens of the stores it was trained on.
        outliers: How many were left out for their norm.
    """

    folder: Path
    width: int
    variance_explained: float
    dead: int
    tokens: int
    outliers: int


def train_sae(
    stores: Sequence[ActivationStore],
    layer: int,
    out: str | os.PathLike[str],
    *,
    width: int | None = None,
    k: int = 32,
    tokens: int = 200_000,
    batch: int = 512,
    learning_rate: float = 2e-3,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Trained:
    """Train a TopK SAE with SAELens on the sequences of train splits, and save it in SAELens' format.

    Tokens are scaled so that their mean norm is ``sqrt(d_model)``; the scale is folded into the weights that
    are saved. Tokens whose norm is over three times the median are left out. At most a GiB of tokens is
    held; where a split has more than its part, some are drawn. The same call gives the same SAE on one
    machine with one number of threads.

    Args:
        stores: Open stores of one model.
        layer: 0-based decoder layer of which they have sequences.
        out: The folder to write, which must not be there.
        width: How many features; 8 for each channel of the residual stream where it is None.
        k: How many features are active at a token.
        tokens: How many tokens to train on; those of the stores are repeated until there are so many.
        batch: Tokens of a step.
        learning_rate: Of Adam.
        seed: Fixes which tokens are used, their order and the first weights.
        progress: Called after every step with the steps done and all steps.

    Raises:
        SaeError: If a store has no sequences of the layer or is of another model, there are too few tokens,
            the settings contradict one another, the folder is there or cannot be written, or SAELens is not
            installed.
        DamageError: If the bytes of a store are not those that were written.

    Example::

        wif_store.train_sae([store], layer=9, out="saes/9").variance_explained
    """
    settings = Settings(
        WIDTH * stores[0].d_model if width is None else width, k, tokens, batch, learning_rate, seed
    )
    folder = Path(out)
    _check(stores, layer, folder, settings)
    sae_library = library()
    drawn = _draw(stores, layer, TRAIN, HELD_BYTES, seed)
    limit = OUTLIER * float(np.median(np.linalg.norm(drawn, axis=1)))
    kept = np.ascontiguousarray(drawn[ordinary(drawn, limit)])
    outliers = len(drawn) - len(kept)
    del drawn
    held_out = _draw(stores, layer, VALIDATION, VALIDATION_BYTES, seed)
    held_out = held_out[ordinary(held_out, limit)]
    sae = sae_library.train(kept, settings, _metadata(stores, layer), progress)
    found = Trained(
        folder=folder,
        width=settings.width,
        variance_explained=explained(sae, held_out),
        dead=_dead(sae, kept, settings.width),
        tokens=len(kept),
        outliers=outliers,
    )
    measured = {"variance_explained": found.variance_explained, "dead_features": found.dead}
    _save(sae, folder, {**measured, "tokens": found.tokens, "seed": seed})
    return found


def _check(stores: Sequence[ActivationStore], layer: int, folder: Path, settings: Settings) -> None:
    first = stores[0]
    for store in stores:
        if layer not in store.sequence_layers:
            have = ", ".join(map(str, store.sequence_layers)) or "none"
            msg = (
                f"{store.name} has no {SEQUENCE} residuals of layer {layer}; it has: {have}. Choose one of "
                "them, or build the store with --sequence-layers"
            )
            raise SaeError(msg)
        if store.manifest.model_name != first.manifest.model_name:
            named, other = (one.manifest.model_name[:120] for one in (first, store))
            msg = f"{first.name} is of the model {named} and {store.name} of {other}; expected stores of one"
            raise SaeError(msg)
    if folder.exists():
        msg = f"{folder} is there already: remove it, or choose another folder"
        raise SaeError(msg)
    with _beside(folder):  # it must be writable before minutes are spent
        pass
    # With a feature for every token an SAE could remember them all.
    for split, needed in ((TRAIN, settings.width), (VALIDATION, 2)):
        if (count := sum(store.manifest.splits[split]["tokens"] for store in stores)) < needed:
            msg = (
                f"{first.name} has {count} {split} tokens; expected at least {needed} for {settings.width} "
                "features: build a larger store, give more stores, or train a narrower SAE"
            )
            raise SaeError(msg)


def _draw(stores: Sequence[ActivationStore], layer: int, split: str, most_bytes: int, seed: int) -> Float32:
    """Tokens of a split of some stores, float32 ``[n, d_model]``, of each as many as fit into its part."""
    parts = [_draw_one(store, layer, split, most_bytes // len(stores), seed) for store in stores]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _draw_one(store: ActivationStore, layer: int, split: str, most_bytes: int, seed: int) -> Float32:
    """Tokens of a split, float32 ``[n, d_model]`` in the order of the store: all, or as many as fit."""
    count = int(store.manifest.splits[split]["tokens"])
    most = most_bytes // (4 * store.d_model)
    wanted = np.ones(count, bool)
    if count > most:
        wanted[:] = False
        wanted[np.random.default_rng(seed).choice(count, most, replace=False)] = True
    drawn = np.empty((int(wanted.sum()), store.d_model), np.float32)
    at = done = 0
    for sequence in store.iter_sequences(layer, split):
        some = sequence[wanted[at : at + len(sequence)]]
        drawn[done : done + len(some)] = some
        at, done = at + len(sequence), done + len(some)
    return drawn


def _dead(sae: Any, tokens: Float32, width: int) -> int:
    active = np.zeros(width, bool)
    for batch in library().encode(sae, tokens):
        active |= (batch != 0).any(axis=0)
    return width - int(active.sum())


def _metadata(stores: Sequence[ActivationStore], layer: int) -> dict[str, Any]:
    """What SAELens records of an SAE, and of which stores it is."""
    model = stores[0].manifest.model
    return {
        "model_name": str(model["id"]),
        "hook_name": hook(layer),
        "wif_store": {
            "split": TRAIN,
            "model_revision": str(model["revision"]),
            "stores": {store.task: digest_of(asdict(store.manifest)) for store in stores},
        },
    }


def _save(sae: Any, folder: Path, measured: dict[str, Any]) -> None:
    """Write the folder: it is complete or not there."""
    with _beside(folder) as beside:
        library().save(sae, beside / "sae", measured)
        (beside / "sae").rename(folder)


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A folder on the same disk, which is removed at the end."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as beside:
            yield Path(beside)
    except OSError as error:
        msg = f"{folder} cannot be written ({one_line(error)}): make room, or choose another folder"
        raise SaeError(msg) from error
