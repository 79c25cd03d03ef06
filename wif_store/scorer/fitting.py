"""One probe on one task: every layer fitted, each measured on the test split once."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from wif_store.errors import ScoreError, WifError, first_line
from wif_store.format.schema import SPLITS, Int8
from wif_store.processors import processors
from wif_store.scorer.features import LAYERS, Features, Place, Store, labels, layers_for, load, stacked
from wif_store.scorer.probes import Fitted, Probe, fit, raised_at, scores_of
from wif_store.scorer.probes.weights import linear_weights, same_scores
from wif_store.scorer.sae_features import reconstruction
from wif_store.scorer.stats import Floats, Placements, auroc, placements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from wif_store.progress import Count

DRAWS: Final = 100
"""How often train and validation are divided anew before the groups are found to be too few."""

Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class LayerFit:
    """A probe fitted at one layer and measured, before any comparison."""

    place: Place
    validation_auroc: float
    test: Placements
    scores: Mapping[str, Floats]
    """Of the validation and the test split."""
    seed_aurocs: tuple[float, ...]
    settings: Mapping[str, Any]
    notes: tuple[str, ...]
    weights: Mapping[str, Floats] | None = None
    """Of a linear probe: see :func:`wif_store.scorer.probes.weights.linear_weights`."""

    @property
    def layer(self) -> int | None:
        """The one layer that was read, if it was one."""
        return self.place if isinstance(self.place, int) else None


@dataclass(frozen=True, slots=True)
class LayerData:
    """What a probe reads of a store at one place, all splits. ``where`` names all three in errors."""

    features: Mapping[str, Features]
    labels: Mapping[str, Int8]
    groups: Mapping[str, Any]
    """What siblings share, for each row of each split."""
    where: str


def places_of(store: Store, probe: Probe, layers: Iterable[int] | None) -> tuple[Place, ...]:
    """Return where to fit: at the layers asked for, or at all that hold what the probe reads.

    Raises:
        ScoreError: if the store lacks one of them.
    """
    if probe.reads == "example":
        return (None,)
    held = layers_for(store, probe.reads)
    if not held and probe.reads == "sae":
        msg = f"probe {probe.name!r} reads features of a sparse autoencoder: name one with --sae"
        raise ScoreError(msg)
    if not held and LAYERS[probe.reads] == "layers":
        msg = f"probe {probe.name!r}: the store of task {store.task!r} holds no layers"
        raise ScoreError(msg)
    if not held:
        msg = (
            f"probe {probe.name!r} reads full sequences and the store of task {store.task!r} holds none; "
            "build it with --sequence-layers"
        )
        raise ScoreError(msg)
    wanted = held if layers is None else tuple(dict.fromkeys(layers))
    if lacking := [layer for layer in wanted if layer not in held]:
        msg = (
            f"probe {probe.name!r}: the store of task {store.task!r} has no layer {lacking[0]}; "
            f"its {LAYERS[probe.reads]} are {', '.join(map(str, held))}"
        )
        raise ScoreError(msg)
    return (wanted,) if probe.reads == "layers" else wanted


def fit_places(
    store: Store, probe: Probe, places: Iterable[Place], seeds: int, count: Count | None = None
) -> list[LayerFit]:
    """Fit the probe at each place for each seed, and count the places.

    Seed 0 is the store's own division into train and validation; the others divide the same rows
    anew. The test split never changes and nothing is chosen by it.
    """

    def at(place: Place) -> LayerFit:
        fitted = _fit_place(store, place, probe, seeds)
        if count:
            count.add()
        return fitted

    return each(probe, at, places)


def read_place(store: Store, probe: Probe, place: Place) -> LayerData:
    """Read all splits at one place."""
    at = f" at layer {place}" if isinstance(place, int) else ""
    return LayerData(
        {split: load(store, place, probe.reads, split) for split in SPLITS},
        {split: labels(store, split) for split in SPLITS},
        {split: store.column("group", split) for split in SPLITS},
        f"probe {probe.name!r}{at} of task {store.task!r}",
    )


def fit_one(probe: Probe, data: LayerData, seed: int = 0) -> Fitted:
    """Fit the probe on the train rows of ``seed``, with its validation rows to choose by.

    Raises:
        ScoreError: naming probe, layer and task, if the estimator raises.
    """
    features, target, held, held_target = _divide(data, seed)
    try:
        return fit(probe, features, target, (held, held_target), seed)
    except WifError:
        raise
    except Exception as error:
        msg = f"{data.where} raised {type(error).__name__} in fit{raised_at(error)}: {first_line(error)}"
        raise ScoreError(msg) from error


def split_scores(
    fitted: Fitted, data: LayerData, split: str = "test", *, constant_ok: bool = False
) -> Floats:
    """Score one split with a fitted probe.

    The probe is given the rows in an order that says nothing: those of a store are in turns of success and
    failure.

    Raises:
        ScoreError: naming probe, layer and task, if the scores cannot be used.
    """
    order = np.random.default_rng(0).permutation(len(data.labels[split]))
    scores = np.empty(len(order))
    try:
        scores[order] = scores_of(
            fitted.estimator, data.features[split][order], data.where, constant_ok=constant_ok
        )
        return scores
    except WifError:
        raise
    except Exception as error:
        msg = f"{data.where} raised {type(error).__name__} in scoring{raised_at(error)}: {first_line(error)}"
        raise ScoreError(msg) from error


def shuffled_control(probe: Probe, data: LayerData) -> Placements:
    """Measure the probe on labels that are permuted within every split, so that nothing can be found.

    The test labels are permuted too: against the true ones, a probe of noise falls to one side or
    the other of the strongest direction in the data, and 0.5 would miss its interval far too often.
    """
    rng = np.random.default_rng(0)
    permuted = replace(data, labels={split: rng.permutation(held) for split, held in data.labels.items()})
    [fitted] = each(probe, lambda data: fit_one(probe, data), [permuted])
    scores = split_scores(fitted, permuted, constant_ok=True)
    return placements(permuted.labels["test"], scores)


def _fit_place(store: Store, place: Place, probe: Probe, seeds: int) -> LayerFit:
    data = read_place(store, probe, place)
    fitted = fit_one(probe, data)
    scores = {split: split_scores(fitted, data, split) for split in ("validation", "test")}
    measured = placements(data.labels["test"], scores["test"])
    validation = auroc(data.labels["validation"], scores["validation"])
    others = (split_scores(fit_one(probe, data, seed), data) for seed in range(1, seeds))
    spread = (measured.auroc, *(auroc(data.labels["test"], values) for values in others))
    settings, notes = chosen_settings(fitted.estimator), fitted.notes
    if probe.reads == "sae":
        said, warned = reconstruction(store, place)
        settings, notes = {**settings, **said}, (*notes, *warned)
    weights = linear_weights(fitted.estimator, data.features["train"])
    if weights and not same_scores(weights, data.features["validation"], scores["validation"]):
        weights = None
    return LayerFit(place, validation, measured, scores, spread, settings, notes, weights)


def chosen_settings(estimator: Any) -> dict[str, Any]:
    """Return what an estimator of ours, or a search of scikit-learn's, chose by itself."""
    held = {
        name: getattr(estimator, name, None) for name in ("C_", "k_", "alpha_", "best_params_", "epochs_")
    }
    return {name.rstrip("_"): _recorded(value) for name, value in held.items() if value is not None}


