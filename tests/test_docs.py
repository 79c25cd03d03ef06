"""The documents say what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.support.fake_engine import fake_engine
from wif_store.builder.pipeline import Settings, build
from wif_store.format.schema import ARRAYS
from wif_store.tasks.rows import load_source
from wif_store.store.reader import open_store

ROOT = Path(__file__).parents[1]


def test_the_format_lists_every_array():
    rows = [f"| `{a.name}` | {a.dtype} | {', '.join(a.dims)} | {a.description} |" for a in ARRAYS.values()]
    assert "\n".join(rows) in (ROOT / "docs" / "format.md").read_text()


def test_the_commands_are_those_of_the_program():
    """`python -m typer wif_store.cli.app utils docs --name wif-store --output docs/commands.md` writes it."""
    call = [sys.executable, "-m", "typer", "wif_store.cli.app", "utils", "docs", "--name", "wif-store"]
    found = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert (ROOT / "docs" / "commands.md").read_text().strip() == found.strip()


def test_the_worked_example_of_a_task_works(tmp_path):
    code = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    scope: dict = {}
    exec(code.group(1), scope)
    task = scope["TASK"]
    source = load_source(task, "builtin")
    assert len({len(c.choices) for c in source.candidates}) > 1  # three, four or five choices
    settings = Settings(task, task.protocol("aligned"), per_class=20)
    build(settings, source, fake_engine(block=64), tmp_path / "s.zarr")
    examples = open_store(tmp_path / "s.zarr").examples()
    assert len(examples) == 40
    by_id = {c.id: c for c in source.candidates}
    for example in examples:
        assert example.choices == by_id[example.id].choices
        assert len(example.choice_logprobs) == len(example.choices)
        assert example.gold == by_id[example.id].gold
