"""What a model says of itself, and what scores are worth as probabilities, against brute force."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score

from tests.support.memory_store import memory_store
from wif_store.errors import ScoreError
from wif_store.format.schema import Choice
from wif_store.scorer.calibration import as_probabilities, calibration, probabilities_by
from wif_store.scorer.confidence import CHOICE_MEASURES, measures
from wif_store.scorer.run import evaluate, score

LOGPROBS = st.lists(st.tuples(st.floats(-200, 0), st.integers(1, 40)), min_size=2, max_size=5)


@given(LOGPROBS)
def test_measures_of_choices_equal_brute_force(pairs):
    logprobs, tokens = zip(*pairs, strict=True)
    prediction = logprobs.index(max(logprobs))
    choice = Choice(("a",) * len(pairs), 0, prediction, logprobs, tokens)
    found = {name: measure(choice) for name, measure in CHOICE_MEASURES.items()}
    ordered = sorted(logprobs)
    whole = math.fsum(math.exp(p - ordered[-1]) for p in logprobs)
    shares = [math.exp(p - ordered[-1]) / whole for p in logprobs]
    by_token = [p / n for p, n in pairs]
    rival = max(value for i, value in enumerate(by_token) if i != prediction)
    assert found["margin"] == pytest.approx(ordered[-1] - ordered[-2], abs=1e-12)
    assert found["answer-probability"] == pytest.approx(shares[prediction], abs=1e-12)
    entropy = -math.fsum(p * math.log(p) for p in shares if p > 0)
    assert found["entropy"] == pytest.approx(-entropy, abs=1e-12)
    assert found["normalised-margin"] == pytest.approx(by_token[prediction] - rival, abs=1e-12)


def test_confidence_is_the_measure_that_is_best_on_validation():
    store = memory_store(confidence=1.0, n=400)
    held = {
        name: pytest.approx(roc_auc_score(store.success("validation"), values))
        for name, values in measures(store, "validation").items()
    }
    task = score(store, "mean-difference", layers=[0]).tasks[0]
    assert {m.name: m.settings["validation_auroc"] for m in task.measures} == held
    best = max(task.measures, key=lambda m: m.settings["validation_auroc"])
    assert task.baseline("confidence").settings == {"of": best.name, **best.settings}
    assert task.baseline("confidence").test == best.test
    assert [measure.name for measure in task.measures] == list(CHOICE_MEASURES)


SCORES = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=2, max_size=60)


@given(SCORES)
def test_risk_and_coverage_equal_brute_force_in_the_mean_over_orders_of_equal_scores(rows):
    labels, scores = np.array([row[0] for row in rows]), np.array([row[1] / 6 for row in rows])
    found = calibration(labels, scores, scores)
    n, risks = len(rows), []
    for count in range(1, n + 1):
        # Of those at the edge, each is as likely to be among the trusted as any other.
        edge = np.sort(scores)[-count]
        above, at = scores > edge, scores == edge
        failures = (1 - labels[above]).sum() + (1 - labels[at]).mean() * (count - above.sum())
        risks.append(failures / count)
    assert found.aurc == pytest.approx(np.mean(risks), abs=1e-12)
    for coverage, risk in found.risk_coverage:
        assert risk == pytest.approx(risks[round(coverage * n) - 1], abs=1e-12)
    assert found.risk_coverage[-1] == (1.0, pytest.approx(1 - labels.mean()))
    assert found.brier == pytest.approx(brier_score_loss(labels, scores, pos_label=1), abs=1e-12)


def test_the_expected_calibration_error_is_over_bins_of_equal_size():
    chances = np.repeat([0.05, 0.95], 50)
    labels = np.r_[np.ones(10), np.zeros(40), np.ones(30), np.zeros(20)]
    labels = labels.reshape(2, 5, 10).transpose(0, 2, 1).reshape(-1)  # every bin of ten is like the others
    assert calibration(labels, chances, chances).ece == pytest.approx(0.5 * 0.15 + 0.5 * 0.35)


def test_the_expected_calibration_error_does_not_depend_on_the_order_of_equal_probabilities():
    rng = np.random.default_rng(1)
    chances, labels = rng.integers(1, 6, 200) / 6, rng.integers(0, 2, 200)
    found = set()
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(200)
        found.add(round(calibration(labels[order], chances[order], chances[order]).ece, 12))
    assert len(found) == 1
    assert calibration([1, 0] * 15, np.full(30, 0.5), np.full(30, 0.5)).ece == 0


def test_probabilities_are_calibrated_where_the_scores_are_log_odds_of_another_scale():
    rng = np.random.default_rng(0)
    odds = rng.normal(size=20_000)
    labels = (rng.random(20_000) < 1 / (1 + np.exp(-odds))).astype(int)
    held, test = slice(0, 10_000), slice(10_000, None)
    chances = probabilities_by((labels[held], 7 * odds[held] - 3), 7 * odds[test] - 3)
    found = calibration(labels[test], odds[test], chances)
    assert found.ece < 0.02
    assert found.brier == pytest.approx(
        np.mean((1 / (1 + np.exp(-odds[test])) - labels[test]) ** 2), abs=2e-3
    )


def test_predictions_are_probabilities_where_they_are_from_zero_to_one():
    store = memory_store(confidence=2.0)
    margins = {example.id: example.choice.margin for example in store.examples("test")}
    shares = {name: 1 / (1 + math.exp(-margin)) for name, margin in margins.items()}
    curves = [evaluate(given, store).tasks[0].curves[0].calibration for given in (margins, shares)]
    assert (curves[0].brier, curves[0].ece) == (None, None) != (curves[1].brier, curves[1].ece)
    assert curves[0].risk_coverage == curves[1].risk_coverage
    assert as_probabilities(np.array([0.0, 1.0])) is not None


def test_an_example_without_log_likelihoods_is_named():
    store = memory_store()
    broken = [*store.all_examples]
    object.__setattr__(broken[0], "choice", None)
    with pytest.raises(ScoreError, match="piqa-00000 has no choices"):
        measures(store, "train")
