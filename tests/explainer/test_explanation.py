"""Explanations in words: what a method found, what may not be quoted, and what a reader makes of them."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from tests.support.command import run
from tests.support.memory_store import memory_store
from tests.support.saes import save_sae
from tests.support.stores import make_store
from tests.support.tiny import write_rows
from wif_store.errors import ScoreError
from wif_store.explainer.asking import Reader, predictions, question
from wif_store.explainer.explanation import (
    Explanation,
    check_quotes,
    read_explanation,
    write_explanation,
)
from wif_store.explainer.findings import find
from wif_store.records import Record
from wif_store.scorer.run import score
from wif_store.store.reader import open_store

PLANTED = 5


def texts(tokens):
    return "".join(f" t{token}" for token in tokens)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A store whose label moves one direction, and an SAE of which one feature reads that direction."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("sae") / "of_2"
    save_sae(folder, d_in=8, d_sae=32, hook="blocks.2.hook_resid_post", model="toy/model")
    weights = load_file(folder / "sae_weights.safetensors")
    direction = np.random.default_rng(99).normal(size=8)
    direction = torch.tensor(direction / np.linalg.norm(direction), dtype=torch.float32)
    for name in ("b_enc", "b_dec"):
        weights[name].zero_()
    weights["W_enc"][:, PLANTED], weights["W_dec"][PLANTED] = direction, direction
    save_file(weights, folder / "sae_weights.safetensors")
    (folder / "labels.json").write_text(f'{{"{PLANTED}": "sure of it"}}')
    return memory_store(strength=4.0, seed=1), str(folder)


def test_a_planted_feature_is_found_and_named_first(planted):
    store, sae = planted
    found = find(store, texts, "sae-k", sae=sae)
    assert (found.layer, found.findings[0].name, found.findings[0].label) == (
        2,
        f"feature {PLANTED}",
        "sure of it",
    )
    assert found.validation_auroc >= 0.99 and found.findings[0].weight > 0
    curve = score(store, "sae-k", sae=sae).tasks[0].curves[0]
    assert curve.best.settings["k"] == 1 and curve.best.test.value >= 0.99
    written = write_explanation(store, found)
    assert written.index(f"feature {PLANTED} (sure of it)") < 900
    assert f"manifest_sha256: {score(store, 'lda').tasks[0].store['manifest_sha256']}" in written
    passage = found.findings[0].high[0]
    shown = next(
        e
        for e in store.examples("train")
        if passage.token in texts(e.token_ids) and passage.before in texts(e.token_ids)
    )
    assert passage.success == bool(shown.success)


def test_a_direction_is_shown_at_both_of_its_ends(planted):
    store, _ = planted
    found = find(store, texts, "logistic", layers=[2])
    [finding] = found.findings
    assert all(p.success for p in finding.high) and not any(p.success for p in finding.low)
    assert min(p.value for p in finding.high) > 0 > max(p.value for p in finding.low)
    with pytest.raises(ScoreError, match="attention reads sequence; expected a linear method"):
        find(store, texts, "attention")


def test_siblings_are_not_shown_twice(planted):
    store, sae = planted
    found = find(store, texts, "sae-k", sae=sae, examples=6).findings[0]
    groups = {e.id: e.group for e in store.examples("train")}
    assert len(found.high) == 6 <= len(set(groups.values()))


def test_a_store_is_explained_by_the_command(tmp_path, tiny_models):
    path = make_store(tmp_path / "s.zarr", per_class=40)
    model = str(tiny_models("llama"))
    out = tmp_path / "e.md"
    done = run("explain", path, "--method", "logistic", "--layers", "0,1", "--model", model, "--out", out)
    assert done.returncode == 0, done.stderr
    explanation = read_explanation(out)
    assert (explanation.task, explanation.name) == ("winogrande", "e")
    check_quotes(explanation, open_store(path))
    quiz = tmp_path / "quiz.html"
    done = run("quiz", path, "--explanation", out, "--questions", "6", "--out", quiz)
    assert done.returncode == 0, done.stderr
    assert "6 questions" in done.stdout and quiz.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        (b"", "is empty"),
        (b"---\ntask: x\n---\n\n \n", "is empty"),
        (b"---\na: [\n---\nwords\n", "is no YAML"),
        (b"---\ntask: 2024-99-99\n---\nwords\n", "is no YAML"),
        (b"---\na: " + b"[" * 5000 + b"\n---\nwords\n", "is no YAML"),
        (b"\xff\xfe", "cannot be read"),
        (b"x" * 1_000_001, "has 1000001 bytes"),
    ],
)
def test_a_file_that_is_no_explanation_is_said(content, says, tmp_path):
    if content is not None:
        (tmp_path / "e.md").write_bytes(content)
    with pytest.raises(ScoreError, match=says) as error:
        read_explanation(tmp_path / "e.md")
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("content", "task", "text"),
    [
        ("---\ntask: piqa\n---\nwords", "piqa", "words"),
        ("\ufeff---\ntask: piqa\n---\nwords", "piqa", "words"),
        ("---\ntask:\n---\nwords", "", "words"),
        ("---\ntask: [1]\n---\nwords", "", "words"),
        ("---\nIt fails here\n---\nand there", "", "---\nIt fails here\n---\nand there"),
        ("---\n---\nwords", "", "---\n---\nwords"),
    ],
)
def test_what_stands_between_two_lines_is_a_head_or_a_part_of_the_text(content, task, text, tmp_path):
    (tmp_path / "e.md").write_text(content, encoding="utf-8")
    found = read_explanation(tmp_path / "e.md")
    assert (found.task, found.text) == (task, text)


@pytest.mark.parametrize(
    "prompt",
    [
        "Before. one two three four five six seven eight nine after",
        "猫が毎朝六時に窓の外を見ている",
        "one two three four",
    ],
)
@pytest.mark.parametrize("hide", ["{}", "\u200b{}", "«{}»"])
def test_a_quotation_is_found_whatever_the_script(prompt, hide):
    store = memory_store()
    held = next(e for e in store.all_examples if e.split == "test")
    object.__setattr__(held, "prompt", f"Question: {prompt}\nAnswer:")
    for example in store.all_examples:
        if example is not held:
            object.__setattr__(example, "prompt", f"Question: {example.prompt}\nAnswer:")
    with pytest.raises(ScoreError, match=f"quotes the test example {held.id}"):
        check_quotes(Explanation(hide.format("\u00ad".join(prompt.partition(" ")))), store)


def test_a_choice_of_a_test_example_is_a_quotation_too():
    store = memory_store()
    held = next(e for e in store.all_examples if e.split == "test")
    choices = ("pour it over the cold ice", held.choice.choices[1])
    object.__setattr__(held, "choice", replace(held.choice, choices=choices))
    with pytest.raises(ScoreError, match=f"quotes the test example {held.id}"):
        check_quotes(Explanation("It is wrong where one should pour it over the cold ice."), store)


def test_an_explanation_that_quotes_a_test_example_is_refused():
    store = memory_store()
    words = "one two three four five six seven eight nine"
    held = store.all_examples
    longest = next(i for i, e in enumerate(held) if e.split == "test")
    object.__setattr__(held[longest], "prompt", f"Before. {words} after")
    for text in (f"It fails on: «{words.upper()}».", f"x {words} y"):
        with pytest.raises(ScoreError, match=f"quotes the test example {held[longest].id}"):
            check_quotes(Explanation(text), store)
    check_quotes(Explanation("one two three four five six seven, and not eight"), store)
    train = next(e for e in held if e.split == "train")
    check_quotes(Explanation(f"It is right on {train.prompt}"), store)


class RuleFollower:
    """Says yes where a word that the explanation names is in the question; else it guesses."""

    def __init__(self):
        self.seen = []

    def __call__(self, requests):
        return [self.record(request) for request in requests]

    def record(self, request):
        context = request.pairs[0][0]
        self.seen.append(context)
        told, _, asked = context.partition("A language model is given this:")
        rule = [word for word in ("alpha", "beta") if f"right where it says {word}" in told]
        guess = hashlib.sha256(request.id.encode()).digest()[0] / 1e3
        odds = guess + (10.0 if any(word in asked for word in rule) else 0.0)
        return Record(
            request.id, np.array([odds, 0.0]), np.ones(2, np.int32), 0, context, 0, 1, *([np.zeros(1)] * 3)
        )


def ruled(task, word):
    """A store in which a word in the prompt decides whether the model is right."""
    store = memory_store(task, n=400, seed=3)
    for number, example in enumerate(store.all_examples):
        said = word if example.success else "gamma"
        object.__setattr__(example, "prompt", f"Number {number} is {said}")
    return store


def test_a_planted_explanation_helps_a_reader_who_follows_it():
    stores = [ruled("boolq", "alpha"), ruled("piqa", "beta")]
    told = [
        Explanation("The model is right where it says alpha.", "boolq"),
        Explanation("The model is right where it says beta.", "piqa"),
    ]
    follower = RuleFollower()
    given = predictions(stores, told, Reader("a reader", follower))
    names = ["a reader, explanation", "a reader, no explanation", "a reader, explanation of another task"]
    assert [one.name for one in given] == names
    results = score(stores, None, predictions=given)
    for task in results.tasks:
        values = {curve.probe: curve.best.test for curve in task.curves}
        assert values[names[0]].value == 1.0
        assert all(values[name].low < 0.5 < values[name].high for name in names[1:])
    helped = [b for b in results.between if (b.first, b.second) == (names[0], names[1])]
    assert len(helped) == 2 and all(0.2 < b.low < b.difference < b.high and b.p_holm < 1e-4 for b in helped)
    assert all(
        e.choice.choices[0] in context for context in follower.seen for e in stores[0].examples("test")[:1]
    )


def test_a_reader_sees_the_explanation_and_the_question_and_nothing_else():
    example = memory_store().examples("test")[0]
    shown = question(example, "Mind the gap.")
    assert shown.startswith("Mind the gap.\n\n") and example.prompt in shown and shown.endswith("Answer:")
    outcome = [example.id, example.group, str(example.choice.choice_logprobs[1])]
    assert not any(part in shown for part in outcome)
    assert question(example, None) == shown.removeprefix("Mind the gap.\n\n")


def test_explanations_that_do_not_fit_the_stores_are_refused():
    stores = [memory_store("boolq"), memory_store("piqa")]
    reader = Reader("a reader", RuleFollower())
    with pytest.raises(ScoreError, match="found 0 explanations of task 'piqa' \\(given: boolq\\)"):
        predictions(stores, [Explanation("words", "boolq")], reader)
    with pytest.raises(ScoreError, match="found 2 explanations"):
        predictions(stores[:1], [Explanation("a", "boolq"), Explanation("b", "boolq")], reader)
    assert len(predictions(stores[:1], [Explanation("words")], reader)) == 2


def test_a_real_model_reads_an_explanation(tmp_path, tiny_models):
    path = make_store(tmp_path / "s.zarr", per_class=40)
    model = str(tiny_models("llama"))
    (tmp_path / "mine.md").write_text("It fails on short ones.")
    given = ("score", path, "--explanation", tmp_path / "mine.md", "--predictor", model, "--questions", "10")
    done = run(*given)
    assert done.returncode == 0, done.stderr
    assert ", explanation" in done.stdout and ", no explanation" in done.stdout
    (tmp_path / "mine.md").write_text("It fails on short ones. " * 3000)
    done = run(*given)
    assert done.returncode == 1
    assert "is longer than" in done.stderr and done.stderr.count("\n") == 1
    done = run("score", path, "--questions", "10")
    assert done.returncode == 1 and "--questions are for --explanation" in done.stderr
    scores = write_rows(tmp_path / "quiz.jsonl", [{"id": "x", "score": 1}])
    done = run("score", path, "--predictions", scores)
    assert done.returncode == 1 and "not in winogrande" in done.stderr
