"""A store of answers that the model wrote: its columns, its sites, its bytes, and what finds it out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from tests.hub.loopback import UPLOAD_WARNING
from tests.hub.publishing import REPO, push, wif
from tests.support import tiny
from tests.support.builds import contents, nothing_partial, small_shards
from tests.support.responses import (
    ANSWERS,
    LAYERS,
    SEQUENCE_LAYERS,
    questions,
    record,
    responding,
    settings_of,
)
from wif_store.builder.pipeline import build_store
from wif_store.builder.plan import Settings
from wif_store.errors import DamageError, SourceError, StoreError
from wif_store.extract.engine import open_engine
from wif_store.extract.recompute import recompute
from wif_store.format.manifest import render_manifest
from wif_store.format.schema import FINAL_TOKEN, PROMPT_END, SPLITS
from wif_store.format.table import render_table
from wif_store.hub.staging import stage
from wif_store.records import widen
from wif_store.storage import describe
from wif_store.store.reader import open_store
from wif_store.store.verify import verify_store
from wif_store.tasks.base import Generation
from wif_store.tasks.judges import normalised
from wif_store.tasks.own_rows import own_rows
from wif_store.tasks.rows import load_source


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return questions(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def made(rows, tmp_path_factory):
    """A store of made-up answers."""
    out = tmp_path_factory.mktemp("made") / "s.zarr"
    build_store(*settings_of(rows), responding(), out)
    return out


def test_the_table_says_what_was_written_and_how_it_was_judged(made, rows):
    settings, source = settings_of(rows)
    by_id = {c.id: record(settings.task.request(c, settings.protocol)) for c in source.candidates}
    store = open_store(made)
    assert (store.manifest.outcome, set(store.manifest.sites)) == ("response", {FINAL_TOKEN, PROMPT_END})
    assert store.manifest.protocol["generation"] == settings.protocol.generation.record()
    assert verify_store(made).examples == len(store) > 20
    empty = 0
    for example in store.examples():
        found, response = by_id[example.id], example.response
        right = found.written.text == ANSWERS[0]
        assert example.choice is None
        assert (example.success, example.prompt) == (int(right), found.prompt)
        assert example.token_ids.tolist() == found.token_ids.tolist()
        assert (response.response, response.answer) == (found.written.text, found.written.text)
        assert (response.targets, response.graded_by) == (("yes yes", "1"), "exact")
        assert response.finish_reason == found.written.finish_reason
        assert response.success_rate == (right + 1) / 4
        assert response.response_logprob == found.logprobs[0]
        assert response.least_logprob == found.written.least_logprob
        assert response.prompt_tokens == example.tokens - found.choice_tokens[0]
        empty += response.prompt_tokens == example.tokens
    assert empty
    for split in SPLITS:
        assert store.success(split).tolist() == [1, 0] * (store.count(split) // 2)
    assert store.manifest.selection["answer_mass"] is None
    assert store.manifest.selection["answer_shares"] == []


def test_each_site_has_its_own_residuals(made, rows):
    settings, source = settings_of(rows)
    by_id = {c.id: record(settings.task.request(c, settings.protocol)) for c in source.candidates}
    store = open_store(made)
    ids = store.column("id")
    for site, name in ((FINAL_TOKEN, "final_token"), (PROMPT_END, "prompt_end")):
        for layer in store.layers:
            found, success = store.read_site(site, layer)
            want = np.stack([widen(getattr(by_id[id], name)[layer]) for id in ids])
            np.testing.assert_array_equal(found, want)
            np.testing.assert_array_equal(success, store.success())
        example = store.examples("test")[3]
        found, sequences = store.read_example("test", 3, site)
        np.testing.assert_array_equal(found, widen(getattr(by_id[example.id], name)))
        at = example.tokens - 1 if site == FINAL_TOKEN else example.response.prompt_tokens - 1
        np.testing.assert_array_equal(sequences[:, at], found[:SEQUENCE_LAYERS])
    with pytest.raises(StoreError, match="no residuals at middle; it has: final_token, prompt_end"):
        store.read_site("middle", 0)


def test_zarr_alone_opens_every_site(made):
    group, store = zarr.open_group(made, mode="r"), open_store(made)
    for split in SPLITS:
        assert set(dict(group[split].arrays())) >= {FINAL_TOKEN, PROMPT_END, "sequence", "offsets"}
        for site in (FINAL_TOKEN, PROMPT_END):
            for layer in store.layers:
                found = group[split][site][layer]
                np.testing.assert_array_equal(found, store.read_site(site, layer, split)[0])
        assert not np.array_equal(group[split][FINAL_TOKEN][...], group[split][PROMPT_END][...])


@pytest.mark.parametrize("stop", [1, 6, 11])
def test_a_build_that_was_killed_and_resumed_has_the_same_bytes(stop, rows, tmp_path, monkeypatch):
    small_shards(monkeypatch)
    build_store(*settings_of(rows), responding(), tmp_path / "undisturbed.zarr")
    calls = []

    def stopping(requests):
        calls.append([request.id for request in requests])
        if len(calls) == stop:
            raise KeyboardInterrupt
        return [record(request) for request in requests]

    out = tmp_path / "s.zarr"
    with pytest.raises(KeyboardInterrupt):
        build_store(*settings_of(rows), responding(stopping), out)
    with pytest.raises(StoreError):
        open_store(out)
    report = build_store(*settings_of(rows), responding(), out)
    assert report.resumed_blocks >= stop - 2
    assert contents(out) == contents(tmp_path / "undisturbed.zarr")
    assert nothing_partial(tmp_path) == []


@pytest.fixture(scope="module")
def written(tiny_models, tmp_path_factory):
    """The folder of a store of what a tiny model writes, with its rows; half of the targets are that."""
    root = tmp_path_factory.mktemp("written")
    prompts = [row["sentence"] for row in tiny.rows(48)]
    plain = [{"prompt": prompt, "targets": ["never"]} for prompt in prompts]
    path = tiny.write_rows(root / "rows.jsonl", plain)
    settings, source = settings_of(path, max_new_tokens=6, stop=("\n",))
    engine = open_engine(
        str(tiny_models("llama")), settings.protocol, sequence_layers="1,3", dtype="float32", device="cpu"
    )
    records = engine.extract([settings.task.request(c, settings.protocol) for c in source.candidates])
    for number, (row, found) in enumerate(zip(plain, records, strict=True)):
        if number % 2 and normalised(found.written.text):
            row["targets"] = ["never", found.written.text]
    tiny.write_rows(path, plain)
    settings, source = settings_of(path, max_new_tokens=6, stop=("\n",))
    build_store(settings, source, engine, root / "s.zarr")
    return root


def test_a_store_of_what_a_model_writes_is_what_the_model_computes(written, tiny_models):
    store = open_store(written / "s.zarr")
    assert verify_store(written / "s.zarr").examples == len(store) >= 8
    model, rows = str(tiny_models("llama")), str(written / "rows.jsonl")
    found = recompute(store, len(store), model=model, source=rows)
    assert found.labels
    assert found.largest < 1e-5
    assert found.vectors == 2 * 4 * len(store) + 2 * len(store.token_ids())
    assert not recompute(store, 3, model=model).labels


def test_rows_with_another_target_are_other_rows(written, tiny_models, tmp_path):
    lines = [json.loads(line) for line in (written / "rows.jsonl").read_text().splitlines()]
    lines[5]["targets"] = ["something else"]
    other = tiny.write_rows(tmp_path / "rows.jsonl", lines)
    with pytest.raises(SourceError, match="holds other rows than the store was built from"):
        recompute(open_store(written / "s.zarr"), 2, model=str(tiny_models("llama")), source=str(other))


@pytest.mark.parametrize(
    "changes",
    [
        {"answer": "something else"},
        {"response": "never"},
        {"response": "something else", "answer": "something else"},
        {"response_logprob": -100.0},
        {"least_logprob": -1e-3},
        {"prompt": "something else"},
        {"targets": ["something else"]},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_table_that_fits_its_checksum_but_not_the_model_is_found_out(
    changes, written, tiny_models, tmp_path
):
    out = tmp_path / "t.zarr"
    shutil.copytree(written / "s.zarr", out)
    sections = json.loads((out / "manifest.json").read_bytes())
    path = out / "train" / "examples.parquet"
    table = pq.read_table(path).to_pylist()
    table[1] |= changes  # a failure
    path.write_bytes(render_table(table, "response"))
    sections["files"]["train/examples.parquet"] = describe(path)
    del sections["manifest_sha256"]
    (out / "manifest.json").write_bytes(render_manifest(sections))
    verify_store(out)  # nothing but the model and the rows can tell
    with pytest.raises(
        DamageError, match=rf"example {table[1]['id']}: the .* are not what the model and the"
    ):
        recompute(open_store(out), 999, model=str(tiny_models("llama")), source=str(written / "rows.jsonl"))


def test_responses_of_rows_are_stored_with_the_verdicts_of_the_rows(tiny_models, tmp_path):
    lines = [
        {"prompt": row["sentence"], "response": f" {row['option1']}, number {n}.", "success": n % 3 == 0}
        for n, row in enumerate(tiny.rows(48))
    ]
    path = tiny.write_rows(tmp_path / "given.jsonl", lines)
    settings, source = settings_of(path)
    engine = open_engine(
        str(tiny_models("llama")), settings.protocol, sequence_layers="2", dtype="float32", device="cpu"
    )
    build_store(settings, source, engine, tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    assert verify_store(tmp_path / "s.zarr").examples == len(store) >= 8
    tokenizer = engine.extract.model.tokenizer
    for example in store.examples():
        line, response = lines[example.source_row], example.response
        assert (example.prompt, example.success) == (line["prompt"], int(line["success"]))
        assert response.response == response.answer == line["response"]
        assert (response.graded_by, response.finish_reason, response.targets) == ("given", "given", ())
        assert response.success_rate == example.success
        assert tokenizer.decode(example.token_ids[response.prompt_tokens :]) == line["response"]
    assert recompute(store, 999, model=str(tiny_models("llama")), source=str(path)).labels


def test_the_view_for_the_hub_has_the_columns_of_responses(made, tmp_path):
    shutil.copytree(made, tmp_path / "s.zarr")
    staged = stage(tmp_path / "s.zarr")
    views = {name: file.path for name, file in staged.files.items() if name.endswith("of-00001.parquet")}
    assert len(views) == 3
    for split in SPLITS:
        [path] = [path for name, path in views.items() if f"/{split}-" in name]
        table = pq.read_table(path)
        assert table.column_names[-LAYERS:] == [f"resid_post_{layer:02d}" for layer in range(LAYERS)]
        expected = staged.store.table(split)
        assert table.select(expected.column_names).to_pylist() == expected.to_pylist()


@pytest.mark.hub
@UPLOAD_WARNING
def test_a_store_of_responses_can_be_pushed(made, hub, tmp_path):
    shutil.copytree(made, tmp_path / "s.zarr")
    planned = wif(hub, "push", tmp_path / "s.zarr", "--dry-run", token=None)
    assert planned.returncode == 0, planned.stderr
    assert "to upload" in planned.stderr
    push(hub, tmp_path / "s.zarr")
    card = hub.repo(REPO).read("README.md").decode()
    assert "response_logprob" in card
    assert "choice_logprobs" not in card


FORMS = {
    "choices": lambda n: {"prompt": f"Is {n} odd?", "choices": [" yes", " no"], "gold": n % 2},
    "targets": lambda n: {"prompt": f"Is {n} odd?", "targets": list("abcdefghijklm")},
    "response": lambda n: {"prompt": f"Is {n} odd?", "response": f" it is {n}", "success": n % 2},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stop", [1, 2])
def test_own_rows_that_a_model_reads_have_the_same_bytes_after_a_stop(form, stop, tiny_models, tmp_path):
    path = tiny.write_rows(tmp_path / "rows.jsonl", [FORMS[form](n) for n in range(400)])
    task = own_rows(str(path), grade="regex:([a-z])") if form == "targets" else own_rows(str(path))
    protocol = task.protocols[0]
    if protocol.generation:
        protocol = replace(protocol, generation=Generation((), 8))
    settings = Settings(task, protocol, per_class=None)
    engine = open_engine(
        str(tiny_models("llama")), protocol, sequence_layers="1,3", dtype="float32", device="cpu"
    )
    build_store(settings, load_source(task, str(path)), engine, tmp_path / "undisturbed.zarr")
    calls = []

    def stopping(requests):
        calls.append(len(requests))
        if len(calls) > stop:
            raise KeyboardInterrupt
        return engine.extract(requests)

    out = tmp_path / "s.zarr"
    with pytest.raises(KeyboardInterrupt):
        build_store(settings, load_source(task, str(path)), replace(engine, extract=stopping), out)
    report = build_store(settings, load_source(task, str(path)), engine, out)
    assert report.resumed_blocks == stop
    assert contents(out) == contents(tmp_path / "undisturbed.zarr")
