"""Score probes, or anyone's predictions, against the success labels of stores.

Probes are fitted on train. ``C`` and the layer are chosen on validation. The test split is measured once.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from wif_store.errors import LayersError, ScoreError
from wif_store.format.layers import parse_layers
from wif_store.format.schema import FINAL_TOKEN, SPLITS
from wif_store.progress import Count, Told, telling
from wif_store.scorer.baselines import BASELINES, baselines
from wif_store.scorer.cross_task import cross_task_table
from wif_store.scorer.features import Place, Store, labels
from wif_store.scorer.fitting import LayerFit, fit_places, places_of, read_place, shuffled_control
from wif_store.scorer.predictions import Predictions, read_predictions, split_by_store
from wif_store.scorer.probes import Probe, find_probe
from wif_store.scorer.provenance import describe_store
from wif_store.scorer.results import (
    CHANCE,
    COLUMNS,
    Curve,
    Point,
    Results,
    Weights,
)
from wif_store.scorer.sae_features import Pool, with_sae
from wif_store.scorer.sites import at_site
from wif_store.scorer.stats import (
    interval,
    placements,
)
from wif_store.scorer.subset import on_subset
from wif_store.scorer.summary import Measured, Run, summarise

Probes = str | Probe | object | Sequence[str | Probe | object]

_UPSIDE_DOWN = "ranks failures above successes; a higher score must mean that success is likelier"


def score(
    stores: Store | Sequence[Store],
    probe: Probes | None = "logistic",
    layers: str | int | Iterable[int] | None = None,
    seeds: int = 1,
    confidence: float = 0.999,
    *,
    predictions: Predictions | Sequence[Predictions] = (),
    subset: bool = False,
    site: str = FINAL_TOKEN,
    sae: str | None = None,
    sae_pool: Pool = "final",
    bootstrap_draws: int = 0,
    cross_task: bool = False,
    progress: Told | bool | None = None,
) -> Results:
    """Fit probes to every layer of every store and measure their test AUROC.

    Args:
        stores: one store a task.
        probe: a name of :data:`wif_store.scorer.probes.PROBES`, ``module:factory``, a scikit-learn
            estimator or a factory of one; or several of these; None for none.
        layers: 0-based decoder layers, as numbers or as a text such as ``0,4,9-12``; if not given, all that
            a store holds of what the probe reads.
        seeds: how many times to fit. Each time after the first, train and validation are divided anew by
            groups, and the estimator is seeded anew; the test split stays.
        confidence: of the intervals; ``1 - confidence`` is the level of every verdict.
        predictions: scores that were computed elsewhere, as :func:`evaluate` takes them, to be compared
            with the probes.
        subset: the predictions are for some of the test examples only, and everything is measured on these.
        site: where residuals are read: ``final_token``, ``prompt_end`` or a share of the answer, such as
            ``0.5``. Sequences end there too.
        sae: a sparse autoencoder for the probes that read its features, as
            :func:`wif_store.sae.opening.open_sae` takes it.
        sae_pool: which tokens' features these read: ``final``, or the ``mean`` or ``max`` over all of them.
        bootstrap_draws: resamples for a bootstrap interval of each chosen point; 0 for none.
        cross_task: also train on each task and test on each other.
        progress: whether a bar is shown, or who is told the task and how many of its fits are done. If not
            given, a bar is shown in a notebook alone.

    Returns:
        The AUROC of every probe at every layer on the test split, with intervals, baselines and comparisons.

    Raises:
        ScoreError: naming probe, layer and task, if something cannot be scored.
        LayersError: if ``layers`` names no layers, or one that no store has.

    Example::

        results = wif_store.score(wif_store.open_store("winogrande.zarr"), layers="4,9,14")
        results.task("winogrande").curves[0].best.test.value
    """
    held, given = _given(stores, predictions, subset)
    planned = plan(
        held,
        probe,
        layers,
        seeds,
        confidence,
        site=site,
        sae=sae,
        sae_pool=sae_pool,
        bootstrap_draws=bootstrap_draws,
    )
    probes = planned.probes
    with telling(progress, "baselines", "fits") as told:
        run = _start(planned.stores, confidence)
        named = _add_predictions(run, given, None, [one.name for one in probes])
        if not probes and not named:
            msg = "there is nothing to score; give a probe or predictions"
            raise ScoreError(msg)
        for number, (store, places) in enumerate(zip(run.stores, planned.places, strict=True)):
            count = Count(told, store.task, sum(map(len, places)))
            for one, asked in zip(probes, places, strict=True):
                fits = fit_places(store, one, asked, seeds, count)
                run.curves.append(_curve(number, store, one, fits, confidence))
    tables = []
    for one in probes if cross_task else ():
        of_one = [measured for measured in run.curves if measured.curve.probe == one.name]
        curves, read = [measured.curve for measured in of_one], [measured.place for measured in of_one]
        tables.append(cross_task_table(run.stores, curves, read, one, confidence))
    settings: dict[str, Any] = {
        "probes": [one.name for one in probes],
        "predictions": named,
        "layers": planned.layers,
        "site": site,
        "sae": sae,
        "sae_pool": sae_pool if sae else None,
        "sae_sha256": {store.task: store.digests() for store in planned.stores} if sae else None,
        "subset": subset,
        "seeds": seeds,
    }
    return replace(summarise(run, settings, bootstrap_draws), cross_task=tuple(tables))


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be scored, before anything is.

    Attributes:
        stores: As they are read: at a site, with features of an SAE.
        probes: What is fitted.
        layers: The layers asked for; None for all.
        places: Where each probe reads, store by store.
    """

    stores: list[Any]
    probes: list[Probe]
    layers: tuple[int, ...] | None
    places: list[list[tuple[Place, ...]]]


