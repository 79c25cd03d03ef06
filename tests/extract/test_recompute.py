"""A store's numbers are what its recorded model computes; numbers that are not are found out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from tests.support import tiny
from tests.support.tamper import fit_manifest
from wif_store.builder.pipeline import build_store
from wif_store.builder.plan import Settings
from wif_store.errors import DamageError, ModelError, SourceError
from wif_store.extract.engine import open_engine
from wif_store.extract.recompute import recompute
from wif_store.format.schema import SPLITS
from wif_store.format.table import render_table
from wif_store.store.reader import open_store
from wif_store.store.verify import verify_store
from wif_store.tasks import TASKS, get_task
from wif_store.tasks.rows import load_source

TASK = get_task("winogrande")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Enough rows for a pair in each split, whatever a model of random weights answers."""
    return tiny.write_rows(tmp_path_factory.mktemp("source") / "rows.jsonl", tiny.rows(120))


@pytest.fixture(scope="module")
def make(tiny_models, rows, tmp_path_factory):
    """A store of a tiny architecture, made on first use."""
    root = tmp_path_factory.mktemp("recompute")

    def get(architecture, dtype="float32", protocol="aligned", folder=None, **options):
        out = root / f"{architecture}-{dtype}-{protocol}-{len(options)}.zarr"
        if not out.exists():
            settings = Settings(TASK, TASK.protocol(protocol), per_class=None)
            engine = open_engine(
                str(folder or tiny_models(architecture)),
                settings.protocol,
                sequence_layers="1,3",
                dtype=dtype,
                device="cpu",
                **options,
            )
            build_store(settings, load_source(TASK, str(rows)), engine, out)
        return out

    return get


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [*((name, "float32") for name in (*tiny.ARCHITECTURES, "longrope")), ("gemma2", "bfloat16")],
)
def test_every_architecture_is_what_it_says(architecture, dtype, make, tiny_models, rows):
    store = open_store(make(architecture, dtype))
    found = recompute(store, len(store), model=str(tiny_models(architecture)), source=str(rows))
    assert found.examples == len(store)
    assert found.labels
    assert found.vectors == 4 * len(store) + 2 * len(store.token_ids())
    assert found.largest < (1e-5 if dtype == "float32" else 5e-2)


@pytest.mark.parametrize("protocol", ["mcq", "paper"])
def test_every_protocol_is_what_it_says(protocol, make, tiny_models, rows):
    store = open_store(make("llama", protocol=protocol))
    assert recompute(store, 4, model=str(tiny_models("llama")), source=str(rows)).labels


def test_a_sample_is_of_every_split(make, tiny_models, monkeypatch):
    store, read = open_store(make("llama")), []
    read_example = store.read_example

    def reading(split, row, site):
        read.append((split, row))
        return read_example(split, row, site)

    monkeypatch.setattr(store, "read_example", reading)
    assert recompute(store, 3, model=str(tiny_models("llama"))).examples == 3
    assert len({split for split, _ in read}) == 3
    read.clear()
    assert recompute(store, 10**6, model=str(tiny_models("llama"))).examples == len(store)
    assert sorted(read) == sorted((s, row) for s in SPLITS for row in range(store.count(s)))


def test_a_chat_template_is_used_with_the_arguments_that_were_recorded(make, tmp_path, rows):
    template = "{{ bos_token }}{{ strftime_now('%Y') }} {{ messages[0]['content'] }}\n"
    folder = tiny.save_model("llama", tmp_path / "chat", chat_template=template)
    given = {"date_string": "26 Jul 2024"}
    store = open_store(make("llama", protocol="mcq", folder=folder, chat=True, template=given))
    assert store.manifest.model["chat_template"]["arguments"] == given
    assert store.examples()[0].prompt.startswith("<bos>26 Jul 2024 ")
    assert recompute(store, 4, model=str(folder), source=str(rows)).labels


def test_the_protocol_is_the_one_that_the_store_records(make, tiny_models, rows, monkeypatch):
    changed = [replace(p, context="{sentence}?", continuation=" {choice}!") for p in TASK.protocols]
    monkeypatch.setitem(TASKS, "winogrande", replace(TASK, protocols=tuple(changed)))
    assert recompute(open_store(make("llama")), 4, model=str(tiny_models("llama")), source=str(rows)).labels