def _recorded(value: Any) -> Any:
    """A setting as results.json can hold it: a whole or finite number as it is, anything else as a text."""
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, int) or (isinstance(plain, float) and math.isfinite(plain)):
        return plain
    return str(value)


def _divide(data: LayerData, seed: int) -> tuple[Features, Int8, Features, Int8]:
    """Return train and validation rows: the store's own for seed 0, else divided anew.

    Groups stay together, as in the store: groups are drawn until train has as many rows as before. A draw
    that leaves train or validation without one of the classes is drawn again.

    Raises:
        ScoreError: if the groups are too few for any such division.
    """
    train, held = data.features["train"], data.features["validation"]
    target, held_target = data.labels["train"], data.labels["validation"]
    if seed == 0:
        # A copy, for some estimators change what they are given.
        return train.copy(), target, held.copy(), held_target
    pool = stacked(train, held)
    pool_target = np.concatenate([target, held_target])
    names = np.concatenate([data.groups["train"], data.groups["validation"]])
    _, member, sizes = np.unique(names.astype(str), return_inverse=True, return_counts=True)
    rng = np.random.default_rng(seed)
    for _ in range(DRAWS):
        order = rng.permutation(len(sizes))
        before = np.cumsum(sizes[order]) - sizes[order]
        drawn = np.zeros(len(sizes), dtype=bool)
        drawn[order[before < len(target)]] = True
        picked = drawn[member]
        if all(len(np.unique(pool_target[rows])) > 1 for rows in (picked, ~picked)):
            return pool[picked], pool_target[picked], pool[~picked], pool_target[~picked]
    msg = (
        f"{data.where}: train and validation have {len(sizes)} groups, too few to divide them anew for seed "
        f"{seed}; use --seeds 1, or build the store with a larger --per-class"
    )
    raise ScoreError(msg)


def each(probe: Probe, work: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
    """Do the work for each item, on all cores if the probe allows, one BLAS thread each then.

    A single fit goes through here too: several BLAS threads cost more than they gain on matrices this small.
    """
    if not probe.threads:
        return [work(item) for item in items]
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), ThreadPoolExecutor(processors()) as pool:
        return list(pool.map(work, items))
