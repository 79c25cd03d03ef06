"""The one reader of files of rows, which sources and predictions share."""

from __future__ import annotations

import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wif_store.tasks.files import read_rows

ROWS = [{"id": "a", "score": "0.5"}, {"id": "b", "score": "1e-3"}]


def read(folder, name, content):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_rows(path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "id,score\na,0.5\nb,1e-3\n"),
        ("p.csv", "id,score\r\na,0.5\r\nb,1e-3"),
        ("p.csv", "\ufeffid,score\na,0.5\n\nb,1e-3\n\n"),
        ("p.csv", "id, score\na, 0.5\nb, 1e-3\n"),
        ("p.csv", 'id , score\n"a", "0.5"\n"b", "1e-3"\n'),
        ("p.csv", "id;score\na;0.5\nb;1e-3\n"),
        ("p.csv", "id\tscore\na\t0.5\nb\t1e-3\n"),
        ("p.tsv", "id\tscore\na\t0.5\nb\t1e-3\n"),
        ("p.TSV", '"id"\t"score"\n"a"\t"0.5"\n"b"\t"1e-3"\n'),
        ("p.csv", "id,score\na,0.5\nb,1e-3\n".encode("utf-16")),
        ("p.csv.gz", gzip.compress(b"id,score\na,0.5\nb,1e-3\n", mtime=0)),
        ("p.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS)),
        ("p.jsonl", "\ufeff" + "\r\n".join(json.dumps(row) for row in ROWS) + "\r\n\r\n"),
        ("p.jsonl", "\n".join(json.dumps(row) for row in ROWS).encode("utf-16")),
        ("p.jsonl", "\n".join(json.dumps(row) for row in ROWS).encode("utf-16-le")),
        ("p.jsonl.gz", gzip.compress("\n".join(json.dumps(row) for row in ROWS).encode(), mtime=0)),
        ("p.json", json.dumps(ROWS)),
        ("p.json", "\ufeff" + json.dumps(ROWS, indent=1)),
        ("p.json", "\n".join(json.dumps(row) for row in ROWS) + "\n\n"),
        ("p.json", json.dumps({"id": ["a", "b"], "score": ["0.5", "1e-3"]})),
        ("p.json", json.dumps({"id": {"7": "a", "9": "b"}, "score": {"7": "0.5", "9": "1e-3"}})),
        ("p.json.gz", gzip.compress(json.dumps(ROWS).encode(), mtime=0)),
    ],
)
def test_the_same_rows_in_many_forms(tmp_path, name, content):
    assert [row for _, row in read(tmp_path, name, content)] == ROWS


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_the_texts_of_parquet_are_texts_whatever_their_type(tmp_path, kind):
    table = pa.table({"id": pa.array(["a", "b"]).cast(kind), "score": pa.array(["0.5", "1e-3"]).cast(kind)})
    pq.write_table(table, tmp_path / "p.parquet", row_group_size=1)
    assert list(read_rows(tmp_path / "p.parquet")) == [(1, ROWS[0]), (2, ROWS[1])]


def test_classes_of_parquet_are_read_by_name(tmp_path):
    features = datasets.Features({"answer": datasets.ClassLabel(names=["1", "2"])})
    rows = datasets.Dataset.from_dict({"answer": [0, 1, None]}, features=features)
    rows.to_parquet(tmp_path / "rows.parquet")
    assert [row for _, row in read_rows(tmp_path / "rows.parquet")] == [
        {"answer": "1"},
        {"answer": "2"},
        {"answer": None},
    ]


def test_one_object_in_a_json_file_is_one_row(tmp_path):
    assert read(tmp_path, "p.json", '{"id": "a", "choices": {"text": ["x"]}}') == [
        (1, {"id": "a", "choices": {"text": ["x"]}})
    ]


def test_a_row_is_numbered_by_its_line(tmp_path):
    found = read(tmp_path, "p.jsonl", '\n{"id": "a"}\n\n{"id": "b"}\n')
    assert [number for number, _ in found] == [2, 4]
    found = read(tmp_path, "p.csv", 'id,text\na,"two\nlines"\nb,one\n')
    assert found == [(2, {"id": "a", "text": "two\nlines"}), (4, {"id": "b", "text": "one"})]


def test_leading_spaces_are_kept_where_the_header_has_none(tmp_path):
    assert read(tmp_path, "p.csv", "id,text\na, x\n") == [(2, {"id": "a", "text": " x"})]


def test_a_field_may_be_long(tmp_path):
    long = "x" * 200_000
    assert read(tmp_path, "p.csv", f"id,text\na,{long}\n") == [(2, {"id": "a", "text": long})]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "a", r"p\.txt cannot be read; expected \.jsonl, \.json, \.csv, \.tsv, \.parquet or"),
        ("p", "a", "p cannot be read; expected"),
        ("p.parquet.gz", "a", r"p\.parquet\.gz cannot be read; expected"),
        ("p.jsonl", "{", r"p\.jsonl, line 1: not JSON"),
        ("p.jsonl", '{"a": 1}\n[1]\n', r"p\.jsonl, line 2: found list; expected an object"),
        ("p.jsonl", "[" * 10**5, r"p\.jsonl, line 1: not JSON"),
        ("p.json", "{", r"p\.json is not JSON"),
        ("p.json", "{}", r"p\.json is not a list of objects"),
        ("p.json", "3", r"p\.json is not a list of objects"),
        ("p.json", '[{"a": 1}, 2]', r"p\.json, row 2: found int; expected an object"),
        ("p.json", '{"a": 1}\n{"a"', r"p\.json, row 2: not JSON"),
        ("p.csv", "id,score\na\n", r"p\.csv, line 2: found 1 fields; expected 2"),
        ("p.csv", "id,id\na,b\n", r"p\.csv: a column stands twice in 'id, id'"),
        ("p.csv", 'id,score\n"a,b\n', r"p\.csv, line 2: unexpected end of data"),
        ("p.jsonl.gz", "plain", r"p\.jsonl\.gz cannot be read: Not a gzipped file"),
        ("p.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 999, mtime=0)[:-9], r"p\.jsonl\.gz cannot be read"),
        ("p.jsonl", b"\xff\xfe{\x00\x00", r"p\.jsonl"),
        ("p.parquet", "PAR", r"p\.parquet is not Parquet"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, name, content)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_file_that_is_not_there_is_named(tmp_path):
    for name in ("p.jsonl", "p.json", "p.csv", "p.parquet"):
        with pytest.raises(ValueError, match=rf"{name} cannot be read: No such file"):
            list(read_rows(tmp_path / name))
