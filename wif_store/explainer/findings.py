"""What a linear method found: directions and features, with the train examples that show them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wif_store.errors import ScoreError
from wif_store.scorer.fitting import fit_one, fit_places, places_of, read_place
from wif_store.scorer.probes import find_probe
from wif_store.scorer.probes.weights import linear_weights
from wif_store.scorer.sae_features import Pool, rank_features, with_sae
from wif_store.scorer.shown import answers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from wif_store.scorer.features import Features, Store
    from wif_store.scorer.fitting import LayerData
    from wif_store.scorer.probes import Probe
    from wif_store.scorer.stats import Floats

AROUND: Final = 12
"""Tokens that are shown before and after the one where a feature is largest."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A place in a train example.

    Attributes:
        before: The text before the token.
        token: The token where the value is largest.
        after: The text after it.
        success: Whether the model was right.
        answer: What the model answered.
        value: Of the feature or the direction there.
    """

    before: str
    token: str
    after: str
    success: bool
    answer: str
    value: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One feature or direction that tells success from failure.

    Attributes:
        name: What it is called, such as ``feature 123``.
        label: What it is said to mean, where somebody said so.
        weight: By how much the log-odds of success rise with one standard deviation of it on train.
        active: In how many train examples a feature is active; None of a direction.
        successes: The share of successes among these.
        high: Where it is largest.
        low: Where it is least; nothing of a feature.
    """

    name: str
    label: str | None
    weight: float
    active: int | None
    successes: float
    high: tuple[Passage, ...]
    low: tuple[Passage, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What a method found at the layer that is best on validation.

    Attributes:
        method: Its name.
        layer: 0-based decoder layer.
        validation_auroc: Of the method there.
        train: Examples it was fitted to.
        findings: The most important first.
    """

    method: str
    layer: int
    validation_auroc: float
    train: int
    findings: tuple[Finding, ...]


def find(
    store: Store,
    texts: Callable[[Sequence[int]], str],
    method: str = "logistic",
    *,
    layers: Iterable[int] | None = None,
    sae: str | None = None,
    sae_pool: Pool = "final",
    features: int = 8,
    examples: int = 3,
) -> Found:
    """Fit a linear method to train, and gather the train examples that show what it found.

    Nothing of the test split is read but what the scorer measures, and nothing of it is given back.

    Args:
        store: An open store.
        texts: What turns tokens into text.
        method: A probe that reads the final token or an SAE's features, and is linear.
        layers: The layers to choose from by validation; None for all.
        sae: The SAE, for a probe of its features.
        sae_pool: Which tokens' features these are.
        features: How many features are explained, at most.
        examples: How many train examples are shown of each.

    Raises:
        ScoreError: If the method is not linear, or found nothing.
        SaeError: If the SAE cannot be used.
    """
    probe = find_probe(method)
    if probe.reads not in ("final_token", "sae"):
        msg = (
            f"{method} reads {probe.reads}; expected a linear method, such as logistic, sae-k or sae-logistic"
        )
        raise ScoreError(msg)
    held = store if sae is None else with_sae(store, sae, sae_pool)
    fits = fit_places(held, probe, places_of(held, probe, layers), 1)
    best = max(fits, key=lambda fit: fit.validation_auroc)
    layer = int(best.layer or 0)
    data = read_place(held, probe, layer)
    estimator = fit_one(probe, data).estimator
    pooled = probe.reads == "sae" and sae_pool != "final"
    show = _Shower(held, texts, layer, examples, pooled)
    train = data.features["train"]
    if probe.reads == "sae":
        findings = _of_features(held, layer, estimator, data, features, show)
    else:
        findings = [_of_direction(probe, linear_weights(estimator, train), train, show)]
    return Found(probe.name, layer, best.validation_auroc, len(data.labels["train"]), tuple(findings))


def _of_direction(probe: Probe, weights: Any, train: Features, show: _Shower) -> Finding:
    if weights is None:
        msg = f"{probe.name} is not linear, so no direction explains it; expected logistic, lda or another"
        raise ScoreError(msg)

    def value(residuals: Features) -> Floats:
        centred = (residuals - weights["mean"]) / weights["scale"]
        found: Floats = centred @ weights["coef"] + weights["intercept"]
        return found

    said = value(train)
    order = np.argsort(-said, kind="stable")
    high, low = show(order, value), show(order[::-1], value)
    return Finding("the direction", None, float(said.std()), None, 0.5, high, low)


def _of_features(
    store: Any, layer: int, estimator: Any, data: LayerData, most: int, show: _Shower
) -> list[Finding]:
    codes, success = data.features["train"].tocsc(), data.labels["train"]
    order = rank_features(estimator, codes)[:most]
    if not order:
        msg = f"the method found no feature of the SAE at layer {layer} that tells successes from failures"
        raise ScoreError(msg)
    sae, findings = store.sae(layer), []
    for feature, weight in order:
        column = codes[:, [feature]].toarray().ravel()
        active = column > 0
        rows = [row for row in np.argsort(-column, kind="stable").tolist() if active[row]]

        def value(residuals: Features, feature: int = feature) -> Floats:
            found: Floats = sae.encode(residuals)[:, [feature]].toarray().ravel()
            return found

        findings.append(
            Finding(
                f"feature {feature}",
                sae.label(feature),
                weight,
                int(active.sum()),
                float(success[active].mean()) if active.any() else 0.5,
                show(rows, value),
            )
        )
    return findings


@dataclass(frozen=True, slots=True)
class _Shower:
    """Shows train examples: at the final token, or at the one where a value is largest if all are read."""

    store: Any
    texts: Callable[[Sequence[int]], str]
    layer: int
    count: int
    pooled: bool

    def __call__(self, rows: Any, value: Callable[[Features], Floats]) -> tuple[Passage, ...]:
        """The first of some rows."""
        examples = self.store.examples("train")
        picked = self._of_distinct_groups(rows, [example.group for example in examples])
        read = self._read(picked)
        found = []
        for row in picked:
            positions, residuals = read[row]
            example, values = examples[row], value(residuals)
            largest = int(np.argmax(values))
            at, ids = positions[largest], example.token_ids.tolist()
            found.append(
                Passage(
                    self.texts(ids[max(0, at - AROUND) : at]),
                    self.texts(ids[at : at + 1]),
                    self.texts(ids[at + 1 : at + 1 + AROUND]),
                    bool(example.success),
                    answers(example)[0],
                    float(values[largest]),
                )
            )
        return tuple(found)

    def _read(self, picked: Sequence[int]) -> dict[int, tuple[list[int], Features]]:
        """Of each of some rows, the positions of the tokens that the method reads, and their residuals."""
        if not self.pooled:
            final = self.store.read_final_token(self.layer, "train")[0]
            ends = self.store.column("final_token_position", "train")
            return {row: ([int(ends[row])], final[[row]]) for row in picked}
        from wif_store.sae.autoencoder import ordinary

        found = {}
        for row, tokens in enumerate(self.store.iter_sequences(self.layer, "train")):
            if row in picked:
                kept = ordinary(tokens)
                found[row] = (np.flatnonzero(kept).tolist(), tokens[kept])
        return found

    def _of_distinct_groups(self, rows: Any, groups: Sequence[str]) -> list[int]:
        """The first of some rows; siblings say nearly the same, so one of each group is enough."""
        picked: dict[str, int] = {}
        for row in rows:
            if len(picked) == self.count:
                break
            picked.setdefault(groups[row], int(row))
        return list(picked.values())
