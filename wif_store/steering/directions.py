"""Directions of the residual stream after one layer: what was found, and what it is held against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wif_store.errors import SteerError, first_line
from wif_store.scorer.fitting import fit_one, read_place
from wif_store.scorer.probes import find_probe
from wif_store.scorer.run import baselines_alone, score
from wif_store.scorer.sae_features import rank_features, with_sae
from wif_store.scorer.sites import at_site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wif_store.scorer.features import Store
    from wif_store.scorer.results import Results
    from wif_store.scorer.stats import Floats

SAE: Final = "sae:"
FILES: Final = (".safetensors", ".npy")


@dataclass(frozen=True, slots=True)
class Direction:
    """A direction of the residual stream.

    Attributes:
        name: What gave it.
        layer: The 0-based decoder layer after which it was found.
        unit: Of unit norm, float64 ``[d_model]``; along it success is likelier, if a probe found it.
        spread: One standard deviation along it over train, in units of the residual stream.
    """

    name: str
    layer: int
    unit: Floats
    spread: float


def find_directions(
    stores: Sequence[Store], probe: str, layer: int | None, site: str, confidence: float
) -> tuple[list[Direction], Results]:
    """The direction that a probe, an SAE's feature or a file names, in each store.

    Args:
        stores: One a task.
        probe: A linear probe that reads final tokens; ``sae:SPEC`` for the feature that tells most,
            ``sae:SPEC#NUMBER`` for one; a ``.safetensors`` of saved weights or a ``.npy`` of ``[d_model]``.
        layer: The 0-based layer; None for that which is best on validation, or that of the file.
        site: Where residuals are read.
        confidence: Of the intervals.

    Returns:
        The directions, and what the probe scores, which is the baselines alone where nothing was fitted.

    Raises:
        SteerError: If there is no direction.
        WifError: If the probe or the SAE cannot be used.
    """
    layers = None if layer is None else [layer]
    if Path(probe).suffix.lower() in FILES and not probe.startswith(SAE):
        read, vector, at = _from_file(Path(probe), layer, {str(s.manifest.model.get("id")) for s in stores})
        found = [_along(at_site(store, site), read, at, vector) for store in stores]
        return found, baselines_alone(stores, confidence)
    if probe.startswith(SAE):
        spec, marked, number = probe.removeprefix(SAE).partition("#")
        if not spec or (marked and not number):
            msg = f"the probe is {probe!r}; expected sae:SPEC, or sae:SPEC#NUMBER"
            raise SteerError(msg)
        views = [with_sae(at_site(store, site), spec) for store in stores]
        if number:
            found = [_feature(view, _only_layer(view, layer), number) for view in views]
            return found, baselines_alone(stores, confidence)
        results = score(stores, "sae-k", layers, confidence=confidence, site=site, sae=spec, progress=False)
        chosen = [_chosen(results, store.task) for store in stores]
        return [_best_feature(view, at) for view, at in zip(views, chosen, strict=True)], results
    fitted = find_probe(probe)
    name = fitted.name
    if fitted.reads != "final_token":
        msg = f"{name} reads {fitted.reads}; expected a linear probe of final tokens: logistic"
        raise SteerError(msg)
    results = score(stores, fitted, layers, confidence=confidence, site=site, progress=False)
    found = []
    for store in stores:
        at = _chosen(results, store.task)
        weights = [one.arrays for one in results.weights if (one.task, one.layer) == (store.task, at)]
        if not weights:
            msg = f"{name} is not linear, so it names no direction; expected logistic, lda or another"
            raise SteerError(msg)
        vector = weights[0]["coef"] / weights[0]["scale"]
        found.append(_along(at_site(store, site), name, at, vector))
    return found, results


def difference_of_means(store: Store, layer: int) -> Floats:
    """From the mean of train's failures to that of its successes, of unit norm."""
    residuals, success = store.read_final_token(layer, "train")
    means = [residuals[success == outcome].mean(0, dtype=np.float64) for outcome in (1, 0)]
    return _unit(means[0] - means[1], "the difference of means")


def random_directions(store: Store, layer: int, count: int, rng: np.random.Generator, like: str) -> Floats:
    """Random directions, of unit norm each.

    Args:
        store: An open store.
        layer: The layer whose residuals they are like.
        count: How many.
        rng: What draws them.
        like: ``covariance``, as train's residuals vary, or ``isotropic``.

    Returns:
        float64 ``[count, d_model]``.
    """
    if like == "isotropic":
        drawn = rng.standard_normal((count, store.d_model))
    else:
        residuals = store.read_final_token(layer, "train")[0].astype(np.float64)
        drawn = rng.standard_normal((count, len(residuals))) @ (residuals - residuals.mean(0))
    return np.stack([_unit(one, "the residuals") for one in drawn])


