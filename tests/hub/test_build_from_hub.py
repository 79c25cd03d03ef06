"""Builds from Hub ids: pinned to the commit they resolve to, refused in one line where access is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import tiny

pytestmark = pytest.mark.hub

ROOT = Path(__file__).parents[2]


@pytest.fixture
def seeded(hub, tiny_models, tmp_path):
    """A tiny Gemma 2 under the default model's name, and WinoGrande-shaped rows under its dataset's."""
    rows = tiny.write_rows(tmp_path / "train.jsonl", tiny.rows())
    card = "---\nconfigs:\n- config_name: winogrande_xl\n  data_files: train.jsonl\n---\n"
    hub.seed("allenai/winogrande", "dataset", {"train.jsonl": rows, "README.md": card.encode()})
    hub.seed("google/gemma-2-2b", "model", {p.name: p for p in tiny_models("gemma2").iterdir()})
    return hub


def build(hub, cwd, *options, token=""):
    command = [sys.executable, "-m", "wif_store.cli.app", "build", "--task", "winogrande", *options]
    environment = hub.environ(token, PYTHONPATH=str(ROOT))
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


def test_the_default_build_from_hub_ids(seeded, tmp_path):
    done = build(seeded, tmp_path, "--per-class", "6")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "stores/gemma-2-2b/aligned/winogrande.zarr/manifest.json").read_text())
    model, source = manifest["model"], manifest["source"]
    assert (model["id"], source["id"]) == ("google/gemma-2-2b", "allenai/winogrande")
    assert model["revision"] == seeded.repo("google/gemma-2-2b", "model").commit_at("main").sha
    assert source["revision"] == seeded.repo("allenai/winogrande").commit_at("main").sha
    assert (source["config"], source["split"]) == ("winogrande_xl", "train")
    assert model["architecture"] == "Gemma2ForCausalLM"
    assert model["attention"] == "eager"  # sdpa would leave Gemma 2's soft-capping out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "google/gated"], "model google/gated is gated: accept its terms at https://hugg"),
        (["--model", "google/nothing"], "model google/nothing was not found"),
        (["--model", "google/gemma-2-2b@nope"], "model google/gemma-2-2b has no such revision"),
        (["--source", "allenai/nothing"], "dataset allenai/nothing was not found"),
        (["--source", "allenai/winogrande@nope"], "dataset allenai/winogrande has no such revision"),
        (["--source", "allenai/winogrande:winogrande_xl/dev"], "dataset allenai/winogrande cannot be loaded"),
    ],
)
def test_what_cannot_be_had_is_one_line(options, message, seeded, tmp_path):
    files = {"config.json": b"{}", "model.safetensors": b"\0" * 8}
    seeded.seed("google/gated", "model", files, gated="manual")
    done = build(seeded, tmp_path, "--per-class", "6", *options, token=seeded.stranger_token)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert message in errors[0]
    assert seeded.stranger_token not in done.stderr


def test_a_wrong_token_is_told_to_log_in(seeded, tmp_path):
    done = build(seeded, tmp_path, "--per-class", "6", token="hf_" + "x" * 34)
    assert done.returncode == 1
    assert "run `hf auth login`" in done.stderr
    assert "xxxx" not in done.stderr
