"""SAELens: the only module that imports it. Others hold the SAEs that it returns and never look into them.

Importing it takes seconds, so the other modules of this room import it when a function is called.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

with warnings.catch_warnings():
    # SAELens imports a module of TransformerLens that has another name in its next release.
    warnings.filterwarnings("ignore", "The 'utils' module has been deprecated", DeprecationWarning)
    from sae_lens import SAE, SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from wif_store.format.schema import Float32
    from wif_store.sae.settings import Settings

BATCH_VALUES: Final = 2**24
"""Features of one batch, at most: 64 MiB of float32."""
UNFOLDED: Final = ("expected_average_only_in", "covariance_whitening")
"""Scalings of the input that belong into the weights: SAELens' encode does not apply them."""


def releases() -> dict[str, tuple[str, tuple[str, ...]]]:
    """SAELens' registry, which is a file of the package: the model and the ids of each release."""
    return {
        name: (found.model, tuple(found.saes_map)) for name, found in get_pretrained_saes_directory().items()
    }


def load_folder(folder: Path) -> Any:
    """The SAE of a folder of SAELens' format, in float32 on the CPU."""
    with _quiet():
        return SAE.load_from_disk(folder, device="cpu", dtype="float32").eval()


def load_release(release: str, sae_id: str) -> Any:
    """An SAE of the registry, which SAELens fetches or has in its cache, in float32 on the CPU."""
    with _quiet():
        return SAE.from_pretrained(release, sae_id, device="cpu", dtype="float32").eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without two warnings: one is for those who run the model, the other is refused as an error here."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", r"\s*This SAE has non-empty model_from_pretrained_kwargs", UserWarning
        )
        warnings.filterwarnings("ignore", "norm_scaling_factor not found for", UserWarning)
        yield


def config(sae: Any) -> dict[str, Any]:
    """What an SAE says of itself: ``architecture``, ``d_in``, ``d_sae``, ``metadata`` and more."""
    found: dict[str, Any] = sae.cfg.to_dict()
    return found


def damaged_weights(sae: Any) -> list[str]:
    """The names of the weights that hold NaN or infinity."""
    return [name for name, weight in sae.state_dict().items() if not torch.isfinite(weight).all()]


def encode(sae: Any, x: Float32) -> Iterator[Float32]:
    """The features of the rows of ``x``, by SAELens' own encode: float32 ``[batch, width]`` at a time."""
    for batch in _batches(sae, x):
        with torch.no_grad():
            yield sae.encode(batch).to_dense().numpy()


def decode(sae: Any, codes: Any) -> Float32:
    """What features stand for: float32 ``[n, d_model]``; ``codes`` are a sparse array ``[n, width]``."""
    found = np.empty((codes.shape[0], sae.cfg.d_in), np.float32)
    rows = _rows(sae)
    for start in range(0, len(found), rows):
        with torch.no_grad():
            batch = torch.from_numpy(codes[start : start + rows].toarray())
            found[start : start + rows] = sae.decode(batch).numpy()
    return found


def reconstruct(sae: Any, x: Float32) -> Iterator[tuple[Float32, Float32]]:
    """The rows of ``x`` and what the SAE makes of them, batch by batch: float32 ``[batch, d_model]`` each."""
    for batch in _batches(sae, x):
        with torch.no_grad():
            yield batch.numpy(), sae(batch).numpy()


def direction(sae: Any, feature: int) -> Float32:
    """One row of the decoder: float32 ``[d_model]``."""
    row: Float32 = sae.W_dec[feature].detach().numpy().copy()
    return row


def _batches(sae: Any, x: Float32) -> Iterator[torch.Tensor]:
    rows = _rows(sae)
    for start in range(0, len(x), rows):
        # A copy in C order: the reader gives arrays in either order, and some cannot be written to.
        yield torch.from_numpy(np.array(x[start : start + rows], np.float32, order="C"))


def _rows(sae: Any) -> int:
    return max(1, BATCH_VALUES // int(sae.cfg.d_sae))


def train(
    tokens: Float32,
    settings: Settings,
    metadata: Mapping[str, Any],
    progress: Callable[[int, int], None],
) -> Any:
    """Train a TopK SAE with SAELens' trainer on float32 tokens ``[n, d_model]``; returns the training SAE.

    The state of torch's random numbers is as it was before.
    """
    d_model = tokens.shape[1]
    steps = settings.steps
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        sae = TopKTrainingSAE(
            TopKTrainingSAEConfig(
                d_in=d_model,
                d_sae=settings.width,
                k=settings.k,
                normalize_activations="expected_average_only_in",
            )
        )
        for name, value in metadata.items():
            sae.cfg.metadata[name] = value
        trainer = SAETrainer(
            SAETrainerConfig(
                total_training_samples=steps * settings.batch,
                train_batch_size_samples=settings.batch,
                lr=settings.learning_rate,
                lr_end=settings.learning_rate,
                lr_warm_up_steps=steps // 20,
                lr_decay_steps=steps // 5,
                dead_feature_window=max(1, len(tokens) // settings.batch),
            ),
            sae,
            iter(()),
        )
        scale = d_model**0.5 / float(np.linalg.norm(tokens, axis=1).mean(dtype=np.float64))
        trainer.activation_scaler.scaling_factor = scale
        # Training starts from the mean of the tokens, which dwarfs their spread.
        with torch.no_grad():
            sae.b_dec += torch.from_numpy(tokens.mean(axis=0, dtype=np.float64).astype(np.float32)) * scale
        for step, rows in enumerate(settings.batches(len(tokens)), start=1):
            trainer.step(torch.from_numpy(tokens[rows]))
            trainer.n_training_steps = step
            progress(step, steps)
        sae.fold_activation_norm_scaling_factor(scale)
    return sae


def save(sae: Any, folder: Path, measured: Mapping[str, Any]) -> None:
    """Write a trained SAE in SAELens' format for those who use it, with what was measured in its metadata."""
    sae.cfg.metadata["wif_store"] = {**sae.cfg.metadata["wif_store"], **measured}
    sae.save_inference_model(folder)
