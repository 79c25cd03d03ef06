"""What a run leaves behind: a table, results.json, results.md and a picture."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from tests.support.command import run as command
from tests.support.memory_store import memory_store
from tests.support.stores import make_store
from tests.support.tamper import fit_manifest
from wif_store.cli.score import find_stores, score_command
from wif_store.errors import LayersError, ScoreError
from wif_store.format.schema import MANIFEST
from wif_store.scorer.files import write
from wif_store.scorer.paper import beside, figure1
from wif_store.scorer.report import sections
from wif_store.scorer.run import evaluate, score
from wif_store.scorer.tables import to_markdown, to_text
from wif_store.storage.remote import RemoteStorage
from wif_store.store.reader import open_store


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
    for name in (
        "confidence",
        "prompt-length",
        "tf-idf",
        "shuffled labels",
        "lda trained on one task",
        "bootstrap",
    ):
        assert name in text


def test_layers_are_named_as_the_protocol_names_them(stores):
    stored = replace(
        stores[0], manifest=replace(stores[0].manifest, protocol={"name": "paper", "layer_base": 1})
    )
    text = to_text(sections(score(stored, "mean-difference")))
    table = text[text.index("by layer") :].splitlines()
    assert [line.split()[0] for line in table[3:6]] == ["4", "5", "10"]
    assert "its layer L is layer L-1 of the store" in text


@pytest.mark.parametrize("base", ["x", None, [1], {}, -3, 1.5, True])
def test_a_count_of_layers_that_is_none_is_left_out(base, stores):
    stored = replace(
        stores[0], manifest=replace(stores[0].manifest, protocol={"name": "p", "layer_base": base})
    )
    assert "This protocol counts layers" not in to_text(sections(score(stored, "mean-difference")))


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
    parts = to_markdown(sections(results, paper=True)).split("\n\n")
    tables = [part.splitlines() for part in parts if part.startswith("|")]
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


def test_a_matplotlibrc_of_the_working_folder_changes_nothing(results, tmp_path):
    """It could have LaTeX run, with a preamble of its own."""
    write(results, tmp_path / "expected")
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfigure.facecolor: red\nlines.linewidth: 9\n")
    code = (
        "import sys; from pathlib import Path; from tests.support.memory_store import memory_store; "
        "from wif_store.scorer.figure import draw; from wif_store.scorer.run import score; "
        "draw(score(memory_store(n=120), 'mean-difference'), Path(sys.argv[1]))"
    )
    pictures = []
    for folder in (tmp_path, tmp_path / "expected"):
        picture = folder / "again.png"
        subprocess.run(
            [sys.executable, "-c", code, picture],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            check=True,
        )
        pictures.append(picture.read_bytes())
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("name", ["$\\bad{$", "_mine", "a\nboolq  forged\x1b[2J"])
def test_any_name_is_shown_on_one_line_and_drawn(name, stores, tmp_path):
    given = {e.id: e.choice.margin for e in stores[0].examples("test")}
    results = evaluate(given, stores[0], name=name)
    write(results, tmp_path)
    lines = to_text(sections(results)).splitlines()
    assert (
        sum(line.startswith("boolq  ") for line in lines) == 8
    )  # the method and three baselines, in two tables
    assert (tmp_path / "figure.png").stat().st_size > 5_000


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


@pytest.fixture(scope="module")
def small_store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("small") / "s.zarr", per_class=32)


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


def test_controls_in_names_do_not_reach_the_terminal(run, tmp_path, monkeypatch):
    store = memory_store("boolq")
    hostile = replace(store, manifest=replace(store.manifest, model={"id": "\x1b[2J\u202e", "revision": "0"}))
    monkeypatch.setattr(sys.modules["wif_store.store.reader"], "open_store", lambda path: hostile)
    rows = "".join(f"{e.id},{e.choice.margin}\n" for e in store.examples("test"))
    (tmp_path / "a\x1b[31m.csv").write_text(f"id,score\n{rows}")
    done = run("stores/toy/a.zarr", "--predictions", "a\x1b[31m.csv", "--compare", "paper")
    assert done.exit_code == 0, done.output
    assert "\\x1b[31m" in done.output and "\\x1b[2J\\u202e" in done.output
    assert all(c.isprintable() or c == "\n" for c in done.output)


def test_results_that_cannot_be_written_are_one_line(run, monkeypatch):
    def full(*_given, **_named):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("wif_store.scorer.files.write", full)
    failed = run("stores/toy/a.zarr", "--probe", "mean-difference", "--out", "out")
    assert isinstance(failed.exception, ScoreError)
    assert str(failed.exception).startswith("--out out could not be written ([Errno 28] No space left")
    assert "boolq: mean-difference at layer" in failed.output


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
        (["stores", "--layers", "5-2"], "--layers is '5-2'"),
        (["stores", "--predictions", "p.csv", "--layers", "1"], "--layers, --seeds and --cross-task are for"),
        (["stores", "--out", "file/below"], "--out file/below cannot be written"),
        (["stores", "--out", "taken"], "--out taken cannot be written (Is a directory)"),
    ],
)
def test_the_command_refuses(run, arguments, says):
    Path("file").touch()
    Path("taken/results.md").mkdir(parents=True)
    failed = run(*arguments)
    assert isinstance(failed.exception, (LayersError, ScoreError))
    assert says in str(failed.exception)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            "owner/name",
            "there is no folder owner/name, and dataset owner/name cannot be fetched: no connection",
        ),
        ("hf://datasets/owner/name", "dataset owner/name cannot be fetched: no connection to the Hub"),
        ("nothing://here", "nothing://here cannot be listed (Protocol not known: nothing)"),
    ],
)
def test_stores_that_cannot_be_listed_are_one_line(run, given, says):
    failed = run(given)
    assert isinstance(failed.exception, ScoreError)
    assert str(failed.exception).startswith(says)
    assert "\n" not in str(failed.exception)


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("protocol", {"layer_base": "x"}),
        ("protocol", {"name": 5}),
        ("protocol", []),
        ("model", {"id": None}),
        ("model", {"d_model": "wide"}),
        ("model", {"name": {"a": [1]}, "tokenizer": "\ud800"}),
        ("model", 7),
        ("selection", {"seed": []}),
        ("selection", {"more": float("inf")}),
        ("selection", "all"),
        ("source", None),
        ("versions", {"x": ["y"]}),
    ],
)
def test_hostile_sections_of_a_manifest_are_scored_or_one_line(section, change, tmp_path, small_store):
    folder = tmp_path / "s.zarr"
    shutil.copytree(small_store, folder)
    sections = json.loads((folder / MANIFEST).read_bytes())
    sections[section] = {**sections[section], **change} if isinstance(change, dict) else change
    fit_manifest(folder, {name: value for name, value in sections.items() if name != "manifest_sha256"})
    done = command("score", folder, "--layers", "1", "--probe", "mean-difference", "--out", tmp_path / "out")
    if done.returncode:
        assert done.returncode == 1
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_scoring_fetches_what_is_small_once(small_store, monkeypatch):
    fsspec.filesystem("memory").put(str(small_store), "/counted/s.zarr", recursive=True)
    fetched, read = Counter(), RemoteStorage.read

    def noting(self, name, *part):
        fetched[name] += 1
        return read(self, name, *part)

    monkeypatch.setattr(RemoteStorage, "read", noting)
    store = open_store("memory://counted/s.zarr")
    scores = {example.id: example.choice.margin for example in store.examples("test")}
    score(store, ["mean-difference", "lda"], [0, 1, 2], seeds=2, predictions=scores)
    small = {name: count for name, count in fetched.items() if "final_token" not in name}
    assert set(small.values()) == {1}
    # An index a split; and a range a split for each layer of each probe, and for its control.
    assert fetched.total() - len(small) == 3 * (1 + 2 * (3 + 1))


def test_stores_are_found(tmp_path):
    assert find_stores("hf://datasets/me/data/piqa.zarr") == ["hf://datasets/me/data/piqa.zarr"]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "manifest.json").touch()
    assert find_stores(str(tmp_path / "plain")) == [str(tmp_path / "plain")]


def test_stores_behind_a_url_are_listed():
    files = fsspec.filesystem("memory")
    for task in ("boolq", "piqa"):
        files.pipe(f"/data/stores/{task}.zarr/manifest.json", b"{}")
    found = find_stores("memory://data")
    assert found == ["memory:///data/stores/boolq.zarr", "memory:///data/stores/piqa.zarr"]
    with pytest.raises(ScoreError, match="holds no store"):
        find_stores("memory://elsewhere")
