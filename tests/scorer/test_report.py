"""What a run leaves behind: a table, results.json, results.md and a picture."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from tests.support.memory_store import memory_store
from tests.support.stores import make_store
from wif_store.cli.score import find_stores, score_command
from wif_store.errors import LayersError, ScoreError
from wif_store.scorer.paper import beside, figure1
from wif_store.scorer.report import sections, to_markdown, to_text, write
from wif_store.scorer.run import evaluate, score


@pytest.fixture(scope="module")
def stores():
    return [
        memory_store("boolq", strength=0.5, layers=(3, 4, 9)),
        memory_store("piqa", layers=(3, 4, 9), confidence=4.0, n=800, seed=1),
    ]


@pytest.fixture(scope="module")
def results(stores):
    return score(stores, ["logistic", "lda"], seeds=2, cross_task=True, bootstrap_draws=10_000)


def test_the_table_says_what_a_probe_does_not_beat(results):
    text = to_text(sections(results))
    assert "piqa: logistic at layer" in text
    assert "is worse than the model's own confidence" in text
    assert "boolq: logistic at layer 9 beats" in text
    best = results.task("boolq").curves[0].best
    row = next(line for line in text.splitlines() if line.startswith("boolq  logistic  "))
    assert row.split()[2] == str(best.layer)
    assert f"{best.test.value:.3f}" in row and f"[{best.test.low:.3f}, {best.test.high:.3f}]" in row
    for name in ("confidence", "prompt-length", "tf-idf", "shuffled labels", "CrossTask of lda", "bootstrap"):
        assert name in text


def test_layers_are_named_as_the_protocol_names_them(stores):
    stored = replace(
        stores[0], manifest=replace(stores[0].manifest, protocol={"name": "paper", "layer_base": 1})
    )
    text = to_text(sections(score(stored, "mean-difference")))
    table = text[text.index("by layer") :].splitlines()
    assert [line.split()[0] for line in table[3:6]] == ["4", "5", "10"]
    assert "its layer L is layer L-1 of the store" in text


def test_files_hold_everything(results, stores, tmp_path):
    write(results, tmp_path / "new" / "out", command="wif-store score stores --seeds 2")
    folder = tmp_path / "new" / "out"
    held = json.loads((folder / "results.json").read_text())
    assert (held["schema"], held["schema_version"]) == ("wif-store-results", 1)
    assert held["settings"]["seeds"] == 2 and held["confidence"] == 0.999
    assert held["versions"]["numpy"] == np.__version__
    assert [len(task["curves"][0]["points"]) for task in held["tasks"]] == [3, 3]
    assert held["tasks"][0]["curves"][0]["points"][0]["settings"]["C"] > 0
    assert held["tasks"][0]["store"]["model"] == stores[0].manifest.model
    assert len(held["tasks"][0]["store"]["manifest_sha256"]) == 64
    markdown = (folder / "results.md").read_text()
    assert "$ wif-store score stores --seeds 2" in markdown and "](figure.png)" in markdown
    assert held["tasks"][0]["store"]["manifest_sha256"] in markdown
    assert "Every layer of piqa" in markdown


def test_markdown_tables_have_one_width(results):
    blocks = to_markdown(sections(results, paper=True)).split("\n\n")
    tables = [block.splitlines() for block in blocks if block.startswith("|")]
    assert len(tables) > 6
    assert all(len({line.count("|") for line in table}) == 1 for table in tables)


def test_a_run_is_written_the_same_twice(results, stores, tmp_path):
    again = score(stores, ["logistic", "lda"], seeds=2, cross_task=True, bootstrap_draws=10_000)
    assert json.dumps(again.to_json()) == json.dumps(results.to_json())


def test_the_figure_is_a_picture_with_ink_in_every_panel(results, tmp_path):
    from matplotlib.image import imread

    write(results, tmp_path)
    picture = imread(tmp_path / "figure.png")[..., :3].mean(axis=2)
    assert picture.shape[1] > 1000
    height, width = picture.shape
    halves = picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :]
    assert all((half < 0.5).mean() > 0.003 for half in halves)
    # Nothing is cut: the outermost pixels are blank.
    assert min(edge.min() for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1])) == 1.0


def test_predictions_are_drawn_and_written_too(stores, tmp_path):
    given = {e.id: e.choice.margin for s in stores for e in s.examples("test")}
    write(evaluate(given, stores, name="judge"), tmp_path)
    assert "judge" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_the_papers_twenty_figures_stand_beside_ours(results):
    rows = list(beside(results))
    assert sum(len(held) for held in figure1()["test_auroc"].values()) == 20
    mine = next(r for r in rows if (r.task, r.paper_layer, r.probe) == ("boolq", 5, "logistic"))
    assert (mine.layer, mine.paper) == (4, 0.5696)
    assert mine.ours == next(p.test for p in results.task("boolq").curves[0].points if p.layer == 4)
    assert next(r for r in rows if (r.task, r.paper_layer) == ("boolq", 25)).ours is None
    text = to_text(sections(results, paper=True))
    assert "no such layer" in text and "not scored" in text and "LLM-Detection-Testing" in text


@pytest.fixture
def run(monkeypatch, tmp_path):
    held = {"a.zarr": memory_store("boolq", strength=0.5), "b.zarr": memory_store("piqa", seed=1)}
    fake = SimpleNamespace(open_store=lambda path: held[path.rsplit("/", 1)[-1]])
    monkeypatch.setitem(sys.modules, "wif_store.store.reader", fake)
    monkeypatch.chdir(tmp_path)
    for name in held:
        (tmp_path / "stores" / "toy" / name).mkdir(parents=True)
    app = typer.Typer()
    app.callback()(lambda: None)
    app.command("score")(score_command)
    return lambda *arguments: CliRunner().invoke(app, ["score", *arguments])


def test_the_command_scores_a_folder_of_stores(run, tmp_path):
    done = run("stores", "--layers", "1-2", "--probe", "lda", "--out", "out", "--compare", "paper")
    assert done.exit_code == 0, done.output
    assert "boolq: lda at layer" in done.output and "Beside the paper" in done.output
    held = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [task["task"] for task in held["tasks"]] == ["boolq", "piqa"]
    assert held["settings"]["layers"] == [1, 2]


def test_the_command_takes_one_task_and_predictions(run, tmp_path):
    test = memory_store("piqa", seed=1).examples("test")
    (tmp_path / "p.csv").write_text("id,score\n" + "".join(f"{e.id},{e.choice.margin}\n" for e in test))
    done = run("stores", "--task", "piqa", "--predictions", "p.csv")
    assert done.exit_code == 0, done.output
    assert "piqa: p does not beat the model's own confidence" in done.output
    assert "boolq" not in done.output


def test_a_probe_in_the_current_folder_is_found(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_own_probe.py").write_text(
        "from sklearn.linear_model import RidgeClassifier\nmake = lambda: RidgeClassifier(alpha=100)\n"
    )
    done = run("stores/toy/a.zarr", "--probe", "my_own_probe:make", "--layers", "2")
    assert done.exit_code == 0, done.output
    assert "my_own_probe:make at layer 2" in done.output


def test_the_path_is_as_it_was_after_a_probe_of_the_current_folder(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = list(sys.path)
    (tmp_path / "a_plain_probe.py").write_text(
        "from sklearn.linear_model import RidgeClassifier\nmake = RidgeClassifier\n"
    )
    assert run("stores/toy/a.zarr", "--probe", "a_plain_probe:make", "--layers", "2").exit_code == 0
    assert sys.path == before


def test_several_predictions_stand_beside_a_probe_and_are_compared(run, tmp_path):
    test = memory_store("piqa", seed=1).examples("test")
    for name, sign in (("up", 1), ("down", -1)):
        lines = "".join(f"{e.id}, {sign * e.choice.margin}\n" for e in test)
        (tmp_path / f"{name}.csv").write_text("id, score\n" + lines)
    out = ("--out", "out", "--layers", "1")
    done = run(
        "stores/toy/b.zarr", "--predictions", "up.csv", "--predictions", "down.csv", "--probe", "lda", *out
    )
    assert done.exit_code == 0, done.output
    held = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [curve["probe"] for curve in held["tasks"][0]["curves"]] == ["up", "down", "lda"]
    pairs = {(one["first"], one["second"]) for one in held["between"]}
    assert pairs == {("up", "down"), ("up", "lda"), ("down", "lda")}
    assert "a higher score is read as: success is likelier" in done.output


def test_few_test_examples_show_nothing():
    results = score(memory_store("piqa", n=120), "lda", [1])
    assert "Under 50 test examples an AUROC shows nothing: piqa has 30." in to_text(sections(results))


def test_a_folder_that_holds_files_called_as_libraries_are_runs_none_of_them(tmp_path):
    for name in ("sklearn", "scipy", "joblib", "matplotlib", "numpy"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / name)!r} + '.ran', 'w').close()\n")
    (tmp_path / "mine.py").write_text(
        "import numpy\nfrom sklearn.linear_model import RidgeClassifier\nmake = RidgeClassifier\n"
    )
    store = make_store(tmp_path / "s.zarr", per_class=16)
    command = Path(sys.executable).with_name("wif-store")
    for probe in ((), ("--probe", "mine:make")):
        done = subprocess.run(
            [command, "score", store, "--layers", "1", "--out", tmp_path / "out", *probe],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("*.ran"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["stores", "--task", "winogrande"], "no store of task 'winogrande'; found boolq, piqa"),
        (["nowhere"], "nowhere holds no store"),
        (["stores", "--compare", "notes"], "--compare 'notes' is not known"),
        (["stores", "--layers", "5-2"], "--layers is '5-2'"),
        (["stores", "--predictions", "p.csv", "--layers", "1"], "--layers, --seeds and --cross-task are for"),
        (["stores", "--out", "file/below"], "--out file/below cannot be written"),
    ],
)
def test_the_command_refuses(run, arguments, says):
    Path("file").touch()
    failed = run(*arguments)
    assert isinstance(failed.exception, (LayersError, ScoreError))
    assert says in str(failed.exception)


def test_stores_are_found(tmp_path):
    assert find_stores("hf://datasets/me/data/piqa.zarr") == ["hf://datasets/me/data/piqa.zarr"]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "manifest.json").touch()
    assert find_stores(str(tmp_path / "plain")) == [str(tmp_path / "plain")]


def test_stores_behind_a_url_are_listed():
    import fsspec

    files = fsspec.filesystem("memory")
    for task in ("boolq", "piqa"):
        files.pipe(f"/data/stores/{task}.zarr/manifest.json", b"{}")
    found = find_stores("memory://data")
    assert found == ["memory:///data/stores/boolq.zarr", "memory:///data/stores/piqa.zarr"]
    with pytest.raises(ScoreError, match="holds no store"):
        find_stores("memory://elsewhere")
