"""Steering: a planted switch is found, a bystander is not, and what cannot be steered is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import wif_store
from tests.support import tiny
from tests.support.planted_switch import plant
from wif_store.cli.app import app
from wif_store.cli.app import main as command_line
from wif_store.errors import DamageError, ModelError, SteerError, WifError
from wif_store.scorer.report import sections
from wif_store.scorer.steered import MEANS, RANDOM
from wif_store.scorer.tables import to_text
from wif_store.steering.directions import random_directions
from wif_store.steering.outcomes import DRAWS, Resampling
from wif_store.store.reader import open_store


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return plant(tmp_path_factory.mktemp("planted"), 800)


@pytest.fixture(scope="module")
def store(planted, tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "s.zarr"
    return wif_store.build(
        str(planted.rows), str(planted.model), per_class="max", out=out, dtype="float32", device="cpu"
    )


@pytest.fixture(scope="module")
def steer(planted, store):
    def steer(probe="logistic", **options):
        given = {"model": str(planted.model), "source": str(planted.rows), "examples": 40} | options
        return wif_store.steer(store, probe, **given)

    return steer


@pytest.fixture(scope="module")
def results(steer):
    return steer(examples=60)


def test_a_planted_switch_is_found_by_a_probe(results):
    [one] = results.steering
    effect = one.against_random
    assert (one.method, one.differs, one.examples) == ("logistic", 0, 60)
    assert effect.difference >= 0.9
    assert effect.verdict == "changes more answers than"
    assert 0.5 < effect.control_kl / effect.kl < 2
    # Along the direction success is likelier, and here it is certain.
    assert (one.dose("logistic", one.strength).accuracy, one.push[0]) == (1.0, 1.0)


def test_a_bystander_predicts_and_does_not_move(planted, steer, store):
    path = planted.rows.with_name("bystander.npy")
    [one] = steer(str(path), layer=1, examples=60).steering
    X, success = store.read_final_token(1, "test")
    ranks = (X @ planted.bystander)[success == 1][:, None] > (X @ planted.bystander)[success == 0]
    assert ranks.mean() > 0.9
    assert one.against_random.verdict == "does not change more answers than"
    assert one.against_random.flips == 0
    assert one.method == "bystander.npy"


def test_without_a_move_the_answers_are_those_of_the_store(results, store):
    [one] = results.steering
    assert one.accuracy == np.mean(store.success("test")[:60]) == 0.5
    assert one.differs == one.apart == 0


def test_every_dose_adds_up(results):
    [one] = results.steering
    assert {dose.method for dose in one.doses} == {"logistic", MEANS, RANDOM}
    for dose in one.doses:
        assert dose.accuracy == pytest.approx(one.accuracy + dose.wrong_to_right - dose.right_to_wrong)
        assert dose.flips >= dose.right_to_wrong + dose.wrong_to_right - 1e-12
        assert dose.flips_interval[0] <= dose.flips <= dose.flips_interval[1]
        assert dose.size > 0 and dose.kl >= 0
    assert one.dose("logistic", one.strength).size == pytest.approx(one.strength * one.spread)
    # Where no strength is asked for, the larger of two moves the distribution as far as is aimed.
    strengths = sorted({dose.strength for dose in one.doses if dose.strength > 0})
    assert len(strengths) == 2 and strengths[1] == pytest.approx(3 * strengths[0], rel=0.05)
    assert 0.2 < np.mean([one.dose("logistic", s * strengths[1]).kl for s in (1, -1)]) < 1.0


def test_a_direction_can_be_projected_out(steer):
    [one] = steer(ablate=True).steering
    assert (one.ablate, one.strength, one.push) == (True, 1.0, None)
    assert {dose.strength for dose in one.doses} == {1.0}
    assert one.dose("logistic", 1.0).size == 0
    assert one.dose("logistic", 1.0).kl > 0
    # Controls are out whole, too.
    assert set(one.factors.values()) == {1.0}


def test_of_few_examples_nothing_is_said(steer):
    [one] = steer(examples=6).steering
    assert one.against_random.flips == 1.0
    assert one.against_random.verdict == "has too few examples to be told from"


def test_a_strength_that_breaks_the_model_is_told_of(steer):
    results = steer(strengths=(100.0,))
    assert results.steering[0].notes == ("every strength moves the distribution by more than 1 nat",)
    text = to_text(sections(results))
    assert "rows: every strength moves the distribution by more than 1 nat" in text


def test_nothing_is_run_before_all_is_there(steer, store, planted, tmp_path):
    told = []
    with pytest.raises(SteerError, match=r"expected what wif_store\.open_store gives"):
        wif_store.steer([store, "s.zarr"], progress=lambda *given: told.append(given))
    with pytest.raises(SteerError, match="at least one"):
        wif_store.steer([])
    assert told == []


def test_what_python_gives_can_be_written(steer, planted, tmp_path):
    from wif_store.scorer.files import write

    out = tmp_path / "out"
    path = planted.rows.with_name("switch.npy")
    results = steer(path, layer=1, seed=np.int64(3), examples=np.int64(4), strengths=np.array([1.0, 3.0]))
    assert "steering.png" in write(results, out)
    # Figures of an earlier run do not stay beside the results of a later one.
    write(replace(results, steering=()), out)
    assert not (out / "steering.png").exists()


def test_saved_weights_and_vectors_give_the_same_direction(steer, results, tmp_path):
    from wif_store.scorer.files import save_probes

    layer = results.steering[0].layer
    [name] = [one for one in save_probes(results, tmp_path) if f"layer{layer:02d}" in one]
    [of_file] = steer(str(tmp_path / name)).steering
    weights = next(one.arrays for one in results.weights if one.layer == layer)
    np.save(tmp_path / "v.npy", weights["coef"] / weights["scale"])
    [of_vector] = steer(str(tmp_path / "v.npy"), layer=layer).steering
    [of_probe] = steer(layer=layer).steering
    assert of_file.doses[0].kl == of_vector.doses[0].kl == of_probe.doses[0].kl
    assert of_file.layer == layer


def test_an_sae_feature_is_a_direction(steer, tmp_path, planted, store):
    pytest.importorskip("sae_lens")
    from tests.support.saes import save_sae

    folder = tmp_path / "sae"
    name = store.manifest.model["id"]
    sae = save_sae(folder, d_in=32, d_sae=64, hook="blocks.1.hook_resid_post", model=name)
    [one] = steer(f"sae:{folder}#5").steering
    assert (one.method, one.layer) == ("feature 5", 1)
    X = store.read_final_token(1, "train")[0]
    row = sae.W_dec[5].detach().numpy()
    assert one.spread == pytest.approx((X @ (row / np.linalg.norm(row))).std(), rel=1e-4)
    [best] = steer(f"sae:{folder}").steering
    assert best.method.startswith("feature ")
    with pytest.raises(WifError, match="no feature 64; it has 64, from 0"):
        steer(f"sae:{folder}#64")
    with pytest.raises(SteerError, match="expected its number"):
        steer(f"sae:{folder}#x")


def test_the_final_token_alone_can_be_moved(steer):
    # Nothing is passed from token to token here, so the last one is all that counts.
    every, final = (steer(at=at).steering[0] for at in ("all", "final"))
    assert final.doses[0].kl == pytest.approx(every.doses[0].kl, rel=1e-5)
    assert final.against_random.flips == every.against_random.flips


def test_the_same_call_gives_the_same_results(steer):
    first, second = steer(seed=3), steer(seed=3)
    assert first.steering == second.steering
    assert first.steering[0].factors != steer(seed=4).steering[0].factors


def test_progress_counts_every_run(steer):
    told = []
    steer(progress=lambda *given: told.append(given))
    tasks, done, todo = zip(*told, strict=True)
    assert set(tasks) == {"rows"} and len(set(todo)) == 1
    assert list(done) == sorted(done)
    assert done[-1] == todo[-1]


def test_answers_that_the_model_writes_are_written_again(planted, tmp_path):
    lines = [{"prompt": f"{'very ' * (i % 7)}odd {i}?", "targets": list("abcdefghijklm")} for i in range(120)]
    rows = tiny.write_rows(tmp_path / "written.jsonl", lines)
    model = tiny.save_model("llama", tmp_path / "m")
    written = wif_store.build(
        str(rows),
        str(model),
        per_class="max",
        out=tmp_path / "w.zarr",
        dtype="float32",
        device="cpu",
        max_new_tokens=12,
        grade="regex:[a-z]",
    )
    results = wif_store.steer(
        written, model=str(model), source=str(rows), examples=6, layer=1, strengths=(2.0, 30.0)
    )
    [one] = results.steering
    assert results.settings["site"] == "prompt_end"
    assert one.differs == 0
    assert max(dose.flips for dose in one.doses if dose.strength == 30.0) > 0
    with pytest.raises(SteerError, match=r"drawn at temperature 0\.7"):
        protocol = dict(written.manifest.protocol)
        protocol["generation"] = {**protocol["generation"], "temperature": 0.7}
        changed = open_store(tmp_path / "w.zarr")
        object.__setattr__(changed, "manifest", replace(changed.manifest, protocol=protocol))
        wif_store.steer(changed, model=str(model), source=str(rows))


def test_results_say_it_in_words_and_in_json(results, tmp_path):
    text = to_text(sections(results))
    assert "changes more answers than random directions (1.000 against " in text
    assert "accuracy along logistic less that against it: +1.000" in text
    record = json.loads(json.dumps(results.to_json(), allow_nan=False))
    [steering] = record["steering"]
    assert steering["against_random"]["difference"] >= 0.9
    assert len(steering["doses"]) == 4 + 2 + 4
    assert record["settings"]["steered"] == "logistic"
    assert record["tasks"][0]["curves"][0]["probe"] == "logistic"


def test_the_command_writes_everything(planted, store, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    given = ["steer", store.name, "--model", str(planted.model), "--source", str(planted.rows)]
    found = CliRunner().invoke(app, [*given, "--examples", "12", "--strength", "2", "--out", str(out)])
    assert found.exit_code == 0, found.output
    assert "Does moving it along" not in found.output and "Does moving along it" in found.output
    assert {"steering.png", "report.html", "results.json"} <= {path.name for path in out.iterdir()}
    assert "steering.png" in found.output
    assert "![Answers under steering](steering.png)" in (out / "results.md").read_text()


WRONG = {
    "another layer": ({"layer": 7}, WifError, "has no layer 7; its layers are 0, 1, 2, 3"),
    "zeros": ({"probe": "zeros.npy", "layer": 1}, SteerError, "zeros.npy is zero everywhere"),
    "not finite": ({"probe": "nan.npy", "layer": 1}, SteerError, "nan.npy is not finite"),
    "another width": (
        {"probe": "wide.npy", "layer": 1},
        SteerError,
        r"has the shape \(33,\); expected \(32,\)",
    ),
    "no layer": (
        {"probe": "wide.npy"},
        SteerError,
        "does not say which layer it is of: name it with --layer",
    ),
    "a layer of a file": (
        {"probe": "switch.npy", "layer": 9},
        SteerError,
        "has no layer 9; its layers are 0, 1",
    ),
    "no numbers": ({"probe": "words.npy", "layer": 1}, SteerError, "words.npy holds <U1; expected real"),
    "complex numbers": ({"probe": "complex.npy", "layer": 1}, SteerError, "holds complex128; expected real"),
    "an SAE without a name": ({"probe": "sae:#3"}, SteerError, "expected sae:SPEC, or sae:SPEC#NUMBER"),
    "a type that numpy lacks": (
        {"probe": "bf16.safetensors", "layer": 1},
        SteerError,
        "cannot be read|holds bfloat16",
    ),
    "of another model": (
        {"probe": "other.safetensors"},
        SteerError,
        "is of the model gpt5, and the store of",
    ),
    "of another layer": (
        {"probe": "layer1.safetensors", "layer": 3},
        SteerError,
        "is of layer 1, and --layer is 3",
    ),
    "a strength of what is out": ({"ablate": True, "strengths": (0.5,)}, SteerError, "leave them out"),
    "one strength twice": ({"strengths": (1, 1)}, SteerError, "expected different numbers"),
    "a strength that is no list": ({"strengths": 2.0}, SteerError, "cannot be used"),
    "half an example": ({"examples": 4.5}, SteerError, "cannot be used"),
    "a seed below 0": ({"seed": -1}, SteerError, "the seed is -1"),
    "no file": ({"probe": "absent.npy", "layer": 1}, SteerError, "absent.npy cannot be read"),
    "rubbish": ({"probe": "rubbish.safetensors"}, SteerError, "rubbish.safetensors cannot be read"),
    "no direction": ({"probe": "ensemble"}, SteerError, "ensemble reads layers; expected a linear probe"),
    "no probe": ({"probe": "nonsense"}, WifError, "no probe 'nonsense'"),
    "a strength of zero": ({"strengths": (0.0, 1.0)}, SteerError, "the strengths are 0, 1; expected"),
    "a strength that is none": ({"strengths": (float("nan"),)}, SteerError, "the strengths are nan"),
    "strengths that make NaN": ({"strengths": (1e39,)}, SteerError, "gives NaN or infinity: use smaller"),
    "nowhere": ({"at": "first"}, SteerError, "at is 'first'; expected one of: all, final"),
    "one example": ({"examples": 1}, SteerError, "examples is 1; expected at least 2"),
    "a site of answers": ({"site": "prompt_end"}, WifError, "holds no answers that the model wrote"),
    "other rows": ({"source": "other.jsonl"}, WifError, "holds other rows than the store was built from"),
    "no rows": ({"source": None}, WifError, r"the source was a local file \(--source names it\)"),
    "no model": ({"model": None}, ModelError, "name its folder with --model"),
    "another model": ({"model": "other"}, ModelError, "is of revision .* give that one"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_steered_is_refused_in_a_line(name, steer, planted, tmp_path):
    for stem, vector in {
        "zeros": np.zeros(32),
        "nan": np.full(32, np.nan),
        "wide": np.ones(33),
        "words": np.array(["a"] * 32),
        "complex": np.ones(32) * 1j,
        "switch": planted.switch,
    }.items():
        np.save(tmp_path / f"{stem}.npy", vector)
    (tmp_path / "rubbish.safetensors").write_bytes(b"rubbish")
    ones = {"coef": torch.ones(32), "scale": torch.ones(32)}
    save_file(ones, tmp_path / "layer1.safetensors", {"layer": "1"})
    save_file(ones, tmp_path / "other.safetensors", {"layer": "1", "model": "gpt5"})
    save_file({name: one.bfloat16() for name, one in ones.items()}, tmp_path / "bf16.safetensors")
    tiny.write_rows(tmp_path / "other.jsonl", [{"prompt": "a", "choices": ["b", "c"], "gold": 0}])
    options, error, message = WRONG[name]
    given = dict(options)
    for key in ("probe", "source"):
        if "." in str(given.get(key, "")):
            given[key] = str(tmp_path / given[key])
    if given.get("model") == "other":
        given["model"] = str(tiny.save_model("llama", tmp_path / "other", seed=1))
    with pytest.raises(error, match=message) as caught:
        steer(**given)
    assert "\n" not in str(caught.value)


def test_a_store_that_its_model_did_not_compute_is_refused(planted, store, steer, monkeypatch):
    from wif_store.extract import replay

    monkeypatch.setitem(replay.TOLERANCES, "float32", replay.Tolerance(0, 0, -1.0))
    with pytest.raises(DamageError, match="log-likelihoods are not what the model and the source give"):
        steer()


def test_the_command_line_says_what_is_wrong_in_a_line(store, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["wif-store", "steer", store.name, "--strength", "much"])
    with pytest.raises(SystemExit) as ended:
        command_line()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said == "error: --strength is 'much'; expected numbers above 0, as in 1,3\n"


def test_random_directions_are_of_unit_norm_and_like_the_residuals(store):
    rng = np.random.default_rng(0)
    X = store.read_final_token(1, "train")[0]
    for like in ("covariance", "isotropic"):
        drawn = random_directions(store, 1, 500, rng, like)
        np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1)
        along = (drawn**2).mean(0) if like == "isotropic" else (drawn**2).mean(0) / X.var(0)
        assert along.std() / along.mean() < 0.3


def test_a_bootstrap_of_independent_examples_has_the_normal_width():
    random = np.random.default_rng(0)
    values = random.random(400) < 0.3
    resampling = Resampling(400, np.zeros(400, np.int64), 0.95)
    low, high = resampling.interval(values)
    error = values.std() / 20
    assert (low, high) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.005
    )
    assert DRAWS >= 10 / 0.001


def test_directions_that_differ_widen_the_interval():
    part = np.arange(400) // 2 % 20
    alike = np.arange(400) % 2 == 0  # no matter which direction
    apart = part < 10  # each direction changes all or nothing
    resampling = Resampling(400, part, 0.95)
    widths = [high - low for low, high in map(resampling.interval_of_random, (alike, apart))]
    assert widths[1] > 2 * widths[0]
    low, high = resampling.interval_of_difference(np.ones(400), apart)
    assert low < 0.5 < high and high - low == pytest.approx(widths[1], rel=0.1)