def plan(
    stores: Store | Sequence[Store],
    probe: Probes | None = "logistic",
    layers: str | int | Iterable[int] | None = None,
    seeds: int = 1,
    confidence: float = 0.999,
    *,
    site: str = FINAL_TOKEN,
    sae: str | None = None,
    sae_pool: Pool = "final",
    bootstrap_draws: int = 0,
) -> Plan:
    """Check the arguments of :func:`score`, and find what they name. Nothing is fitted.

    Raises:
        ScoreError: if something cannot be scored.
        LayersError: if ``layers`` names no layers, or one that no store has.
        SaeError: if the SAE is not there.
    """
    held = _checked(stores, confidence, bootstrap_draws, seeds)
    probes = [] if probe is None else _find_probes(probe)
    views: list[Any] = [at_site(store, site) for store in held]
    if sae is not None:
        views = [with_sae(store, sae, sae_pool) for store in views]
        if all(one.reads != "sae" for one in probes):
            msg = "--sae is for probes of its features: add --probe sae-k or sae-logistic, or leave it out"
            raise ScoreError(msg)
    elif sae_pool != "final":
        msg = f"--sae-pool {sae_pool} is for probes of an SAE's features: add --sae, or leave it out"
        raise ScoreError(msg)
    wanted = _layers(layers, views)
    return Plan(views, probes, wanted, [[places_of(store, one, wanted) for one in probes] for store in views])


