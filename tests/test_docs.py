"""The documents say what the code does, and their examples run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from huggingface_hub import HfApi

import wif_store
from tests.support import tiny
from tests.support.stores import make_store
from wif_store.cli.app import app
from wif_store.format.manifest import DIGEST, LEFT_OUT
from wif_store.format.schema import ARRAYS, COMMON, COORDINATES, OUTCOMES, Manifest
from wif_store.hub.push import push_stores

if TYPE_CHECKING:
    from tests.support.hub import Hub

ROOT = Path(__file__).parents[1]
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| `[^|]+` \| .* \|$", re.MULTILINE)
LAX = doctest.NORMALIZE_WHITESPACE
EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "wif_store").rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


RUN_HERE = (
    "build",
    "open_store",
    "score",
    "evaluate",
    "steer",
    "verify",
    "audit",
    "recompute",
    "explain",
    "quiz",
    "ask",
)
"""The public functions whose examples run one after the other, in a folder with a store."""


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """What stands under a heading of the second level."""
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[str]:
    """The rows of tables whose first cell is code."""
    return ROW.findall(text)


def blocks(name: str) -> list[str]:
    """The Python code of a page, fence by fence."""
    return PYTHON.findall(page(name))


def make_deep_model(folder: Path) -> Path:
    """A tiny model with as many layers as Gemma 3 270M."""
    import torch
    from transformers import AutoModelForCausalLM

    config = tiny.config("llama")
    config.num_hidden_layers = 18
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tiny.tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stores where the examples of the pages look for them; tests must not change it."""
    folder = tmp_path_factory.mktemp("docs")
    store = make_store(
        folder / "stores" / "gemma-2-2b" / "aligned" / "winogrande.zarr",
        per_class=64,
        layers=26,
        sequence_layers=13,
    )
    shutil.copytree(store, folder / "winogrande.zarr")
    return folder


def test_the_format_lists_every_array() -> None:
    groups = {**dict.fromkeys(COORDINATES, "root"), **dict.fromkeys(ARRAYS, "split")}
    expected = [
        f"| `{a.name}` | {groups[a.name]} | {a.dtype} | {', '.join(a.dims)} | {a.description} |"
        for a in (COORDINATES | ARRAYS).values()
    ]
    assert rows(section(page("docs/format.md"), "Arrays")) == expected


def test_the_format_lists_every_column() -> None:
    every = [*COMMON, *(column for outcome in OUTCOMES.values() for column in outcome)]
    expected = [f"| `{column.name}` | `{column.type}` | {column.description} |" for column in every]
    assert rows(section(page("docs/format.md"), "The table of examples")) == expected


