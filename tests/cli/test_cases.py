"""Inputs beside the checkout that once gave wrong numbers, tracebacks or misleading messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import run
from wif_store.errors import SourceError
from wif_store.tasks import get_task
from wif_store.tasks.rows import load_source

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
ROWS = CASES / "missing_weights" / "rows.jsonl"

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not beside this checkout")

REFUSED = {
    "missing_weights/orig_mod": "the checkpoint lacks lm_head.weight",
    "missing_weights/one_layer_missing": "the checkpoint lacks model.layers.2.",
    "adapter_beside/adapter_beside": "holds an adapter beside full weights",
    "adapter_only/adapter_only": "is an adapter without the model",
    "vocab_too_large/big_vocab": "beyond the 512 of the embedding",
}


def build(case, out, *more, task="winogrande", source=ROWS):
    return run(
        *("build", "--task", task, "--model", CASES / case, "--source", source),
        *("--per-class", 8, "--out", out, *more),
    )


def refused(done, found):
    assert done.returncode == 1
    *phases, line = done.stderr.splitlines()
    assert line.startswith("error: ") and found in line
    # Where torch is not loaded yet, loading takes long enough to be named.
    assert all(phase.startswith("loading ") or phase.endswith(": reading the source") for phase in phases)


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_is_not_what_it_says(case, tmp_path):
    refused(build(case, tmp_path / "s.zarr"), REFUSED[case])
    assert not (tmp_path / "s.zarr").exists()


def test_a_protocol_that_needs_a_start_token(tmp_path):
    source = CASES / "no_bos_no_eos" / "boolq.jsonl"
    done = build(
        "no_bos_no_eos/no_bos", tmp_path / "s.zarr", "--protocol", "paper", task="boolq", source=source
    )
    refused(done, "neither a start nor an end token")


def test_a_template_that_prints_the_date_leaves_the_clock_out(tmp_path):
    more = ("--protocol", "mcq", "--chat-template")
    refused(build("chat_date/chat_date", tmp_path / "s.zarr", *more), "must not depend on the clock")


def test_what_a_row_computes_depends_on_no_neighbour(tmp_path):
    """Choices on both sides of the length at which the model's rotary scaling switches."""
    source = CASES / "longrope" / "mixed2.jsonl"
    for size in (1, 16):
        out = tmp_path / f"{size}.zarr"
        done = build("longrope/longrope", out, "--batch-size", size, "--dtype", "float32", source=source)
        assert done.returncode == 0, done.stderr
    done = run("verify", tmp_path / "16.zarr", "--recompute", 16, "--model", CASES / "longrope/longrope")
    assert done.returncode == 0, done.stderr
    scores = [json.loads((tmp_path / f"{size}.zarr/manifest.json").read_text()) for size in (1, 16)]
    assert scores[0]["selection"] == scores[1]["selection"]


def test_towers_of_one_depth(tmp_path):
    done = build("same_depth_towers/gemma3mm_same", tmp_path / "s.zarr")
    assert done.returncode == 0, done.stderr


SAME_ROWS = (
    *("blank_end.jsonl", "bom.json", "bom.jsonl", "classlabel", "cols.json", "crlf.jsonl", "dict.parquet"),
    *("hubdir", "hubdir:train", "hubdir/data/*.parquet", "int_label.jsonl", "large.parquet", "letter.jsonl"),
    *("lines.json", "pandas.parquet", "rows.csv", "rows.jsonl.gz", "rows.tsv", "utf16.jsonl"),
)
REFUSED_ROWS = {
    ("winogrande", "null.jsonl"): "line 201: field 'answer' is null; task winogrande expects str",
    ("boolq", "superglue.jsonl"): "line 1: field 'answer' is missing; found label, passage, question",
}


def read(task, name):
    source = load_source(get_task(task), str(CASES / "sources" / name))
    return source.record["sha256"], tuple((c.id, c.group, c.source_row) for c in source.candidates)


def test_files_as_other_programs_write_them():
    assert len({read("winogrande", name) for name in SAME_ROWS}) == 1
    assert read("piqa", "piqa_float.parquet") == read("piqa", "piqa_str.jsonl")
    for task, name in (("boolq", "boolq_int.jsonl"), ("social_i_qa", "siqa_int.jsonl")):
        assert len(read(task, name)[1]) == 60
    for (task, name), message in REFUSED_ROWS.items():
        with pytest.raises(SourceError, match=message):
            read(task, name)
