"""``--json``: one object on standard output, of a schema that the documents have."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from tests.support import tiny
from tests.support.command import build, run
from tests.support.schemas import SCHEMAS, checked, schema
from wif_store.store.reader import open_store


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return tiny.write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", tiny.rows(200))


@pytest.fixture(scope="module")
def made(tiny_models, rows, tmp_path_factory):
    """A store, and what its build printed."""
    out = tmp_path_factory.mktemp("json") / "s.zarr"
    done = build(tiny_models("llama"), rows, out, "--per-class", "max", "--dtype", "float32", "--json")
    assert done.returncode == 0, done.stderr
    return out, done


@pytest.fixture(scope="module")
def store(made):
    return made[0]


def test_a_build(made, tiny_models, rows):
    out, done = made
    [found] = checked("build", done.stdout)["stores"]
    assert (found["path"], found["already_built"]) == (str(out), False)
    assert "successes and as many failures" in done.stderr
    again = build(tiny_models("llama"), rows, out, "--per-class", "max", "--dtype", "float32", "--json")
    assert checked("build", again.stdout)["stores"][0]["already_built"] is True
    dry = build(tiny_models("llama"), rows, out, "--per-class", "8", "--dry-run", "--json")
    [found] = checked("build", dry.stdout)["stores"]
    assert 0 < found["tokens_least"] <= found["tokens_most"]


def test_info(store):
    found = checked("info", run("info", store, "--json").stdout)
    opened = open_store(store)
    assert found["examples"] == len(opened)
    assert found["splits"]["test"]["examples"] == opened.count("test")
    assert found["layers"] == [0, 1, 2, 3]


def test_verify(store, tiny_models, rows):
    found = checked("verify", run("verify", store, "--json").stdout)
    assert found["examples"] > 0 and found["recomputed"] is None
    given = ("--recompute", 2, "--model", tiny_models("llama"), "--source", rows)
    found = checked("verify", run("verify", store, "--json", *given).stdout)
    assert found["recomputed"]["labels"] is True and found["recomputed"]["examples"] == 2


def test_audit(store):
    found = checked("audit", run("audit", store, "--json").stdout)
    assert found["counts"]["groups_across_splits"] == 0
    assert found["counts"].keys() == found["meanings"].keys()


def test_tasks():
    found = checked("tasks", run("tasks", "wino", "--json").stdout)
    assert found["tasks"] == [{"name": "winogrande", "protocols": ["aligned", "mcq", "cot", "paper"]}]


def test_score(store, tmp_path):
    done = run("score", store, "--layers", "1,2", "--out", tmp_path / "out", "--json")
    found = checked("score", done.stdout)
    [task] = found["sites"]["final_token"]["tasks"]
    assert [point["layer"] for point in task["curves"][0]["points"]] == [1, 2]
    assert "Wrote results.json" in done.stderr


def test_steer(store, tiny_models, rows):
    given = ("--model", tiny_models("llama"), "--source", rows, "--examples", 4, "--strength", 2)
    found = checked("steer", run("steer", store, "--layer", 1, "--json", *given).stdout)
    [one] = found["results"]["steering"]
    assert (one["layer"], one["examples"]) == (1, 4)


@pytest.mark.parametrize(
    "command",
    [
        ("info", "absent.zarr"),
        ("verify", "absent.zarr"),
        ("audit", "absent.zarr"),
        ("score", "absent.zarr"),
        ("steer", "absent.zarr"),
        ("build", "--task", "chess"),
        ("build",),
    ],
)
def test_an_error_is_an_object_and_a_line(command):
    done = run(*command, "--json")
    assert done.returncode == 1
    found = checked("error", done.stdout)
    assert done.stderr.splitlines()[-1] == f"error: {found['message']}"
    assert run(*command).stdout == ""


def test_an_error_that_cannot_be_printed_is_a_line(tmp_path):
    with Path("/dev/full").open("w") as full:
        call = [sys.executable, "-m", "wif_store", "info", str(tmp_path / "absent.zarr"), "--json"]
        done = subprocess.run(call, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [("info", "s.zarr", "--deep"), ("build", "--dtype", "int4"), ("pull",)])
def test_an_error_of_usage_is_one_too(command):
    done = run(*command, "--json")
    assert done.returncode == 2
    found = checked("error", done.stdout)
    assert done.stderr == f"error: {found['message']}\n"


def test_an_error_before_the_command_and_one_after_it_is_one_object(store, tmp_path, tiny_models, rows):
    checked("error", run("--config", tmp_path / "absent.toml", "info", store, "--json").stdout)
    (tmp_path / "out" / "steering.png").mkdir(parents=True)
    given = ("--model", tiny_models("llama"), "--source", rows, "--examples", 2, "--strength", 2)
    done = run("steer", store, "--layer", 1, "--json", "--out", tmp_path / "out", *given)
    assert done.returncode == 1
    checked("error", done.stdout)


def test_an_unfinished_store_is_an_error(tiny_models, rows, tmp_path):
    out = tmp_path / "s.zarr"
    build(tiny_models("llama"), rows, out, "--per-class", "400")
    done = run("info", out, "--json")
    assert done.returncode == 1
    assert "is unfinished" in checked("error", done.stdout)["message"]


def test_the_schemas_are_schemas_and_the_page_lists_them():
    page = (SCHEMAS.parent / "json.md").read_text()
    listed = re.findall(r"\(schemas/(\w+)\.json\)", page)
    assert sorted(listed) == sorted(path.stem for path in SCHEMAS.iterdir())
    for name in listed:
        found = schema(name)
        jsonschema.Draft202012Validator.check_schema(found)
        assert found["additionalProperties"] is False
        if name != "error":
            assert f"| `{name}` | [{name}.json](schemas/{name}.json) | {found['description']} |" in page