def test_the_format_lists_every_section_of_the_manifest() -> None:
    listed = [row.split(" | ")[0] for row in rows(section(page("docs/format.md"), "The manifest"))]
    names = [name for cell in listed for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(names) == sorted([*Manifest.__slots__, "format", "format_version", DIGEST, LEFT_OUT])


def test_the_sessions_of_readers_run(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    sessions = "\n".join(code for code in blocks("docs/reading.md") if code.startswith(">>> "))
    readers = (
        "xarray.open_datatree",
        "zarr.open_group",
        "tensorstore.open",
        "pandas.read_parquet",
        "open_store",
    )
    assert all(f"{reader}(" in sessions for reader in readers)
    test = doctest.DocTestParser().get_doctest(sessions, {}, "reading.md", "docs/reading.md", 0)
    told: list[str] = []
    found = doctest.DocTestRunner(optionflags=LAX).run(test, out=told.append)
    assert not found.failed, "".join(told)
    assert found.attempted > 20


def test_the_six_lines_of_the_readme_run(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    [code] = blocks("README.md")
    assert len([line for line in code.splitlines() if line]) == 6
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["X"].shape == (64, 64)
    assert scope["success"].tolist() == [1, 0] * 32
    assert scope["best"].low < scope["best"].value < scope["best"].high


@pytest.mark.hub
@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")  # the Hub's client's own
def test_the_examples_of_what_is_published_run(hub: Hub, tmp_path: Path) -> None:
    """Those of reading.md, which have nothing of ours, and that of publishing.md."""
    stores = [make_store(tmp_path / f"{task}.zarr", task, layers=16) for task in ("boolq", "winogrande")]
    push_stores(stores, "whyitfailed/gemma2-acts", api=HfApi(endpoint=hub.endpoint, token=hub.token))
    view, layer, *_ = blocks("docs/reading.md")
    told = "assert 'wif_store' not in sys.modules\nprint(json.dumps([X.shape, success.tolist()]))"
    assert run(f"import json, sys\n{view}\n{told}", hub, tmp_path) == [[8, 64], [1, 0] * 4]
    told = "print(json.dumps([list(table), len(table.resid_post_14[0])]))"
    assert run(f"import json\n{layer}\n{told}", hub, tmp_path) == [["id", "success", "resid_post_14"], 64]
    shutil.copytree(stores[0], tmp_path / "my.zarr")
    [ours] = blocks("docs/publishing.md")
    assert run(f"{ours}\nprint(list(store.layers))", hub, tmp_path) == [4, 9, 10, 11, 12]


def run(script: str, hub: Hub, folder: Path) -> Any:
    """Run a script in a process that knows this Hub alone; what it prints last, read as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=hub.environ(hub.add_account("me"), PYTHONPATH=str(ROOT)),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_quickstart_runs_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_deep_model(tmp_path / "checkpoint")
    tiny.write_rows(tmp_path / "rows.jsonl", tiny.rows(240))
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(with_what_is_at_hand("\n".join(blocks("docs/index.md"))), scope)
    assert scope["store"].layers == tuple(range(18))
    assert 0 <= scope["best"].test.value <= 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("<ActivationStore winogrande.zarr: winogrande, ")
    assert len(told) == 4
    exec(with_what_is_at_hand(blocks("docs/steering.md")[0]), scope)
    assert "has too few examples to be told from" in capsys.readouterr().out
    # The tiny model reads no longer one.
    (tmp_path / "short.md").write_text("Short sentences are answered right.\n")
    for name in RUN_HERE:
        example = inspect.getdoc(getattr(wif_store, name)).partition("Example::\n")[2]
        assert f"wif_store.{name}(" in example
        exec(with_what_is_at_hand(textwrap.dedent(example)), scope)


def test_every_public_name_has_an_example() -> None:
    """Those of the Hub run above, and that of a trained SAE in its own tests."""
    for name in {*wif_store.__all__} - {"__version__", "ActivationStore", "BuildOptions"}:
        assert f"wif_store.{name}(" in inspect.getdoc(getattr(wif_store, name)).partition("Example::\n")[2]


@pytest.mark.parametrize("number", range(2))
def test_the_probes_of_the_page_are_scored(
    number: int, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made)
    found: dict[str, Any] = {}
    exec(blocks("docs/probes.md")[number], found)
    for curve in found["results"].tasks[0].curves:
        assert 0 < curve.best.test.low < curve.best.test.high < 1
    if number == 0:
        assert "length_and_margin" in capsys.readouterr().out


def with_what_is_at_hand(code: str) -> str:
    """The same code with a tiny model, and rows that are made up."""
    code = code.replace('"gemma3-270m"', '"checkpoint"').replace('"builtin"', '"rows.jsonl"')
    code = code.replace('["explanation.md"]', '["short.md"]')
    code = code.replace("explain(store,", 'explain(store, model="checkpoint",')
    return code.replace("examples=40", 'examples=4, layer=9, model="checkpoint", source="rows.jsonl"')


def test_no_example_of_a_page_is_left_out() -> None:
    """That of adding_a_task.md runs in the tests of the tasks, all others here."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    found = {path.relative_to(ROOT).as_posix(): len(PYTHON.findall(path.read_text())) for path in pages}
    assert {name: count for name, count in found.items() if count} == {
        "README.md": 1,
        "docs/adding_a_task.md": 1,
        "docs/index.md": 4,
        "docs/probes.md": 2,
        "docs/publishing.md": 1,
        "docs/reading.md": 7,
        "docs/steering.md": 1,
    }


@pytest.mark.parametrize("module", EXAMPLES)
def test_the_examples_of_the_docstrings_run(module: str) -> None:
    found = doctest.testmod(importlib.import_module(module), optionflags=LAX)
    assert found.attempted
    assert not found.failed


def test_the_rooms_are_those_of_the_contract() -> None:
    contract = tomllib.loads(page("pyproject.toml"))["tool"]["importlinter"]["contracts"][0]["layers"]
    expected = [room.strip() for layer in contract for room in layer.split("|")]
    table = page("docs/architecture.md").partition("\n## ")[0]
    assert [re.findall(r"`(\w+)`", row)[0] for row in rows(table)] == expected
    found = {path.stem for path in (ROOT / "wif_store").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert found - {"__init__", "__main__", "__pycache__", "py"} == set(expected)


def test_the_glossary_gives_each_word_once() -> None:
    table = re.findall(r"^\| (.+?) \| (.+) \|$", page("docs/glossary.md"), re.MULTILINE)[2:]
    words = [re.sub(r"[^a-z]", "", word.casefold()) for word, _ in table]
    assert len(words) > 40
    assert words == sorted({*words})


def test_the_commands_are_those_of_the_program() -> None:
    """From its second heading on, the page is what this command prints after its own first heading:

    python -m typer wif_store.cli.app utils docs --name wif-store
    """
    call = [sys.executable, "-m", "typer", "wif_store.cli.app", "utils", "docs", "--name", "wif-store"]
    printed = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = page("docs/commands.md")
    assert found.partition("\n## ")[2].strip() == printed.partition("\n## ")[2].strip()
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    expected = [f"| `{name}` | {' '.join(c.help.split())} |" for name, c in commands.items()]
    assert rows(found.partition("\n## ")[0]) == expected


SHELLS = (
    "cluster",
    "commands",
    "explaining",
    "index",
    "json",
    "models",
    "results",
    "steering",
    "tasks",
    "troubleshooting",
)


@pytest.mark.parametrize("name", [f"docs/{name}.md" for name in SHELLS])
def test_every_command_line_is_one_that_the_program_takes(name: str) -> None:
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    shells = re.findall(r"^```sh\n(.*?)^```", page(name), re.MULTILINE | re.DOTALL)
    lines = [
        line.partition("  #")[0].removeprefix("HF_HUB_OFFLINE=1 ")
        for line in "".join(shells).replace("\\\n", " ").splitlines()
    ]
    ours = [line.split()[1:] for line in lines if line.startswith("wif-store ")]
    assert ours
    for name, *arguments in ours:
        command = commands[name]
        if inner := getattr(command, "commands", None):
            command = inner[arguments[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {a for a in arguments if a.startswith("--")} <= known, (name, arguments)
