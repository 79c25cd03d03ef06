"""What verify finds: every byte and every invariant."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import zarr

from tests.support.builds import contents
from tests.support.rewrite import change_array, change_table, put, sealed_again, sections_of
from tests.support.stores import read_all
from wif_store.errors import DamageError, StoreError
from wif_store.store.reader import open_store
from wif_store.store.verify import verify_store

VICTIMS = [
    "train/final_token/c/0/0/0",
    "test/sequence/c/0/0/0",
    "validation/success/c/0",
    "train/offsets/c/0",
    "test/token_ids/c/0",
    "test/examples.parquet",
    "layer/c/0",
    "zarr.json",
    "train/zarr.json",
    "train/sequence/zarr.json",
    "manifest.json",
]


def test_a_good_store(finished_store):
    found = verify_store(finished_store)
    files = contents(finished_store)
    assert found.files == len(files) - 1  # the manifest has a digest of its own
    assert found.size == sum((finished_store / f).stat().st_size for f in files if f != "manifest.json")
    assert found.examples == len(open_store(finished_store))
    assert found.invariants > 20


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("how", ["missing", "empty", "shorter", "flipped", "longer"])
def test_damage_is_found_and_never_read_as_numbers(victim, how, store_copy):
    path = store_copy / victim
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    else:
        content[len(content) // 2] ^= how == "flipped"
        changed = {"empty": b"", "shorter": content[:-1], "longer": content + b"\0", "flipped": content}
        path.write_bytes(changed[how])
    with pytest.raises(StoreError) as error:
        verify_store(store_copy)
    if victim != "manifest.json":
        assert victim in str(error.value)
        assert "build or pull the store again" in str(error.value)
    # Metadata and coordinates are for others: what we read follows from the manifest.
    if how != "flipped" or not victim.endswith(("zarr.json", "layer/c/0")):
        with pytest.raises(StoreError):
            read_all(store_copy)


@pytest.mark.parametrize("stranger", ["notes.txt", "train/run_me.py", "train/success/c/0.partial"])
def test_a_file_that_is_not_named_is_found(stranger, store_copy):
    (store_copy / stranger).write_text("mine")
    with pytest.raises(DamageError, match=rf"{stranger} is not in the manifest: remove it"):
        verify_store(store_copy)
    read_all(store_copy)  # whoever reads is not held up by it


def test_a_folder_that_is_no_store(tmp_path):
    with pytest.raises(StoreError, match=r"is not a store: found no manifest\.json"):
        verify_store(tmp_path)


def residual(path, position, value):
    """Another number among the residuals."""

    def change(store):
        zarr.open_group(store, mode="r+")[path][position] = value
        sealed_again(store)

    return change


def array(path, position, value):
    return lambda store: change_array(store, path, put(position, value))


def column(split, row, **values):
    def change(rows):
        rows[row].update(values)
        return rows

    return lambda store: change_table(store, split, change)


def every_row(split, change):
    return lambda store: change_table(store, split, lambda rows: [{**row, **change(row)} for row in rows])


def counts(split, **values):
    def change(store):
        sections = sections_of(store)
        sections["splits"][split].update(values)
        sealed_again(store, sections)

    return change


def siblings(store):
    """A group of test says that it is one of train."""
    theirs, ours = (open_store(store).column("group", split)[0] for split in ("train", "test"))

    def change(rows):
        return [{**row, "group": theirs if row["group"] == ours else row["group"]} for row in rows]

    change_table(store, "test", change)


INVARIANTS = {
    "ids are unique": lambda s: column("test", 1, id=open_store(s).column("id", "train")[0])(s),
    "the task is the manifest's": column("train", 0, task="piqa"),
    "layer is as the manifest says": array("layer", 2, 7),
    "sequence_layer is as the manifest says": array("sequence_layer", 1, -1),
    "successes and failures of train take turns": array("train/success", slice(0, 2), [0, 1]),
    "the table of test has the labels": column("test", 0, success=0),
    "the table of test has the lengths": column("test", 0, tokens=1, final_token_position=0),
    "the groups of train are as counted": counts("train", groups=1),
    "no group is in two splits": siblings,
    "the final token is the last": column("validation", 3, final_token_position=0),
    "success is prediction == gold": every_row("test", lambda row: {"gold": 1 - row["gold"]}),
    "gold is one of the choices": column("train", 1, gold=9),
    "every choice is scored": column("train", 0, choice_tokens=[1]),
    "prediction is the likeliest choice": every_row(
        "test", lambda row: {"choice_logprobs": row["choice_logprobs"][::-1]}
    ),
    "final_token of layer 2 is finite": residual("train/final_token", (2, 0, 0), np.inf),
    "final_token of layer 1 ends its sequence": residual("test/final_token", (1, 0, 0), 1.5),
    "sequence of layer 1 is finite": residual("train/sequence", (1, 0, 0), np.nan),
}


@pytest.mark.parametrize("meaning", INVARIANTS)
def test_a_store_that_means_something_else(meaning, store_copy):
    """Its checksums and its manifest fit: whoever wrote it so knew the format."""
    INVARIANTS[meaning](store_copy)
    with pytest.raises(DamageError, match=f"not every example satisfies: {meaning}$"):
        verify_store(store_copy)


def test_a_store_of_published_splits_may_share_groups(store_copy):
    siblings(store_copy)
    sections = sections_of(store_copy)
    sections["selection"]["splits"] = "published"
    sealed_again(store_copy, sections)
    assert verify_store(store_copy).examples


def test_a_copy_elsewhere_is_as_good(finished_store, tmp_path):
    shutil.copytree(finished_store, tmp_path / "other.zarr")
    assert verify_store(tmp_path / "other.zarr") == verify_store(finished_store)
