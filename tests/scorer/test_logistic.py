"""The logistic path against single, converged fits of scikit-learn."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from wif_store.scorer.probes.logistic import C_GRID, LogisticPath
from wif_store.scorer.stats import auroc

EXACT = {"tol": 1e-8, "max_iter": 20_000}


def residual_like(n, d, seed=0):
    """Correlated features with one huge channel, as in a residual stream, and a weak signal."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d)) * np.arange(1, d + 1) ** -0.7
    features = rng.normal(size=(n, d)) @ mixing.T
    logits = features @ rng.normal(size=d)
    labels = (logits / logits.std() + rng.logistic(size=n) > 0).astype(np.int8)
    features[:, 0] = features[:, 0] * 1e3 + 5e4
    return features.astype(np.float32), labels


def by_sklearn(c, train, labels, test):
    scaler = StandardScaler().fit(train)
    model = LogisticRegression(C=c, **EXACT).fit(scaler.transform(train), labels)
    return model.decision_function(scaler.transform(test))


@pytest.mark.parametrize("n", [300, 40], ids=["more examples than features", "fewer"])
@pytest.mark.parametrize("c", [1e-5, 1e-2, 1.0, 100.0])
def test_scores_equal_those_of_sklearn(n, c):
    features, labels = residual_like(n + 200, 60)
    train, test = features[:n].astype(float), features[n:].astype(float)
    expected = by_sklearn(c, train, labels[:n], test)
    found = LogisticPath([c], **EXACT).fit(train, labels[:n]).decision_function(test)
    assert np.abs(found - expected).max() < 1e-3 * max(1.0, np.abs(expected).max())
    # As probes are fitted: in float32, and no longer than scikit-learn does by default.
    plain = LogisticPath([c]).fit(features[:n], labels[:n]).decision_function(features[n:])
    assert auroc(labels[n:], plain) == pytest.approx(auroc(labels[n:], expected), abs=5e-3)


def test_c_is_chosen_on_validation_and_the_path_does_not_change_a_fit():
    features, labels = residual_like(500, 40, seed=2)
    features = features.astype(float)
    held = (features[300:400], labels[300:400])
    path = LogisticPath(**EXACT).fit(features[:300], labels[:300], validation=held)
    alone = LogisticPath([path.C_], **EXACT).fit(features[:300], labels[:300])
    assert list(path.grid_auroc_) == list(C_GRID)
    assert path.grid_auroc_[path.C_] == max(path.grid_auroc_.values())
    assert path.grid_auroc_[path.C_] == auroc(held[1], path.decision_function(held[0]))
    assert path.decision_function(features) == pytest.approx(alone.decision_function(features), abs=1e-3)


def test_of_equal_penalties_the_strongest_wins():
    labels = np.repeat([0, 1], 30)
    features = labels[:, None] * 2.0 - 1.0
    path = LogisticPath().fit(features, labels, validation=(features, labels))
    assert path.C_ == min(C_GRID)


def test_separable_data_and_a_dead_feature_end_well():
    labels = np.repeat([0, 1], 30)
    features = np.column_stack([labels * 2.0 - 1.0, np.full(60, 3.0)])
    found = LogisticPath([100.0]).fit(features, labels)
    assert auroc(labels, found.decision_function(features)) == 1.0
    assert found.coef_[0, 1] == 0.0
    assert (found.predict(features) == labels).all()


def test_it_is_an_estimator():
    copy = clone(LogisticPath(grid=(0.1,), tol=1e-3))
    assert copy.get_params() == {"grid": (0.1,), "tol": 1e-3, "max_iter": 10_000}
    with pytest.raises(ValueError, match="needs validation"):
        LogisticPath().fit(np.eye(4), [0, 1, 0, 1])