def evaluate(
    predictions: Predictions | Sequence[Predictions],
    stores: Store | Sequence[Store],
    confidence: float = 0.999,
    *,
    name: str | None = None,
    subset: bool = False,
    bootstrap_draws: int = 0,
) -> Results:
    """Measure someone's scores for the test examples just as a probe's.

    Args:
        predictions: a file with the columns ``id`` and ``score`` (.csv, .tsv, .json, .jsonl or .parquet), a
            mapping of example id to score, or a pandas Series whose index is the id; or several of these. A
            higher score must mean that success is likelier. Exactly the test ids of the stores, each once.
            Scores from 0 to 1 are read as probabilities of success too.
        stores: one store a task.
        confidence: of the intervals; ``1 - confidence`` is the level of every verdict.
        name: what to call the method, where there is only one; if not given, the name of the file or Series.
        subset: the predictions are for some of the test examples only, and everything is measured on these.
        bootstrap_draws: resamples for a bootstrap interval; 0 for none.

    Returns:
        The same record as :func:`score` gives.

    Raises:
        ScoreError: if ids are missing, unknown, of another split or given twice, or scores are not
            finite numbers that rank.

    Example::

        scores = {example.id: example.choice.margin for example in store.examples("test")}
        results = wif_store.evaluate(scores, store)
    """
    held, given = _given(stores, predictions, subset)
    planned = plan(held, None, confidence=confidence, bootstrap_draws=bootstrap_draws)
    run = _start(planned.stores, confidence)
    named = _add_predictions(run, given, name, [])
    if not named:
        msg = "there are no predictions to evaluate; give a file, or a mapping of example id to score"
        raise ScoreError(msg)
    return summarise(run, {"predictions": named, "subset": subset}, bootstrap_draws)


def baselines_alone(stores: Store | Sequence[Store], confidence: float = 0.999) -> Results:
    """Measure what needs no residuals, and nothing else: the record that :func:`score` gives, without curves.

    Raises:
        ScoreError: if a store cannot be scored.
    """
    planned = plan(stores, None, confidence=confidence)
    return summarise(_start(planned.stores, confidence), {"probes": [], "predictions": []}, 0)


def _layers(layers: str | int | Iterable[int] | None, stores: Sequence[Store]) -> tuple[int, ...] | None:
    """Return the layers asked for; None for all. A text is read against the layers of all the stores."""
    if layers is None:
        return None
    if isinstance(layers, str):
        if layers == "all":
            return None
        held = {layer for store in stores for layer in (*store.layers, *store.sequence_layers)}
        found = parse_layers(layers, sorted(held))
    else:
        given = [layers] if not isinstance(layers, Iterable) else layers
        try:
            found = tuple(map(operator.index, given))
        except TypeError:
            msg = f"layers is {layers!r:.80}; expected 0-based decoder layers, or a text such as 0,4,9-12"
            raise LayersError(msg) from None
    if not found:
        msg = f"layers is {layers!r:.80}, which names none of the layers; expected one at least"
        raise LayersError(msg)
    return found


def _given(
    stores: Store | Sequence[Store], predictions: Predictions | Sequence[Predictions], subset: bool
) -> tuple[Any, list[tuple[str, dict[str, float]]]]:
    """The stores, and the name of each of the predictions with its score for each example id.

    With a subset both are of the examples that all predictions are for.
    """
    several: Sequence[Predictions] = (
        predictions if isinstance(predictions, list | tuple) else [cast("Predictions", predictions)]
    )
    found = [read_predictions(one) for one in several]
    if subset and not found:
        msg = "--subset is for predictions of some of the test examples: give them, or leave it out"
        raise ScoreError(msg)
    if not subset:
        return stores, found
    ids = set.intersection(*(set(scores) for _, scores in found))
    several_stores = list(stores) if isinstance(stores, Sequence) else [stores]
    alike = [(name, {i: score for i, score in scores.items() if i in ids}) for name, scores in found]
    return [on_subset(store, ids) for store in several_stores], alike