def _from_file(path: Path, layer: int | None, models: set[str]) -> tuple[str, Any, int]:
    """The name, the vector and the layer of a saved direction.

    Raises:
        SteerError: If it cannot be read, or says that it is of another model or layer.
    """
    from safetensors import SafetensorError, safe_open

    said: dict[str, str] = {}
    try:
        if path.suffix.lower() == ".npy":
            vector = np.load(path, allow_pickle=False)
        else:
            with safe_open(path, "numpy") as held:
                said = held.metadata() or {}
                with np.errstate(all="ignore"):
                    vector = held.get_tensor("coef") / held.get_tensor("scale")
    except (OSError, ValueError, EOFError, TypeError, AttributeError, SafetensorError) as error:
        msg = f"{path} cannot be read ({first_line(error)}); expected what --save-probes writes, or a .npy"
        raise SteerError(msg) from error
    if said.get("model") and {said["model"]} != models:
        msg = f"{path} is of the model {said['model']}, and the store of {', '.join(sorted(models))}"
        raise SteerError(msg)
    saved = int(said["layer"]) if said.get("layer", "").isdecimal() else None
    if layer is None and saved is None:
        msg = f"{path} does not say which layer it is of: name it with --layer"
        raise SteerError(msg)
    if None not in (layer, saved) and layer != saved:
        msg = f"{path} is of layer {saved}, and --layer is {layer}: leave one of them out"
        raise SteerError(msg)
    return path.name, vector, int(saved if layer is None else layer)  # type: ignore[arg-type]


def _along(store: Store, name: str, layer: int, vector: Any) -> Direction:
    """A direction, with how far the train examples of a store spread along it.

    Raises:
        SteerError: If the store has not this layer, or the vector is no direction of it.
    """
    if layer not in store.layers:
        held = ", ".join(map(str, store.layers))
        msg = f"the store of task {store.task!r} has no layer {layer}; its layers are {held}"
        raise SteerError(msg)
    if np.shape(vector) != (store.d_model,):
        msg = f"{name} has the shape {np.shape(vector)}; expected ({store.d_model},), as the residuals have"
        raise SteerError(msg)
    unit = _unit(vector, name)
    spread = float((store.read_final_token(layer, "train")[0] @ unit).std())
    if not spread:
        msg = f"the train examples of task {store.task!r} do not differ along {name}: give another direction"
        raise SteerError(msg)
    return Direction(name, layer, unit, spread)


def _unit(vector: Any, name: str) -> Floats:
    held = np.asarray(vector)
    if held.dtype.kind not in "fiu":
        msg = f"{name} holds {held.dtype}; expected real numbers, as the residual stream has"
        raise SteerError(msg)
    wide = held.astype(np.float64)
    if not np.all(np.isfinite(wide)) or not np.any(wide):
        msg = f"{name} is {'not finite' if np.any(wide) else 'zero everywhere'}; expected a direction"
        raise SteerError(msg)
    scaled = wide / np.abs(wide).max()  # the square of a large number is infinite
    found: Floats = scaled / np.linalg.norm(scaled)
    return found


def _chosen(results: Results, task: str) -> int:
    [curve] = results.task(task).curves
    return int(curve.best.layer or 0)


def _only_layer(view: Any, layer: int | None) -> int:
    held: Sequence[int] = view.sae_layers
    if layer is None and len(held) == 1:
        return held[0]
    if layer is None or layer not in held:
        msg = f"the SAE is there for layers {', '.join(map(str, held))}: name one of them with --layer"
        raise SteerError(msg)
    return layer


def _feature(view: Any, layer: int, number: str) -> Direction:
    if not number.isdecimal():
        msg = f"the feature is {number!r}; expected its number, as in sae:FOLDER#123"
        raise SteerError(msg)
    sae = view.sae(layer)
    return _along(view, f"feature {number}", layer, sae.direction(int(number)))


def _best_feature(view: Any, layer: int) -> Direction:
    """The feature that tells successes from failures most, pointing to success."""
    probe = find_probe("sae-k")
    data = read_place(view, probe, layer)
    ranked = rank_features(fit_one(probe, data).estimator, data.features["train"])
    if not ranked:
        msg = f"no feature of the SAE at layer {layer} tells successes from failures: name one with #NUMBER"
        raise SteerError(msg)
    feature, weight = ranked[0]
    return _along(view, f"feature {feature}", layer, np.sign(weight) * view.sae(layer).direction(feature))