def test_without_a_source_the_residuals_alone_are_compared(make, tiny_models):
    found = recompute(open_store(make("llama")), 2, model=str(tiny_models("llama")))
    assert not found.labels
    assert "labels were not recomputed: the source was a local file (--source names it)" in str(found)


def test_of_a_task_that_is_not_registered_the_residuals_alone_are_compared(
    make, tiny_models, rows, monkeypatch
):
    store = open_store(make("llama"))
    monkeypatch.delitem(TASKS, "winogrande")
    found = recompute(store, 2, model=str(tiny_models("llama")), source=str(rows))
    assert "labels were not recomputed: task winogrande is not registered here" in str(found)


def tampered(store, folder, name, change):
    """A copy with other numbers in one array or column, its checksums and its manifest made to fit."""
    out = folder / "t.zarr"
    shutil.copytree(store, out)
    sections = json.loads((out / "manifest.json").read_bytes())
    if name in ("sequence", "final_token"):
        array = zarr.open_group(out, mode="r+")[f"train/{name}"]
        array[...] = change(array[...])
    elif name == "protocol":
        sections["protocol"] |= change
    else:
        path = out / "train" / "examples.parquet"
        table = pq.read_table(path).to_pylist()
        for row, value in zip(table, change([row[name] for row in table]), strict=True):
            row[name] = value
        path.write_bytes(render_table(table, "choice"))
    fit_manifest(out, sections)
    return out


def scaled(values):
    """One layer's residuals at the final token, a thousandth larger."""
    values[1] *= np.float32(1.001)
    return values


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "sequence",
            lambda v: np.roll(v, 1, axis=1),
            "the residuals of layer 1 are not what the model computes",
        ),
        (
            "choice_logprobs",
            lambda v: [[x - 1 for x in one] for one in v],
            "the log-likelihoods are not what",
        ),
        ("choice_tokens", lambda v: [[x + 1 for x in one] for one in v], "the log-likelihoods are not what"),
        ("source_row", lambda v: [x + 1 for x in v], "the gold answer or row are not what"),
        # Two examples of one outcome: each now stands with the other's numbers.
        ("id", lambda v: [v[2], v[1], v[0], *v[3:]], "the gold answer or row are not what"),
    ],
)
def test_numbers_that_fit_their_checksums_but_not_the_model(
    name, change, message, make, tiny_models, rows, tmp_path
):
    out = tampered(make("llama"), tmp_path, name, change)
    if name != "sequence":
        verify_store(out)  # nothing but the model can tell
    with pytest.raises(DamageError, match=message):
        recompute(open_store(out), 999, model=str(tiny_models("llama")), source=str(rows))


@pytest.mark.parametrize(
    "change",
    [
        {"context": "{sentence.__class__}"},
        {"context": "{sentence:>99999999999}"},
        {"context": "{nowhere}"},
        {"context": "{"},
        {"context": 7},
        {"site": "elsewhere"},
        {"answers": [1]},
        {"max_tokens": "many"},
    ],
)
def test_a_recorded_protocol_is_not_believed(change, make, tiny_models, rows, tmp_path):
    out = tampered(make("llama"), tmp_path, "protocol", change)
    with pytest.raises(DamageError, match="the recorded protocol cannot be used"):
        recompute(open_store(out), 1, model=str(tiny_models("llama")), source=str(rows))


def test_a_thousandth_is_seen_in_float32(make, tiny_models, tmp_path):
    out = tampered(make("llama"), tmp_path, "final_token", scaled)
    with pytest.raises(DamageError, match=r"layer 1 are not what the model computes \(relative L2 1\.0e-03"):
        recompute(open_store(out), 4, model=str(tiny_models("llama")))


def test_another_revision_is_said(make, tiny_models, rows, tmp_path):
    store = open_store(make("llama"))
    with pytest.raises(ModelError, match="name its folder with --model"):
        recompute(store, 2)
    other = tiny.save_model("llama", tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match=r"is of revision sha256:\w+; the store was computed with llama of"):
        recompute(store, 2, model=str(other))
    fewer = tiny.write_rows(tmp_path / "rows.jsonl", tiny.rows(20))
    with pytest.raises(SourceError, match="holds other rows than the store was built from"):
        recompute(store, 2, model=str(tiny_models("llama")), source=str(fewer))
