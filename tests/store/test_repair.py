"""Repair: what follows from other files is rebuilt byte for byte; anything else is named and left."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.support import tiny
from tests.support.fake_engine import fake_engine
from tests.builder.test_pipeline import TASK, contents, settings
from tests.test_cli import run
from wif_store.builder.pipeline import build
from wif_store.errors import DamageError, StoreError
from wif_store.records import widen
from wif_store.store.repair import repair_store
from wif_store.format.schema import ARRAYS
from wif_store.tasks.rows import load_source
from wif_store.store.reader import open_store
from wif_store.store.verify import verify_store


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(bytes(content))


REBUILT = [
    ["zarr.json"],
    ["success/c/0"],
    ["prediction/c/0", "success/c/0"],
    ["offsets/c/0"],
    ["final_token_position/c/0"],
    ["n_choices/c/0", "split/c/0"],
    ["final_token/c/0/0/0", "final_token/c/1/0/0"],
    [f"{name}/zarr.json" for name in ARRAYS],
    ["gold/zarr.json", "success/c/0", "success/zarr.json"],
]


@pytest.mark.parametrize("names", REBUILT, ids=lambda names: names[0])
def test_what_follows_from_other_files_is_rebuilt(names, store, whole):
    damage(store / names[0])
    for name in names[1:]:
        (store / name).unlink()
    repaired = repair_store(store)
    assert sorted(repaired.rebuilt) == sorted(names)
    assert repaired.lost == []
    assert contents(store) == contents(whole)
    verify_store(store)
    assert list(store.parent.iterdir()) == [store]


def test_a_store_without_sequences(tmp_path):
    source = load_source(TASK, str(tiny.write_rows(tmp_path / "rows.jsonl", tiny.rows(20))))
    out = tmp_path / "s.zarr"
    build(settings(), source, fake_engine(sequence_layers=0), out)
    before = contents(out)
    verify_store(out)
    final, sequences = open_store(out).read_example(0)
    assert (final.shape, sequences.shape[0]) == ((3, 16), 0)
    damage(out / "zarr.json")
    damage(out / "final_token" / "c" / "0" / "0" / "0")
    repaired = repair_store(out)
    assert (repaired.rebuilt, repaired.lost) == (["zarr.json"], ["final_token/c/0/0/0"])
    assert contents(out).items() - before.items() == contents(out).items() & {
        ("final_token/c/0/0/0", contents(out)["final_token/c/0/0/0"])
    }


def test_final_tokens_of_a_float32_model(tmp_path):
    """All of their planes are numbers, and none is zero."""
    engine = fake_engine()

    def extract(requests):
        return [
            replace(r, final_token=widen(r.final_token) / 3, sequence=widen(r.sequence) / 3)
            for r in engine.extract(requests)
        ]

    source = load_source(TASK, str(tiny.write_rows(tmp_path / "rows.jsonl", tiny.rows(20))))
    out = tmp_path / "s.zarr"
    float32 = replace(engine, extract=extract, model={**engine.model, "dtype": "float32"})
    build(settings(), source, float32, out)
    before = contents(out)
    damage(out / "final_token" / "c" / "1" / "0" / "0")
    assert repair_store(out).rebuilt == ["final_token/c/1/0/0"]
    assert contents(out) == before


LOST = [
    ["final_token/c/2/0/0"],
    ["sequence/c/0/0/0", "final_token/c/0/0/0"],
    ["gold/c/0", "success/c/0"],
    ["offsets/c/0", "final_token_position/c/0"],
    ["zarr.json", "gold/zarr.json"],
    ["token_ids/c/0"],
]


@pytest.mark.parametrize("names", LOST, ids=lambda names: names[0])
def test_what_does_not_is_named_and_left(names, store):
    for name in names:
        damage(store / name)
    before = contents(store)
    repaired = repair_store(store)
    assert repaired.rebuilt == []
    assert repaired.lost == sorted(names)
    assert contents(store) == before


def test_the_command(store):
    assert run("repair", store).stdout == f"{store}: every file is whole\n"
    damage(store / "success" / "c" / "0")
    damage(store / "gold" / "c" / "0")
    damage(store / "offsets" / "c" / "0")
    done = run("repair", store)
    assert done.returncode == 1
    assert done.stdout == f"{store}: rebuilt offsets/c/0\n"
    assert "gold/c/0, success/c/0 cannot be rebuilt: build or pull the store again" in done.stderr


def test_a_manifest_that_is_damaged_is_not_believed(store):
    damage(store / "success" / "c" / "0")
    manifest = json.loads((store / "manifest.json").read_bytes())
    manifest["selection"]["seed"] = 3
    (store / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="does not have its own SHA-256"):
        repair_store(store)


def test_a_link_is_not_followed(store, tmp_path):
    (tmp_path / "elsewhere").write_text("precious")
    (store / "success" / "c" / "0").unlink()
    (store / "success" / "c" / "0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamageError, match="success/c/0 is a link"):
        repair_store(store)
    assert (tmp_path / "elsewhere").read_text() == "precious"