def _add_predictions(
    run: Run, several: Sequence[tuple[str, dict[str, float]]], name: str | None, probes: Sequence[str]
) -> list[str]:
    """Measure scores that were computed elsewhere, each as a curve of one point; return their names."""
    if name is not None and len(several) > 1:
        msg = f"name is {name!r} for {len(several)} predictions; name each by its file, or as a Series"
        raise ScoreError(msg)
    names: list[str] = []
    for number, (found, scores) in enumerate(several, 1):
        method = name or found or ("predictions" if len(several) == 1 else f"predictions {number}")
        if method in names:
            msg = f"predictions {method!r} are given twice; give each a name of its own"
            raise ScoreError(msg)
        if method in (*probes, *BASELINES, *COLUMNS, CHANCE):
            msg = f"predictions {method!r} have the name of a probe, baseline or column; rename them"
            raise ScoreError(msg)
        names.append(method)
        parts = split_by_store(scores, run.stores, method)
        for number, (store, part) in enumerate(zip(run.stores, parts, strict=True)):
            measured = placements(labels(store, "test"), part.scores)
            test = interval(measured, run.confidence)
            notes = part.notes if test.high >= 0.5 else (*part.notes, _UPSIDE_DOWN)
            curve = Curve(method, None, (Point(None, test, notes=notes),), 0)
            run.curves.append(Measured(number, curve, [measured], [{"test": part.scores}]))
    return names


def _checked(stores: Store | Sequence[Store], confidence: float, draws: int, seeds: int) -> list[Store]:
    held: list[Store] = list(stores) if isinstance(stores, Sequence) else [stores]
    if not held:
        msg = "there is no store to score; give at least one"
        raise ScoreError(msg)
    if closed := [store for store in held if not hasattr(store, "read_final_token")]:
        msg = f"stores has {closed[0]!r:.80}; expected what wif_store.open_store gives"
        raise ScoreError(msg)
    if not 0.5 <= confidence < 1.0:
        msg = f"confidence is {confidence:g}; expected a share from 0.5 to below 1, such as 0.999"
        raise ScoreError(msg)
    if 0 < draws < (least := round(10.0 / (1.0 - confidence))) or draws < 0:
        msg = f"{draws} bootstrap draws cannot show a {confidence:.1%} interval; give at least {least}"
        raise ScoreError(msg)
    if seeds < 1:
        msg = f"seeds is {seeds}; expected at least 1"
        raise ScoreError(msg)
    names = [store.task for store in held]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        msg = f"task {twice[0]!r} is given by more than one store; score one model and protocol at a time"
        raise ScoreError(msg)
    return held


def _start(stores: list[Store], confidence: float) -> Run:
    """Describe the stores and measure the baselines."""
    run = Run(stores, confidence, [describe_store(store) for store in stores])
    for store in stores:
        for split in SPLITS:
            labels(store, split)
        truth = labels(store, "test")
        scored, by_measure = baselines(store)
        run.baselines.append({name: (placements(truth, one.test), one) for name, one in scored.items()})
        run.measures.append(by_measure)
    return run


def _find_probes(probe: Probes) -> list[Probe]:
    several = probe if isinstance(probe, Sequence) and not isinstance(probe, str) else [probe]
    found = [find_probe(one) for one in several]
    if len({one.name for one in found}) < len(found):
        msg = f"the same probe is asked for twice: {', '.join(one.name for one in found)}"
        raise ScoreError(msg)
    if taken := [one.name for one in found if one.name in (*COLUMNS, *BASELINES, CHANCE)]:
        msg = f"probe {taken[0]!r} has the name of a baseline or of a column of scores; give it another name"
        raise ScoreError(msg)
    return found


def _curve(number: int, store: Store, probe: Probe, fits: list[LayerFit], confidence: float) -> Measured:
    chosen = int(np.argmax([fit.validation_auroc for fit in fits]))
    control = shuffled_control(probe, read_place(store, probe, fits[chosen].place))
    points = tuple(
        Point(
            fit.layer,
            interval(fit.test, confidence),
            fit.validation_auroc,
            fit.seed_aurocs,
            fit.settings,
            notes=fit.notes,
        )
        for fit in fits
    )
    curve = Curve(probe.name, probe.reads, points, chosen, shuffled=interval(control, confidence))
    weights = [
        Weights(store.task, probe.name, probe.reads, fit.layer, fit.weights)
        for fit in fits
        if fit.layer is not None and fit.weights is not None
    ]
    tests, scores = [fit.test for fit in fits], [fit.scores for fit in fits]
    return Measured(number, curve, tests, scores, fits[chosen].place, weights)
