"""What a build warns of, and what a stopped or a repeated command says."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.support import tiny
from tests.support.command import build, run
from wif_store.cli.store import describe_selection
from wif_store.progress import working

SELECTION = {
    "k": 8,
    "scanned": 20,
    "rows": 20,
    "duplicates": 0,
    "contradictory": [],
    "too_long": 0,
    "accuracy": 0.5,
    "successes": 10,
    "answer_shares": [0.5, 0.5],
    "answer_mass": 0.5,
}
THINKING = (
    "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}{% endif %}"
)


def said(*, aligned=False, reasoning="none", **selection):
    return describe_selection({**SELECTION, **selection}, "s.zarr", aligned=aligned, reasoning=reasoning)


def test_the_mass_of_the_answers_is_said_and_warned_of_where_it_is_small():
    assert "the scored answers have 50.0% of the probability" in said()
    assert "warning" not in said()
    assert "would rather say something else" in said(answer_mass=0.02)
    assert "probability" not in said(answer_mass=None)


def test_a_protocol_is_advised_where_the_task_has_it_and_it_was_not_used():
    assert "try --protocol aligned or a larger model" in said(answer_shares=[0.95, 0.05], aligned=True)
    advice = said(answer_shares=[0.95, 0.05])
    assert "try a larger model" in advice and "--protocol" not in advice


@pytest.fixture(scope="module")
def thinking(tmp_path_factory):
    return tiny.save_model("llama", tmp_path_factory.mktemp("thinking") / "m", chat_template=THINKING)


def test_a_prompt_that_ends_in_an_open_block_is_warned_of(thinking, rows_file, tmp_path):
    chat = ("--protocol", "mcq", "--per-class", "max", "--chat-template")
    done = build(thinking, rows_file, tmp_path / "open.zarr", *chat)
    assert "warning: the chat template's prompt ends inside an open block of reasoning" in done.stderr
    done = build(thinking, rows_file, tmp_path / "shut.zarr", *chat, "--template", "enable_thinking=false")
    assert done.returncode == 0 and "block of reasoning" not in done.stderr


def test_a_store_with_a_chat_template_is_none_without_and_known_before_its_model_is_loaded(
    thinking, rows_file, tmp_path, monkeypatch
):
    out, given = tmp_path / "s.zarr", ("--protocol", "mcq", "--per-class", "max")
    assert build(thinking, rows_file, out, *given, "--chat-template").returncode == 0
    for other in (given, (*given, "--chat-template", "--template", "enable_thinking=false")):
        done = build(thinking, rows_file, out, *other)
        assert done.returncode == 1
        assert "holds a finished store with another model.chat_template" in done.stderr
    monkeypatch.setattr("wif_store.extract.engine.load", lambda *a, **k: pytest.fail("the model was loaded"))
    for device in ((), ("--device", "cpu")):
        done = build(thinking, rows_file, out, *given, "--chat-template", *device)
        assert "already built" in done.stderr


def test_a_stopped_build_goes_on_with_its_own_number_of_threads(tiny_models, tmp_path):
    before = torch.get_num_threads()
    rows = tiny.write_rows(tmp_path / "rows.jsonl", tiny.rows(12))
    try:
        for threads in (("--threads", before + 1), ()):
            torch.set_num_threads(before)  # as in a process of its own
            done = build(tiny_models("llama"), rows, tmp_path / "s.zarr", "--per-class", 400, *threads)
            assert "another model.threads" not in done.stderr
            assert "expected 200 in train" in done.stderr
    finally:
        torch.set_num_threads(before)


def test_what_ctrl_c_stops_says_how_to_go_on(finished_store, monkeypatch):
    def stopped(store):
        raise KeyboardInterrupt

    monkeypatch.setattr("wif_store.store.verify.verify_store", stopped)
    done = run("verify", finished_store)
    assert (done.returncode, done.stderr) == (130, "stopped: run the same command to go on\n")


def test_a_name_is_no_markup_beside_a_spinner():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with working(console, "loading models[old]/[/x]m"):
        pass
    assert "loading models[old]/[/x]m" in console.file.getvalue()


def test_the_name_of_a_store_does_not_reach_the_terminal(finished_store, tmp_path):
    store = shutil.copytree(finished_store, tmp_path / "a\u202eb.zarr")
    for command in ("verify", "info", "audit"):
        done = run(command, store)
        assert done.returncode == 0
        assert done.stdout.replace("\n", "").isprintable()


def test_the_working_folder_is_not_run_by_python_either(tmp_path):
    for name in ("typer", "rich", "json", "numpy"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / name)!r} + '.ran', 'w').close()\n")
    done = subprocess.run(
        [sys.executable, "-m", "wif_store", "verify", "none.zarr"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.startswith("error: none.zarr is not a store")
    assert not list(tmp_path.glob("*.ran"))
