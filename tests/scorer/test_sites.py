"""Scores of answers that end where they are read: at the prompt's end, part of the way, at the last token."""

from __future__ import annotations

import copy
import json
from fractions import Fraction
from math import ceil
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.support import odd_probes
from tests.support.command import run
from tests.support.memory_store import memory_store
from tests.support.responses import questions, responding, settings_of
from wif_store.builder.pipeline import build_store
from wif_store.errors import ScoreError
from wif_store.format.schema import SPLITS
from wif_store.scorer.files import FILES
from wif_store.scorer.run import score
from wif_store.scorer.sites import at_site
from wif_store.store.reader import open_store

PIPELINE = "tests.support.odd_probes:pipeline"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A store of made-up answers, of layers 0 to 2, with sequences of 0 and 1."""
    folder = tmp_path_factory.mktemp("sites")
    build_store(*settings_of(questions(folder, 160)), responding(), folder / "s.zarr")
    return folder / "s.zarr"


@pytest.fixture(scope="module")
def store(path):
    return open_store(path)


def upto(example, share):
    """How many tokens are read: all of the prompt, and so much of the answer, rounded up."""
    prompt = example.response.prompt_tokens
    return prompt + ceil(Fraction(share) * (example.tokens - prompt))


@pytest.mark.parametrize("site", ["0", "0.25", "0.5", "0.9", "1"])
def test_a_share_of_the_answer_is_read_and_nothing_after_it(site, store):
    read = at_site(store, site)
    assert (read.layers, read.sequence_layers) == ((0, 1), (0, 1))
    for split in (*SPLITS, None):
        wanted = [upto(example, site) for example in store.examples(split)]
        assert read.lengths(split).tolist() == wanted
        for layer in read.layers:
            every = list(store.iter_sequences(layer, split))
            cut = list(read.iter_sequences(layer, split))
            for tokens, whole, length in zip(cut, every, wanted, strict=True):
                np.testing.assert_array_equal(tokens, whole[:length])
            last, success = read.read_final_token(layer, split)
            np.testing.assert_array_equal(last, [tokens[-1] for tokens in cut])
            np.testing.assert_array_equal(success, store.success(split))


def test_the_ends_of_an_answer_are_the_sites_that_are_stored(store):
    assert at_site(store, "final_token") is store
    end = at_site(store, "prompt_end")
    assert (end.layers, end.sequence_layers) == ((0, 1, 2), (0, 1))
    for split in SPLITS:
        for layer in (0, 1, 2):
            found, success = end.read_final_token(layer, split)
            np.testing.assert_array_equal(found, store.read_site("prompt_end", layer, split)[0])
            np.testing.assert_array_equal(success, store.success(split))
        for layer in (0, 1):
            at_end = end.read_final_token(layer, split)[0]
            np.testing.assert_array_equal(at_site(store, "0").read_final_token(layer, split)[0], at_end)
            last = store.read_final_token(layer, split)[0]
            np.testing.assert_array_equal(at_site(store, "1").read_final_token(layer, split)[0], last)
            assert not np.array_equal(last, at_end)
        assert end.lengths(split).tolist() == store.column("prompt_tokens", split).tolist()


@pytest.mark.parametrize(("share", "length", "read"), [("0.07", 100, 7), ("0.28", 25, 7), ("0.3", 10, 3)])
def test_a_share_that_is_a_whole_number_of_tokens_is_not_rounded_up(share, length, read):
    columns = {"prompt_tokens": np.array([4]), "tokens": np.array([4 + length])}
    manifest = SimpleNamespace(outcome="response")
    made = SimpleNamespace(
        task="t", manifest=manifest, sequence_layers=(0,), column=lambda name, split: columns[name]
    )
    assert at_site(made, share).lengths("test").tolist() == [4 + read]


@pytest.mark.parametrize("site", ["middle", "1.5", "-0.1", "nan", "inf", "", "prompt-end"])
def test_what_is_no_site_is_refused(site, store):
    expected = r"expected final_token, prompt_end or a share of the answer, such as 0\.5"
    with pytest.raises(ScoreError, match=rf"site is '{site}'; {expected}"):
        at_site(store, site)


@pytest.mark.parametrize("site", ["prompt_end", "0.5"])
def test_a_store_of_choices_has_the_final_token_alone(site):
    store = memory_store("boolq")
    assert at_site(store, "final_token") is store
    with pytest.raises(ScoreError, match=rf"'boolq' holds no answers .* no {site} in it: leave --site out"):
        score(store, "mean-difference", site=site)


def test_a_share_needs_full_sequences_and_the_prompts_end_does_not(path):
    store = open_store(path)
    store.sequence_layers = ()
    assert at_site(store, "prompt_end").layers == (0, 1, 2)
    with pytest.raises(ScoreError, match=r"--site 0\.5 is read from full .* build it with --sequence-layers"):
        at_site(store, "0.5")


@pytest.mark.parametrize("site", ["final_token", "prompt_end", "0.5"])
def test_a_score_at_a_site_is_what_a_user_would_compute_by_hand(site, store):
    results = score(store, PIPELINE, layers=[1], site=site)
    assert json.loads(json.dumps(results.to_json()))["settings"]["site"] == site
    share = {"final_token": "1", "prompt_end": "0"}.get(site, site)

    def features(split):
        examples = zip(store.examples(split), store.iter_sequences(1, split), strict=True)
        return np.stack([tokens[upto(example, share) - 1] for example, tokens in examples])

    by_hand = odd_probes.pipeline().fit(features("train"), store.success("train"))
    found = roc_auc_score(store.success("test"), by_hand.decision_function(features("test")))
    assert results.tasks[0].curves[0].best.test.value == pytest.approx(found)


@pytest.mark.parametrize("site", ["prompt_end", "0.25"])
def test_probes_of_whole_sequences_see_nothing_after_the_site(site, store):
    def found(of):
        return score(of, "mean-token", layers=[0], site=site).tasks[0].curves[0].best

    def noisy_after(layer, split=None):
        lengths = at_site(store, site).lengths(split)
        for length, tokens in zip(lengths, store.iter_sequences(layer, split), strict=True):
            tokens[length:] = 1e6
            yield tokens

    blind = copy.copy(store)
    blind.iter_sequences = noisy_after
    assert found(blind) == found(store)
    assert found(store) != score(store, "mean-token", layers=[0]).tasks[0].curves[0].best


def test_the_layers_of_a_share_are_those_with_sequences(store):
    curve = score(store, "mean-difference", site="0.5").tasks[0].curves[0]
    assert [point.layer for point in curve.points] == [0, 1]
    with pytest.raises(ScoreError, match="has no layer 2; its layers are 0, 1"):
        score(store, "mean-difference", layers=[2], site="0.5")
    points = score(store, "mean-difference", site="prompt_end").tasks[0].curves[0].points
    assert [point.layer for point in points] == [0, 1, 2]


def test_baselines_of_responses_are_of_the_answer_and_of_the_prompt(store):
    baselines = {b.name: b for b in score(store, "mean-difference", layers=[0]).tasks[0].baselines}
    examples, success = store.examples("test"), store.success("test")

    measures = {
        "sum-logprob": lambda r, n: r.response_logprob if n else -1e9,
        "mean-logprob": lambda r, n: r.response_logprob / n if n else -1e9,
        "least-logprob": lambda r, n: r.least_logprob if n else -1e9,
        "response-length": lambda r, n: -n,
    }

    def by_hand(split, name):
        """Each measure by brute force; an empty answer is below all others, but not by its length."""
        every = [(e.response, e.tokens - e.response.prompt_tokens) for e in store.examples(split)]
        return roc_auc_score(store.success(split), [measures[name](r, n) for r, n in every])

    held = {name: by_hand("validation", name) for name in measures}
    better = max(held, key=held.get)
    assert len(set(held.values())) > 2
    assert baselines["confidence"].settings == {"of": better, "validation_auroc": pytest.approx(held[better])}
    assert baselines["confidence"].test.value == pytest.approx(by_hand("test", better))
    found = score(store, "mean-difference", layers=[0]).tasks[0].measures
    assert {m.name: m.test.value for m in found} == pytest.approx({m: by_hand("test", m) for m in measures})
    kept = [e for split in ("validation", "test") for e in store.examples(split)]
    assert any(e.response.prompt_tokens == e.tokens for e in kept)
    length = [e.response.prompt_tokens for e in examples]
    sign = 1 if roc_auc_score(store.success("train"), store.column("prompt_tokens", "train")) >= 0.5 else -1
    assert baselines["prompt-length"].settings == {"sign": sign}
    found = baselines["prompt-length"].test.value
    assert found == pytest.approx(roc_auc_score(success, [sign * tokens for tokens in length]))
    assert found not in {roc_auc_score(success, [s * e.tokens for e in examples]) for s in (1, -1)}


def test_several_sites_are_compared_in_a_table_and_a_drawing(path, tmp_path):
    sites = ("final_token", "prompt_end", "0.5")
    options = [option for site in sites for option in ("--site", site)]
    done = run("score", path, *options, "--probe", "mean-difference", "--out", tmp_path / "r")
    assert done.returncode == 0, done.stderr
    assert "How early can failure be seen?" in done.stdout
    table = done.stdout.rpartition("How early can failure be seen?")[2]
    assert table.index("prompt_end") < table.index("0.5") < table.index("final_token")
    assert (tmp_path / "r" / "positions.png").read_bytes().startswith(b"\x89PNG")
    values = set()
    for site in sites:
        results = json.loads((tmp_path / "r" / site / "results.json").read_text())
        assert results["settings"]["site"] == site
        assert (tmp_path / "r" / site / "results.md").is_file()
        assert (tmp_path / "r" / site / "figure.png").is_file()
        curve = results["tasks"][0]["curves"][0]
        value = curve["points"][curve["chosen"]]["test"]["value"]
        assert f"{value:.3f}" in table
        values.add(value)
    assert len(values) == 3


def test_one_site_is_written_to_the_folder_itself(path, tmp_path):
    done = run("score", path, "--site", "prompt_end", "--probe", "mean-difference", "--out", tmp_path / "r")
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "r").iterdir()} == set(FILES)
    assert json.loads((tmp_path / "r" / "results.json").read_text())["settings"]["site"] == "prompt_end"


def test_a_wrong_site_among_several_is_refused_before_anything_is_scored(path, tmp_path):
    done = run("score", path, "--site", "final_token", "--site", "middle", "--out", tmp_path / "r")
    assert done.returncode != 0
    assert "site is 'middle'; expected final_token" in done.stderr
    assert done.stdout == ""
    assert not list((tmp_path / "r").rglob("results.json"))


def test_a_subset_of_answers_is_read_at_every_site(store):
    given = {e.id: float(n % 7) for n, e in enumerate(store.examples("test")) if n % 2 or n % 3 == 0}
    for site in ("prompt_end", "0.5", "final_token"):
        task = score(store, "lda", layers=[0], predictions=given, subset=True, site=site).tasks[0]
        assert task.examples["test"] == len(given)
