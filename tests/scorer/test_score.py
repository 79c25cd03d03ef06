"""Scores of planted and of shuffled stores; every way a probe can misbehave."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.support import odd_probes
from tests.support.memory_store import memory_store
from tests.support.saes import save_sae
from wif_store.errors import LayersError, ScoreError
from wif_store.scorer.probes import PROBES, Probe
from wif_store.scorer.run import score

ODD = "tests.support.odd_probes"
ODD_FILE = odd_probes.__file__


def line_of(text):
    """The line of the odd probes, from 1, that holds a text first."""
    return next(n for n, line in enumerate(Path(ODD_FILE).read_text().splitlines(), 1) if text in line)


def needs_torch(name):
    """Whether a test of the probe does; the tests save an SAE with it."""
    return name == "attention" or PROBES[name].reads == "sae"


EVERY_PROBE = [pytest.param(name, marks=pytest.mark.extras if needs_torch(name) else ()) for name in PROBES]


@pytest.fixture(scope="module")
def sae(tmp_path_factory):
    """Of the made-up stores, for probes that read one: ``score``'s argument, by the probe's name."""

    @cache
    def saved():
        folder = tmp_path_factory.mktemp("sae")
        for layer in (1, 2):
            hook, model = f"blocks.{layer}.hook_resid_post", "toy/model"
            save_sae(folder / str(layer), d_in=8, d_sae=64, hook=hook, model=model)
        return str(folder / "{layer}")

    return lambda name: saved() if PROBES[name].reads == "sae" else None


@pytest.mark.parametrize("name", EVERY_PROBE)
def test_every_probe_finds_a_planted_direction(name, sae):
    results = score(memory_store(strength=1.5, n=240), name, layers=[2], sae=sae(name))
    assert results.tasks[0].curves[0].best.test.low > 0.6


@pytest.mark.parametrize("name", EVERY_PROBE)
def test_every_probe_gives_one_half_on_shuffled_labels(name, sae):
    store = memory_store(strength=0.0, n=240, seed=3)
    curve = score(store, name, layers=[1], sae=sae(name)).tasks[0].curves[0]
    assert curve.best.test.low < 0.5 < curve.best.test.high
    assert curve.shuffled.low < 0.5 < curve.shuffled.high


@pytest.mark.parametrize("name", EVERY_PROBE)
def test_the_control_is_one_half_even_where_a_direction_is_planted(name, sae):
    store = memory_store(strength=2.0, n=240)
    shuffled = score(store, name, layers=[2], sae=sae(name)).tasks[0].curves[0].shuffled
    assert shuffled.low < 0.5 < shuffled.high


def test_the_layer_is_chosen_on_validation_and_the_test_split_does_not_matter():
    store = memory_store(strength=0.5)
    first = score(store).tasks[0].curves[0]
    assert first.chosen == int(np.argmax([point.validation_auroc for point in first.points]))
    held = [e if e.split != "test" else replace(e, success=1 - e.success) for e in store.all_examples]
    flipped = score(replace(store, all_examples=held)).tasks[0].curves[0]
    assert flipped.chosen == first.chosen
    for before, after in zip(first.points, flipped.points, strict=True):
        assert (before.settings, before.validation_auroc) == (after.settings, after.validation_auroc)
        assert after.test.value == pytest.approx(1.0 - before.test.value, abs=1e-12)


def test_a_result_is_what_a_user_would_compute_by_hand():
    store = memory_store(strength=0.5)
    point = score(store, f"{ODD}:pipeline", layers=[2]).tasks[0].curves[0].best
    by_hand = odd_probes.pipeline().fit(*store.read_final_token(2, "train"))
    features, labels = store.read_final_token(2, "test")
    assert point.test.value == pytest.approx(roc_auc_score(labels, by_hand.decision_function(features)))


def test_user_estimators_are_taken_as_instances_classes_and_factories():
    store = memory_store(strength=1.5)
    given = [odd_probes.ready_made, odd_probes.pipeline, f"{ODD}:ready_made"]
    found = score(store, given, layers=[2]).tasks[0].curves
    assert [curve.probe for curve in found] == ["LogisticRegression", "pipeline", f"{ODD}:ready_made"]
    assert found[0].best.test == found[2].best.test
    assert not hasattr(odd_probes.ready_made, "coef_")


def test_predict_proba_is_read_at_class_one():
    from sklearn.naive_bayes import GaussianNB

    assert (
        score(memory_store(strength=1.5), GaussianNB(), layers=[2]).tasks[0].curves[0].best.test.value > 0.8
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("GivesNan", "NaN or infinity for 3 of"),
        ("GivesConstant", "the same score (0.25)"),
        ("GivesLabels", "the labels 0 and 1"),
        ("GivesTooFew", "shape (99,) for 100 examples"),
        ("GivesWords", "not numbers"),
        ("RaisesInFit", f"{ODD_FILE}, line {line_of('no luck today') + 1}): no luck today"),
        ("RaisesInScoring", f"raised KeyError in scoring ({ODD_FILE}, line {line_of('weights') + 1})"),
        ("OnlyPredicts", "neither decision_function nor predict_proba"),
    ],
)
def test_a_probe_that_misbehaves_is_named_with_its_layer_and_task(name, says):
    with pytest.raises(ScoreError) as caught:
        score(memory_store("boolq"), f"{ODD}:{name}", layers=[1])
    message = str(caught.value)
    assert says in message
    assert f"probe '{ODD}:{name}' at layer 1 of task 'boolq'" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("probe", "says"),
    [
        ("logistics", "no probe 'logistics'; expected one of paper-logistic"),
        ("no_such_module:make", "cannot be imported"),
        (f"{ODD}:nothing", "cannot be imported"),
        (
            f"{ODD}:broken_factory",
            f"cannot be made (RuntimeError ({ODD_FILE}, line {line_of('out of parts') + 1}): out of parts)",
        ),
        (f"{ODD}:ReadsBadly", "cannot be made (LookupError"),
        (":make", "no probe ':make'"),
        (".odd:make", "no probe '.odd:make'"),
        (f"{ODD}:number_factory", "makes a int without fit"),
        (f"{ODD}:not_a_probe", "is a int"),
        (f"{ODD}:ReadsNonsense", "reads 'attention_pattern'; expected one of final_token"),
        (["logistic", "logistic"], "asked for twice"),
    ],
)
def test_a_probe_that_is_none_is_refused(probe, says):
    with pytest.raises(ScoreError) as caught:
        score(memory_store(), probe)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def (:", "SyntaxError: invalid syntax (a_module_that_raises.py, line 1)"),
        ("\nraise ValueError('no\\nluck')", "ValueError ({path}, line 2): no)"),
        ("import sys; sys.exit(0)", "SystemExit ({path}, line 1): 0)"),
        (
            "import no_such_library",
            "ModuleNotFoundError ({path}, line 1): No module named 'no_such_library')",
        ),
    ],
)
def test_a_module_that_raises_while_it_is_imported_is_named_with_the_line(code, says, tmp_path, monkeypatch):
    path = tmp_path / "a_module_that_raises.py"
    path.write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ScoreError) as caught:
        score(memory_store(), "a_module_that_raises:make")
    assert says.format(path=path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_installed_probe_is_named_with_its_line_too(tmp_path, monkeypatch):
    (tmp_path / "an_installed_probe.py").write_text("def make():\n    return 1 / 0\n")
    monkeypatch.setattr("wif_store.scorer.probes.base.INSTALLED", (tmp_path,))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ScoreError, match=r"an_installed_probe.py, line 2\): division by zero"):
        score(memory_store(), "an_installed_probe:make")


@pytest.mark.parametrize("layers", ["1-2", [1, 2], np.arange(1, 3), (n for n in (1, 2))])
def test_layers_are_named_by_text_or_numbers(layers):
    results = score(memory_store(n=120), "mean-difference", layers)
    assert [point.layer for point in results.tasks[0].curves[0].points] == [1, 2]
    assert json.loads(json.dumps(results.to_json()))["settings"]["layers"] == [1, 2]


def test_one_layer_is_named_by_its_number_and_all_by_a_word():
    for layers, expected in ((2, [2]), ("all", [0, 1, 2]), (None, [0, 1, 2])):
        curve = score(memory_store(n=120), "mean-difference", layers).tasks[0].curves[0]
        assert [point.layer for point in curve.points] == expected


def test_a_text_is_read_against_the_layers_of_all_stores():
    stores = [memory_store("piqa", n=120), memory_store("boolq", n=120, layers=(1, 2, 5))]
    found = score(stores, "mean-difference", "1-2").tasks
    assert [[p.layer for p in task.curves[0].points] for task in found] == [[1, 2], [1, 2]]
    with pytest.raises(ScoreError, match="'piqa' has no layer 5; its layers are 0, 1, 2"):
        score(stores, "mean-difference", "1,5")
    with pytest.raises(LayersError, match="there is no layer 3; expected some of: 0-2,5"):
        score(stores, "mean-difference", "3")


@pytest.mark.parametrize("layers", ["none", "auto", [], [1.5], ["1"], object()])
def test_layers_that_name_none_are_refused(layers):
    with pytest.raises(LayersError, match=r"^layers is .*; expected"):
        score(memory_store(n=120), "mean-difference", layers)


def test_lacking_layers_are_named():
    with pytest.raises(ScoreError, match=r"'logistic': the store of task 'piqa' has no layer 7; .* 0, 1, 2"):
        score(memory_store(), layers=[1, 7])
    with pytest.raises(ScoreError, match=r"'mean-token' reads full sequences .* 'piqa' holds none"):
        score(replace(memory_store(), sequence_layers=()), "mean-token")
    with pytest.raises(ScoreError, match=r"'mean-token'.* no layer 0; its sequence layers are 2"):
        score(replace(memory_store(), sequence_layers=(2,)), "mean-token", layers=[0])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_of_one_class_is_refused(split):
    store = memory_store("boolq")
    held = [e if e.split != split else replace(e, success=1) for e in store.all_examples]
    with pytest.raises(ScoreError, match=f"{split} split of task 'boolq' holds .* successes and 0 failures"):
        score(replace(store, all_examples=held))


def test_settings_out_of_range_are_refused():
    for wrong, says in (
        ({"confidence": 99.9}, "confidence is 99.9"),
        ({"seeds": 0}, "seeds is 0"),
        ({"bootstrap_draws": 100}, "100 bootstrap draws"),
    ):
        with pytest.raises(ScoreError, match=says):
            score(memory_store(), **wrong)
    with pytest.raises(ScoreError, match="no store"):
        score([])
    for closed in ("s.zarr", [None], iter([memory_store()])):
        with pytest.raises(ScoreError, match=r"expected what wif_store.open_store gives"):
            score(closed)
    with pytest.raises(ScoreError, match="'piqa' is given by more than one store"):
        score([memory_store(), memory_store()])


def test_seeds_spread_apart_from_the_interval():
    store = memory_store(strength=0.5)
    once = score(store, layers=[2]).tasks[0].curves[0].best
    often = score(store, layers=[2], seeds=4).tasks[0].curves[0].best
    assert often.test == once.test
    assert len(often.seed_aurocs) == 4 and often.seed_aurocs[0] == once.test.value
    assert len(set(often.seed_aurocs)) > 1


def test_seeds_divide_train_and_validation_by_groups():
    store = memory_store(n=240)
    groups = {
        row.tobytes(): example.group
        for row, example in zip(store.read_final_token(2)[0], store.examples(), strict=True)
    }
    odd_probes.Notes.fits.clear()
    score(store, f"{ODD}:Notes", layers=[2], seeds=4)
    parts = [[{groups[row.tobytes()] for row in part} for part in fit[:2]] for fit in odd_probes.Notes.fits]
    divisions = {frozenset(train) for train, _ in parts}
    assert len(divisions) == 4
    rows = {group for group in groups.values() if not group.startswith("test")}
    for train, held in parts:
        assert not train & held
        assert train | held == rows
    assert {len(fit[0]) for fit in odd_probes.Notes.fits} == {len(store.examples("train"))}


def test_too_few_groups_to_divide_anew_are_refused():
    store = memory_store(n=120)
    one = replace(store, all_examples=[replace(example, group="g") for example in store.all_examples])
    assert score(one, "mean-difference", [1]).tasks[0].curves[0].best.seed_aurocs
    with pytest.raises(
        ScoreError, match="have 1 groups, too few to divide them anew for seed 1; use --seeds 1"
    ):
        score(one, "mean-difference", [1], seeds=2)


def test_probes_that_are_fitted_in_threads_have_one_blas_thread_each():
    stores = [memory_store("piqa", n=120), memory_store("boolq", n=120)]
    odd_probes.Notes.fits.clear()
    score(stores, Probe("notes", odd_probes.Notes, threads=True), cross_task=True)
    assert len(odd_probes.Notes.fits) == 2 * 3 + 2 + 2  # layers, controls, cross-task
    assert [fit[2] for fit in odd_probes.Notes.fits] == [{1}] * 10


@pytest.mark.parametrize(
    ("section", "value", "says"),
    [
        ("model", [1], "model is a list; expected an object"),
        ("protocol", None, "protocol is a NoneType"),
        ("selection", "x", "selection is a str"),
        ("source", {"rows": float("nan")}, "the number nan"),
        (
            "source",
            {"a": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]},
            "levels of nesting",
        ),
    ],
)
def test_a_manifest_that_no_build_writes_is_refused_before_anything_is_fitted(section, value, says):
    store = memory_store(n=120)
    odd_probes.Notes.fits.clear()
    with pytest.raises(ScoreError) as caught:
        score(replace(store, manifest=replace(store.manifest, **{section: value})), f"{ODD}:Notes")
    assert says in str(caught.value)
    assert not odd_probes.Notes.fits


def test_random_states_are_seeded_and_runs_repeat():
    from sklearn.neural_network import MLPClassifier

    probe = Probe("mlp", lambda: MLPClassifier((4,), solver="lbfgs", max_iter=20))
    runs = [score(memory_store(strength=0.5), probe, layers=[2], seeds=2) for _ in range(2)]
    assert json.dumps(runs[0].to_json()) == json.dumps(runs[1].to_json())


def test_warnings_of_a_probe_become_notes():
    best = score(memory_store(), f"{ODD}:Warns", layers=[0]).tasks[0].curves[0].best
    assert best.notes == ("UserWarning: slow going",)


def test_verdicts_against_the_models_own_confidence():
    sure = score(memory_store(strength=0.0, confidence=4.0, n=600), layers=[0])
    blind = score(memory_store(strength=2.0, confidence=0.0, n=600), layers=[2])
    equal = score(memory_store(strength=0.0, confidence=0.0, n=600), layers=[0])
    found = [run.tasks[0].curves[0].against("confidence").verdict(0.999) for run in (sure, blind, equal)]
    assert found == ["is worse than", "beats", "does not beat"]


def test_holm_corrects_over_all_layers_and_tasks():
    stores = [memory_store("piqa", strength=0.6), memory_store("boolq", strength=0.4, seed=5)]
    results = score(stores)
    tests = [p.comparisons[0] for task in results.tasks for p in task.curves[0].points]
    smallest = min(tests, key=lambda test: test.p)
    assert smallest.p_holm == pytest.approx(min(1.0, 6 * smallest.p))
    heads = [task.curves[0].against("chance") for task in results.tasks]
    assert min(h.p_holm for h in heads) == pytest.approx(min(1.0, 2 * min(h.p for h in heads)))


def test_a_probe_holds_on_another_task_that_shares_its_direction():
    stores = [memory_store(name, strength=1.5, seed=n) for n, name in enumerate(("piqa", "boolq"))]
    stores.append(memory_store("winogrande", strength=0.0, seed=7))
    results = score(stores, cross_task=True)
    table = results.cross_task[0]
    assert table.cell("piqa", "boolq").test.low > 0.7
    assert (
        table.cell("winogrande", "winogrande").test.low
        < 0.5
        < table.cell("winogrande", "winogrande").test.high
    )
    for name in table.tasks:
        best = results.task(name).curves[0].best
        assert table.cell(name, name).layer == best.layer
        assert table.cell(name, name).test == best.test
    with pytest.raises(ScoreError, match="differ in d_model"):
        score([memory_store("piqa"), memory_store("boolq", d_model=9)], cross_task=True)
    with pytest.raises(ScoreError, match="no layer in common"):
        score([memory_store("piqa", layers=(0, 1)), memory_store("boolq", layers=(2,))], cross_task=True)


def test_probes_are_compared_in_pairs():
    results = score(memory_store(strength=0.5), ["logistic", "lda", "mean-difference"], layers=[2])
    assert [(b.first, b.second) for b in results.between] == [
        ("logistic", "lda"),
        ("logistic", "mean-difference"),
        ("lda", "mean-difference"),
    ]


def test_importing_the_scorer_loads_neither_torch_nor_sklearn():
    code = (
        "import sys; from wif_store.scorer import figure, report, run; "
        "heavy = {'torch', 'transformers', 'sklearn', 'scipy', 'matplotlib'} & set(sys.modules); "
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_scoring_loads_no_torch():
    code = (
        "import sys; from tests.support.memory_store import memory_store; "
        "from wif_store.scorer.run import score; "
        "score(memory_store(), ['logistic', 'paper-logistic', 'mean-token']); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_attention_probe_without_torch_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ScoreError, match=r"pip install 'wif-store\[attention\]'"):
        score(memory_store(), "attention", layers=[0])
