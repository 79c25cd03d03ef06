"""Probes of layers, of examples and of SAE features; what is saved of them; predictions of a sample."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.support.command import run
from tests.support.memory_store import memory_store
from tests.support.saes import save_sae
from tests.support.stores import make_store
from wif_store.errors import SaeError, ScoreError
from wif_store.scorer.fitting import fit_one, read_place
from wif_store.scorer.probes import PROBES, find_probe
from wif_store.scorer.probes.sparse_features import SaeK
from wif_store.scorer.report import sections
from wif_store.scorer.run import evaluate, score
from wif_store.scorer.sae_features import with_sae
from wif_store.scorer.tables import to_text
from wif_store.store.reader import open_store


class FirstLayerOnly(LogisticRegression):
    """Reads all layers at once and looks at one."""

    reads = "layers"

    def fit(self, X, y):
        assert X.dtype == np.float32 and X.ndim == 3
        return super().fit(X[:, 0], y)

    def decision_function(self, X):
        return super().decision_function(X[:, 0])


class Words(LogisticRegression):
    """Reads examples: how often each word is in the prompt, and the probability of the answer."""

    reads = "example"

    def fit(self, X, y):
        assert all(e.success == -1 and e.choice.gold == -1 for e in X)
        self.words = CountVectorizer().fit([e.prompt for e in X])
        return super().fit(self.features(X), y)

    def features(self, X):
        margins = np.array([[e.choice.margin] for e in X])
        return np.hstack([self.words.transform([e.prompt for e in X]).toarray(), margins])

    def decision_function(self, X):
        return super().decision_function(self.features(X))


def test_a_probe_of_layers_is_given_all_of_them():
    store = memory_store(strength=1.0)
    curve = score(store, FirstLayerOnly(), layers=[2, 0]).tasks[0].curves[0]
    assert [point.layer for point in curve.points] == [None]
    alone = score(store, LogisticRegression(), layers=[2]).tasks[0].curves[0].best
    assert curve.best.test == alone.test
    with pytest.raises(ScoreError, match="has no layer 7; its layers are 0, 1, 2"):
        score(store, FirstLayerOnly(), layers=[7])


def test_the_ensemble_is_the_mean_of_its_layers():
    store = memory_store(strength=0.6, layers=(1, 2))
    data = read_place(store, PROBES["ensemble"], (1, 2))
    found = fit_one(PROBES["ensemble"], data).estimator.decision_function(data.features["test"])
    said = []
    for layer in (1, 2):
        one = read_place(store, PROBES["logistic"], layer)
        member = fit_one(PROBES["logistic"], one).estimator
        spread = member.decision_function(one.features["train"]).std()
        said.append(member.decision_function(one.features["test"]) / spread)
    np.testing.assert_allclose(found, np.mean(said, axis=0), rtol=1e-9)


def test_a_probe_of_examples_sees_texts_and_log_likelihoods_but_no_outcome():
    store = memory_store(confidence=3.0)
    curve = score(store, Words(), seeds=2).tasks[0].curves[0]
    assert (curve.reads, curve.best.layer) == ("example", None)
    assert curve.best.test.low > 0.5
    assert len(curve.best.seed_aurocs) == 2


@pytest.mark.parametrize("name", ["logistic", "lda", "mean-difference"])
def test_saved_probes_give_with_numpy_what_the_probe_gave(name, tmp_path):
    path = make_store(tmp_path / "s.zarr", per_class=40)
    done = run("score", path, "--probe", name, "--out", tmp_path / "r", "--save-probes")
    assert done.returncode == 0, done.stderr
    assert f"probes ({name}) to {tmp_path / 'r' / 'probes'}" in done.stdout
    store = open_store(path)
    results = json.loads((tmp_path / "r" / "results.json").read_text())
    curve = results["tasks"][0]["curves"][0]
    scores = pq.read_table(tmp_path / "r" / "scores.parquet").to_pandas().query("split == 'test'")
    for point in curve["points"]:
        file = tmp_path / "r" / "probes" / f"{store.task}.{name}.layer{point['layer']:02d}.safetensors"
        held = load_file(file)
        X, success = store.read_final_token(point["layer"], "test")
        found = ((X - held["mean"]) / held["scale"]) @ held["coef"] + held["intercept"]
        assert roc_auc_score(success, found) == pytest.approx(point["test"]["value"], abs=1e-9)
        if point == curve["points"][curve["chosen"]]:
            np.testing.assert_allclose(found, scores[name], rtol=1e-5, atol=1e-6)
    with safe_open(file, "numpy") as opened:
        assert opened.metadata()["manifest_sha256"] == results["tasks"][0]["store"]["manifest_sha256"]


def test_a_pipeline_of_a_scaler_and_a_linear_probe_is_saved_too():
    store = memory_store(strength=1.0)
    probe = make_pipeline(StandardScaler(), LogisticRegression())
    [weights] = score(store, probe, layers=[2]).weights
    X = store.read_final_token(2, "test")[0]
    train, success = store.read_final_token(2, "train")
    expected = probe.fit(train, success).decision_function(X)
    held = weights.arrays
    found = ((X - held["mean"]) / held["scale"]) @ held["coef"] + held["intercept"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_saved_is_said(tmp_path):
    path = make_store(tmp_path / "s.zarr", per_class=40)
    done = run("score", path, "--probe", "ensemble", "--out", tmp_path / "r", "--save-probes")
    assert done.returncode == 1 and "no weights to save in ensemble" in done.stderr
    done = run("score", path, "--save-probes")
    assert done.returncode == 1 and "add --out FOLDER" in done.stderr


def test_scores_are_of_every_method_and_of_two_splits(tmp_path):
    stores = [memory_store("boolq", strength=1.0), memory_store("piqa", strength=1.0)]
    given = {e.id: e.choice.margin for store in stores for e in store.examples("test")}
    results = score(stores, ["lda", "logistic"], predictions=given)
    table = results.scores_table().to_pandas()
    assert list(table) == [
        *("task", "id", "split", "success"),
        *("predictions", "lda", "logistic", "confidence", "prompt-length", "tf-idf"),
    ]
    for store, task in zip(stores, results.tasks, strict=True):
        rows = table[(table.task == store.task) & (table.split == "test")]
        assert rows.id.tolist() == store.column("id", "test").tolist()
        assert rows.success.tolist() == store.success("test").tolist()
        for name in ("lda", "logistic", "predictions"):
            [curve] = [curve for curve in task.curves if curve.probe == name]
            assert roc_auc_score(rows.success, rows[name]) == pytest.approx(curve.best.test.value)
        held = table[(table.task == store.task) & (table.split == "validation")]
        assert held.predictions.isna().all() and held.lda.notna().all()
    frame = results.to_pandas()
    assert isinstance(frame, pd.DataFrame) and len(frame) == 2 * 6
    assert (
        frame.query("method == 'lda' and task == 'piqa'").auroc.item()
        == results.tasks[1].curves[1].best.test.value
    )


def test_shown_examples_are_those_that_the_best_method_gets_wrong_and_right():
    store = memory_store(strength=1.0)
    results = score(store, ["logistic"])
    table = results.scores_table().to_pandas().query("split == 'test'").set_index("id")
    wrong, right = ([one for one in results.shown if one.wrong is kind] for kind in (True, False))
    assert len(wrong) == len(right) == 10 and {one.method for one in results.shown} == {"logistic"}
    failures, successes = (table[table.success == kind].logistic for kind in (0, 1))
    assert all((failures > table.loc[o.id].logistic).sum() < 10 for o in wrong if not o.success)
    assert all((successes > table.loc[o.id].logistic).sum() < 10 for o in right if o.success)
    for one in results.shown:
        example = next(e for e in store.all_examples if e.id == one.id)
        assert one.prompt == example.prompt and one.expected == example.choice.choices[example.choice.gold]
        assert (one.answer == one.expected) == bool(one.success)


def test_a_sample_of_the_test_split_is_scored_if_it_is_announced():
    store = memory_store(strength=1.0, confidence=2.0)
    kept = store.examples("test")[10:60]
    given = {example.id: example.choice.margin for example in kept}
    with pytest.raises(ScoreError, match="or pass --subset"):
        evaluate(given, store)
    results = score(store, "lda", layers=[2], predictions=given, subset=True)
    task = results.tasks[0]
    assert task.examples == {"train": 200, "validation": 100, "test": 50}
    assert results.settings["subset"] is True
    whole = score(store, "lda", layers=[2]).scores_table().to_pandas().set_index("id")
    rows = whole.loc[[example.id for example in kept]]
    assert task.curves[0].best.test.value == pytest.approx(roc_auc_score(rows.success, list(given.values())))
    assert task.curves[1].best.test.value == pytest.approx(roc_auc_score(rows.success, rows.lda))
    assert task.baseline("tf-idf").test.value == pytest.approx(roc_auc_score(rows.success, rows["tf-idf"]))
    other = {example.id: example.choice.margin for example in store.examples("test")[40:]}
    both = evaluate([given, other], store, subset=True).tasks[0]
    assert both.examples["test"] == 20  # those that both are for
    with pytest.raises(ScoreError, match=r"holds 1 successes and 0 failures.*: give predictions for more"):
        evaluate(dict(list(given.items())[:1]), store, subset=True)
    with pytest.raises(ScoreError, match="no prediction is for a test example"):
        evaluate({"none": 1.0, "such": 2.0}, store, subset=True)
    with pytest.raises(ScoreError, match="--subset is for predictions"):
        score(store, "lda", subset=True)


@pytest.fixture(scope="module")
def saes(tmp_path_factory):
    """Of layers 1 and 2 of the made-up stores."""
    folder = tmp_path_factory.mktemp("sae")
    for layer in (1, 2):
        hook = f"blocks.{layer}.hook_resid_post"
        save_sae(folder / f"at_{layer}", "topk", d_in=8, d_sae=32, k=4, hook=hook, model="toy/model")
    return str(folder / "at_{layer}")


@pytest.mark.extras
def test_an_sae_is_read_at_the_layers_it_is_there_for(saes):
    store = memory_store(strength=2.0)
    results = score(store, "sae-k", sae=saes)
    points = results.tasks[0].curves[0].points
    assert [point.layer for point in points] == [1, 2]
    assert points[0].settings["features"] == 32
    assert any("of the variance of train, under 0.6" in note for note in points[0].notes)
    assert results.settings["sae"] == saes
    assert "the SAE of sae-k at layer 2 has 32 features and gives back" in to_text(sections(results))
    alone = score(store, "sae-k", sae=saes.replace("{layer}", "2")).tasks[0].curves[0].points
    assert [(p.layer, p.test) for p in alone] == [(2, points[1].test)]
    with pytest.raises(ScoreError, match="has no layer 0; its SAE's layers are 1, 2"):
        score(store, "sae-k", layers=[0], sae=saes)
    with pytest.raises(SaeError, match="there is no SAE for any of the layers 0, 1, 2; expected a folder"):
        score(store, "sae-k", sae=saes.replace("at_", "elsewhere_"))


@pytest.mark.extras
def test_features_are_pooled_over_the_tokens_of_a_sequence(saes):
    plain = memory_store()
    for split in plain.residuals[2]:
        split[0] *= 50  # as the first token of a sequence is far longer than the others in some models
    for pool in ("mean", "max"):
        store = with_sae(plain, saes, pool)
        found = store.read_codes(2, "validation")
        assert sparse.issparse(found) and found.dtype == np.float32
        for row, tokens in zip(found.toarray(), plain.iter_sequences(2, "validation"), strict=True):
            kept = tokens[np.linalg.norm(tokens, axis=1) <= 3 * np.median(np.linalg.norm(tokens, axis=1))]
            codes = store.sae(2).encode(kept).toarray()
            np.testing.assert_allclose(row, getattr(codes, pool)(axis=0), rtol=1e-5, atol=1e-6)
    with pytest.raises(ScoreError, match="expected one of: final, mean, max"):
        with_sae(plain, saes, "sum")


@pytest.mark.extras
def test_sae_probes_without_an_sae_and_the_other_way_round(saes):
    with pytest.raises(ScoreError, match="name one with --sae"):
        score(memory_store(), "sae-k")
    with pytest.raises(ScoreError, match="add --probe sae-k or sae-logistic"):
        score(memory_store(), "logistic", sae=saes)


def test_a_planted_feature_is_found_alone():
    rng = np.random.default_rng(0)
    codes = np.where(rng.random((800, 500)) < 0.05, rng.exponential(size=(800, 500)), 0).astype(np.float32)
    labels = (codes[:, 123] > 0).astype(int)
    rows = np.r_[np.flatnonzero(labels)[:30], np.flatnonzero(labels == 0)[:30]]
    others = np.setdiff1d(np.arange(800), rows)
    held = sparse.csr_array(codes[rows]), labels[rows]
    probe = SaeK().fit(sparse.csr_array(codes[others]), labels[others], held)
    assert (probe.k_, probe.features_.tolist()) == (1, [123])
    assert roc_auc_score(held[1], probe.decision_function(held[0])) >= 0.99


@pytest.mark.extras
def test_probes_may_read_sae_features_of_a_users_own(saes):
    class Mine(LogisticRegression):
        reads = "sae"

    assert find_probe(Mine()).reads == "sae"
    curve = score(memory_store(strength=2.0), Mine(), layers=[2], sae=saes).tasks[0].curves[0]
    assert curve.best.test.low > 0.5


class Turns(LogisticRegression):
    """Cheats: says success and failure in turns, as the rows of a store are."""

    def decision_function(self, X):
        return 1e-9 * np.arange(len(X)) + (np.arange(len(X)) % 2 == 0)


class Scaled(LogisticRegression):
    """Does more than its coefficients say."""

    def decision_function(self, X):
        return super().decision_function(X / np.linalg.norm(X, axis=1, keepdims=True))


class Spoiler(LogisticRegression):
    """Changes what it is given."""

    def fit(self, X, y):
        super().fit(X.copy(), y)
        X[:] = 0
        return self


def test_the_order_of_rows_tells_a_probe_nothing():
    test = score(memory_store(), Turns(), layers=[0]).tasks[0].curves[0].best.test
    assert test.low < 0.5 < test.high


def test_weights_that_are_not_what_the_probe_gives_are_not_saved():
    assert not score(memory_store(strength=1.0), Scaled(), layers=[2]).weights
    assert score(memory_store(strength=1.0), LogisticRegression(), layers=[2]).weights


def test_a_probe_that_changes_what_it_is_given_changes_no_other_seed():
    for seeds in (1, 3):
        found = [
            score(memory_store(strength=0.5), probe, layers=[2], seeds=seeds).tasks[0].curves[0].best
            for probe in (LogisticRegression(), Spoiler())
        ]
        assert found[0].seed_aurocs == found[1].seed_aurocs


def test_a_probe_of_layers_moves_between_tasks_with_the_layers_it_was_given():
    stores = [memory_store("boolq", strength=1.0), memory_store("piqa", strength=1.0)]
    results = score(stores, FirstLayerOnly(), layers=[2, 0], cross_task=True)
    for task in results.tasks:
        assert results.cross_task[0].cell(task.task, task.task).test == task.curves[0].best.test
    stores[1] = memory_store("piqa", strength=1.0, layers=(0, 2))
    with pytest.raises(ScoreError, match="the stores have other layers"):
        score(stores, FirstLayerOnly(), cross_task=True)


@pytest.mark.parametrize("name", ["success", "id", "confidence", "chance"])
def test_names_that_would_hide_a_column_are_refused(name):
    store = memory_store()
    given = {example.id: example.choice.margin for example in store.examples("test")}
    with pytest.raises(
        ScoreError, match=f"predictions '{name}' have the name of a probe, baseline or column"
    ):
        evaluate(given, store, name=name)
    probe = type(name, (LogisticRegression,), {})
    with pytest.raises(ScoreError, match=f"probe '{name}' has the name of a baseline or of a column"):
        score(store, probe)
