"""Sources: what is read, what is dropped, and how a bad row is named."""

from __future__ import annotations

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support import tiny
from wif_store.errors import SourceError
from wif_store.tasks.rows import load_source, parse_hub_spec
from wif_store.tasks import get_task

TASK = get_task("winogrande")
GOOD = tiny.rows(12)


def load(path, **options):
    return load_source(TASK, str(path), **options)


def test_every_kind_of_local_source_reads_the_same(tmp_path):
    tiny.write_rows(tmp_path / "rows.jsonl", GOOD)
    (tmp_path / "rows.json").write_text(json.dumps(GOOD))
    pq.write_table(pa.Table.from_pylist(GOOD), tmp_path / "rows.parquet")
    datasets.Dataset.from_list(GOOD).save_to_disk(tmp_path / "folder")
    datasets.DatasetDict({"dev": datasets.Dataset.from_list(GOOD)}).save_to_disk(tmp_path / "dict")
    loaded = [
        load(tmp_path / name) for name in ("rows.jsonl", "rows.json", "rows.parquet", "folder", "dict:dev")
    ]
    assert len({source.record["sha256"] for source in loaded}) == 1
    assert len({tuple(c.id for c in source.candidates) for source in loaded}) == 1
    with pytest.raises(SourceError, match=r"holds the splits dev; name one as .*dict:SPLIT"):
        load(tmp_path / "dict")


def test_the_builtin_source_is_the_real_validation_split():
    source = load_source(TASK, "builtin")
    assert source.record["rows"] == 1267
    assert source.record["revision"] == "0.9.0"
    assert len(source.candidates) == 1267


def test_duplicates_are_dropped_and_contradictions_kept_out(tmp_path):
    flipped = {**GOOD[1], "answer": "21"[int(GOOD[1]["answer"]) - 1]}
    source = load(tiny.write_rows(tmp_path / "rows.jsonl", [*GOOD, GOOD[0], flipped]))
    assert source.duplicates == 2
    assert len(source.contradictory) == 1
    assert len(source.candidates) == 11
    assert source.contradictory[0] not in {c.id for c in source.candidates}


def test_repeats_keep_ids_of_their_own_where_the_protocol_wants_them(tmp_path):
    source = load(tiny.write_rows(tmp_path / "rows.jsonl", [*GOOD, GOOD[0]]), keep_duplicates=True)
    assert source.candidates[-1].id == f"{source.candidates[0].id}-2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sentence": None}, "line 3: field 'sentence' is NoneType; task winogrande expects str"),
        ({"answer": 1}, "line 3: field 'answer' is int; task winogrande expects str"),
        ({"answer": ""}, "line 3: answer is ''; expected one of '1', '2'"),
        ({"sentence": "no gap"}, "line 3: the sentence has 0 gaps '_'; expected exactly one"),
        ({"sentence": "a _ and a _"}, "line 3: the sentence has 2 gaps '_'; expected exactly one"),
    ],
)
def test_the_first_bad_row_is_named(tmp_path, change, message):
    rows = [*GOOD[:2], {**GOOD[2], **change}, {**GOOD[3], "answer": "9"}]
    with pytest.raises(SourceError) as error:
        load(tiny.write_rows(tmp_path / "rows.jsonl", rows))
    assert message in str(error.value)


def test_a_missing_field_says_what_there_is(tmp_path):
    rows = [{"sentence": "a _ b", "option1": "x", "answer": "1"}]
    with pytest.raises(
        SourceError, match="line 1: field 'option2' is missing; found answer, option1, sentence"
    ):
        load(tiny.write_rows(tmp_path / "rows.jsonl", rows))


def test_true_is_not_an_answer_index(tmp_path):
    row = {"goal": "g", "sol1": "a", "sol2": "b", "label": True}
    with pytest.raises(SourceError, match="field 'label' is bool; task piqa expects int"):
        load_source(get_task("piqa"), str(tiny.write_rows(tmp_path / "rows.jsonl", [row])))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", "", "has no rows"),
        ("rows.jsonl", "{", "line 1: not JSON"),
        ("rows.jsonl", "[1]", "line 1: found list; expected an object"),
        ("rows.json", "{}", "is not a list of objects"),
        ("rows.json", "{", "is not JSON"),
        ("rows.parquet", "PAR", "is not Parquet"),
        ("rows.csv", "a,b", "is not a source"),
    ],
)
def test_what_is_no_source_is_said_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=message) as error:
        load(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there():
    with pytest.raises(SourceError, match=r"no file or folder missing\.jsonl"):
        load("missing.jsonl")


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("a/b", ("a/b", None, None, None)),
        ("a/b:train", ("a/b", None, None, "train")),
        ("a/b@v1:xl/train", ("a/b", "v1", "xl", "train")),
    ],
)
def test_hub_specs(spec, parts):
    assert parse_hub_spec(spec) == parts
