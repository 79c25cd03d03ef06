"""Scores from elsewhere: read, checked against the test split, measured like a probe's."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.memory_store import memory_store
from wif_store.errors import ScoreError
from wif_store.scorer.run import evaluate, score


@pytest.fixture(scope="module")
def store():
    return memory_store(confidence=2.0)


@pytest.fixture
def scores(store):
    return {example.id: example.choice.margin for example in store.examples("test")}


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "score"])
        writer.writerows(rows)


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps({"id": i, "score": s}) + "\n" for i, s in rows))


def write_parquet(path, rows):
    ids, scores = zip(*rows, strict=True)
    pq.write_table(pa.table({"score": scores, "id": ids, "other": scores}), path)


@pytest.mark.parametrize("write", [write_csv, write_jsonl, write_parquet])
def test_every_format_gives_what_the_mapping_gives(tmp_path, store, scores, write):
    path = tmp_path / f"my-judge.{write.__name__.removeprefix('write_')}"
    write(path, list(scores.items())[::-1])
    curve = evaluate(path, store).tasks[0].curves[0]
    assert curve.probe == "my-judge"
    assert curve.best == evaluate(scores, store).tasks[0].curves[0].best


def test_the_models_own_confidence_scores_as_the_baseline_does(store, scores):
    task = evaluate(scores, store).tasks[0]
    assert task.curves[0].best.test == task.baselines[0].test
    assert task.curves[0].against("confidence").p == 1.0


def test_several_tasks_are_told_apart_by_id(scores, store):
    other = memory_store("boolq", seed=4)
    both = scores | {example.id: -example.choice.margin for example in other.examples("test")}
    found = evaluate(both, [store, other])
    assert found.task("piqa").curves[0].best.test == evaluate(scores, store).tasks[0].curves[0].best.test
    with pytest.raises(ScoreError, match="for task 'boolq' lack 'boolq-"):
        evaluate(scores, [store, other])


def test_wrong_ids_are_named(store, scores):
    first, second = list(scores)[:2]
    without = {i: s for i, s in scores.items() if i not in (first, second)}
    with pytest.raises(ScoreError, match=f"for task 'piqa' lack '{first}', '{second}' of 100 test examples"):
        evaluate(without, store)
    with pytest.raises(ScoreError, match="hold 'x1', 'x2', 'x3' and 1 more ids, not in piqa"):
        evaluate(scores | {"x1": 0.0, "x2": 0.0, "x3": 0.0, "x4": 0.0}, store)
    early = store.examples("validation")[0].id
    with pytest.raises(ScoreError, match=f"hold '{early}' of the validation split"):
        evaluate(scores | {early: 0.0}, store)


def test_duplicate_ids_are_named(tmp_path, store, scores):
    write_csv(tmp_path / "twice.csv", [*scores.items(), next(iter(scores.items()))])
    with pytest.raises(ScoreError, match=f"give '{next(iter(scores))}' more than once"):
        evaluate(tmp_path / "twice.csv", store)


@pytest.mark.parametrize("wrong", ["nan", "inf", "", "high"])
def test_a_score_that_is_no_finite_number_is_placed(tmp_path, store, scores, wrong):
    rows = [list(row) for row in scores.items()]
    rows[3][1] = wrong
    write_csv(tmp_path / "odd.csv", rows)
    with pytest.raises(
        ScoreError, match=f"odd.csv, line 5: the score is {wrong!r}; expected a finite number"
    ):
        evaluate(tmp_path / "odd.csv", store)


def test_constant_scores_are_refused_and_labels_noted(store, scores):
    with pytest.raises(ScoreError, match=r"for task 'piqa' gave the same score \(0.5\) to all 100"):
        evaluate(dict.fromkeys(scores, 0.5), store)
    answers = {i: float(s > 1) for i, s in scores.items()}
    assert "balanced accuracy" in evaluate(answers, store).tasks[0].curves[0].best.notes[0]


def test_scores_that_are_upside_down_are_noted(store):
    flipped = {e.id: -e.success + 0.1 * e.choice.margin for e in store.examples("test")}
    assert "higher score must mean" in evaluate(flipped, store).tasks[0].curves[0].best.notes[0]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.txt", "", "x.txt cannot be read; expected"),
        ("x.csv", "example,score\na,1\n", "x.csv, line 2: found example, score; expected id and score"),
        ("x.jsonl", "[1, 2]\n", "found list; expected an object"),
        ("x.jsonl", '{"a\\nb": 1, "c": 2}\n', r"line 1: found 'a\nb', c; expected id and score"),
        ("x.jsonl", f'{{"{"a" * 900}": 1}}\n', f"line 1: found {'a' * 200}; expected id and score"),
        ("x.jsonl", "{broken\n", "x.jsonl, line 1: not JSON"),
        ("x.parquet", "not parquet", "x.parquet is not Parquet"),
    ],
)
def test_unreadable_files_are_refused(tmp_path, store, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(ScoreError) as caught:
        evaluate(tmp_path / name, store)
    assert says in str(caught.value)


def test_a_pandas_series_is_a_mapping_by_its_index(store, scores):
    pandas = pytest.importorskip("pandas")
    expected = evaluate(scores, store).tasks[0].curves[0].best
    for dtype in ("float64", "float32"):
        curve = evaluate(pandas.Series(scores, name="judge", dtype=dtype), store).tasks[0].curves[0]
        assert (curve.probe, curve.best.test.value) == ("judge", pytest.approx(expected.test.value, abs=1e-3))
    assert evaluate(pandas.Series(scores), store).tasks[0].curves[0].probe == "predictions"
    with pytest.raises(ScoreError, match="predictions are a DataFrame; expected a file, a mapping"):
        evaluate(pandas.DataFrame({"id": scores.keys(), "score": scores.values()}), store)
    with pytest.raises(ScoreError, match="give 'x' more than once"):
        evaluate(pandas.Series([1.0, 2.0], index=["x", "x"]), store)


def test_several_are_compared_in_pairs(tmp_path, store, scores):
    write_csv(tmp_path / "judge.csv", scores.items())
    others = [{i: -s for i, s in scores.items()}, {i: s**3 for i, s in scores.items()}]
    results = evaluate([tmp_path / "judge.csv", *others], store)
    names = ["judge", "predictions 2", "predictions 3"]
    assert [curve.probe for curve in results.tasks[0].curves] == names
    assert results.settings["predictions"] == names
    found = {(pair.first, pair.second): pair.difference for pair in results.between}
    value = results.tasks[0].curves[0].best.test.value
    assert found == {
        ("judge", "predictions 2"): pytest.approx(2 * value - 1),
        ("judge", "predictions 3"): pytest.approx(0, abs=1e-12),
        ("predictions 2", "predictions 3"): pytest.approx(1 - 2 * value),
    }


def test_names_are_told_apart(tmp_path, store, scores):
    for name in ("judge", "lda", "confidence"):
        write_csv(tmp_path / f"{name}.csv", scores.items())
    with pytest.raises(ScoreError, match="'judge' are given twice"):
        evaluate([tmp_path / "judge.csv"] * 2, store)
    with pytest.raises(ScoreError, match="'confidence' have the name of a probe, baseline or column"):
        evaluate(tmp_path / "confidence.csv", store)
    with pytest.raises(ScoreError, match="'lda' have the name of a probe, baseline or column"):
        score(store, "lda", [1], predictions=tmp_path / "lda.csv")
    assert evaluate(tmp_path / "confidence.csv", store, name="mine").tasks[0].curves[0].probe == "mine"
    with pytest.raises(ScoreError, match="name is 'mine' for 2 predictions"):
        evaluate([scores, scores], store, name="mine")


@pytest.mark.parametrize("given", [None, 0.5, [0.1, 0.2], [[]], object()])
def test_what_is_no_predictions_is_refused(given, store):
    with pytest.raises(ScoreError, match=r"predictions are a .*; expected a file, a mapping of example id"):
        evaluate(given, store)


def test_no_predictions_are_refused(store):
    with pytest.raises(ScoreError, match="there are no predictions to evaluate"):
        evaluate([], store)


def test_a_missing_file_is_said_to_be_missing(tmp_path, store):
    with pytest.raises(ScoreError, match="there is no predictions file"):
        evaluate(tmp_path / "none.csv", store)
