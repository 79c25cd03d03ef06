"""Which examples are kept and in which split: a function of the seed, the groups and the ids."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import tiny
from tests.support.builds import PROTOCOL, TASK, ids_of, settings, source_of
from tests.support.fake_engine import fake_engine
from tests.support.stores import ROWS
from wif_store.builder.pipeline import build_store
from wif_store.builder.selection import Tally, divide, pairs_wanted, split_of, visit_order
from wif_store.errors import SelectionError, SourceError
from wif_store.format.schema import SPLITS
from wif_store.store.reader import open_store
from wif_store.store.verify import verify_store
from wif_store.tasks import get_task
from wif_store.tasks.rows import load_source


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return source_of(tmp_path_factory.mktemp("rows"), 400)


def test_half_of_the_groups_are_in_train_and_a_quarter_in_each_other_split():
    for seed in (0, 1):
        shares = Counter(split_of(f"{i:016x}", seed) for i in range(10_000))
        assert shares["train"] == pytest.approx(5000, abs=150)
        assert shares["validation"] == pytest.approx(2500, abs=130)
        assert shares["test"] == pytest.approx(2500, abs=130)


def test_another_seed_divides_the_groups_anew():
    groups = [f"{i:016x}" for i in range(1000)]
    same = sum(split_of(group, 0) == split_of(group, 1) for group in groups)
    assert same == pytest.approx(1000 * (1 / 4 + 1 / 16 + 1 / 16), abs=60)


def test_the_split_of_a_group_is_the_same_in_every_release():
    assert [split_of("6f1ed002ab559585", seed) for seed in range(6)] == [
        *("validation", "test", "train", "train", "validation", "train")
    ]


def test_the_visit_order_is_that_of_the_ids_whatever_the_order_of_the_rows(source):
    order = [c.id for c in visit_order(source.candidates, 0)]
    assert order == [c.id for c in visit_order(source.candidates[::-1], 0)]
    assert order != [c.id for c in visit_order(source.candidates, 1)]
    assert sorted(order) == sorted(c.id for c in source.candidates)


def test_siblings_are_in_one_split(source):
    divided = divide(source.candidates, 0, "seeded")
    assert sum(map(len, divided.values())) == len(source.candidates)
    splits = defaultdict(set)
    for split, candidates in divided.items():
        for candidate in candidates:
            splits[candidate.group].add(split)
    assert len(splits) < len(source.candidates)  # there are siblings
    assert all(len(found) == 1 for found in splits.values())


@pytest.mark.parametrize("task", ROWS)
def test_no_group_of_any_task_is_in_two_splits(task, tmp_path):
    """Rows in families of three, as the real ones come."""
    definition = get_task(task)
    fields = definition.group or definition.key
    rows = []
    for i in range(240):
        row, first = ROWS[task](i), ROWS[task](i - i % 3)
        own = {name: f"{row[name]} {i}" for name in definition.key if isinstance(row[name], str)}
        rows.append(row | own | {name: first[name] for name in fields})
    source = load_source(definition, str(tiny.write_rows(tmp_path / "rows.jsonl", rows)))
    chosen = settings(task=definition, protocol=definition.protocol("aligned"))
    report = build_store(chosen, source, fake_engine(), tmp_path / "s.zarr")
    assert report.audit["counts"]["groups_across_splits"] == 0
    store = open_store(tmp_path / "s.zarr")
    groups = [set(store.column("group", split)) for split in SPLITS]
    assert sum(map(len, groups)) == len(set().union(*groups)) < len(store)
    for split, found in zip(SPLITS, groups, strict=True):
        assert store.manifest.splits[split]["groups"] == len(found)


@pytest.mark.parametrize(
    ("k", "pairs"),
    [
        (4, (2, 1, 1)),
        (5, (3, 1, 1)),
        (6, (3, 2, 1)),
        (7, (4, 2, 1)),
        (8, (4, 2, 2)),
        (10, (5, 3, 2)),
        (2000, (1000, 500, 500)),
    ],
)
def test_how_many_pairs_each_split_gets(k, pairs):
    assert tuple(pairs_wanted(k).values()) == pairs


def test_no_split_has_fewer_pairs_where_k_is_larger():
    pairs = np.array([list(pairs_wanted(k).values()) for k in range(4, 200)])
    assert (pairs.sum(1) == range(4, 200)).all()
    assert (np.diff(pairs, axis=0) >= 0).all()


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_k_that_leaves_a_split_without_a_pair_is_refused(k, source, tmp_path):
    with pytest.raises(SelectionError, match=rf"--per-class {k} leaves validation and test .* at least 4"):
        build_store(settings(per_class=k), source, fake_engine(), tmp_path / "s.zarr")


@pytest.mark.parametrize("k", [4, 11, 30])
def test_k_is_filled_exactly_by_the_first_pairs_in_visit_order(k, source, tmp_path):
    engine = fake_engine()
    build_store(settings(per_class=k), source, engine, tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    assert [store.count(split) for split in SPLITS] == [2 * pairs for pairs in pairs_wanted(k).values()]
    assert store.manifest.selection["k"] == k
    right = {}
    for candidate in source.candidates:
        record = engine.extract.record(TASK.request(candidate, PROTOCOL))
        right[candidate.id] = record.prediction == candidate.gold
    for split, candidates in divide(source.candidates, 0, "seeded").items():
        successes = [c.id for c in candidates if right[c.id]]
        failures = [c.id for c in candidates if not right[c.id]]
        pairs = store.count(split) // 2
        kept = [id for pair in zip(successes[:pairs], failures[:pairs], strict=True) for id in pair]
        assert store.column("id", split).tolist() == kept


def test_every_even_prefix_is_half_successes(source, tmp_path):
    build_store(settings(), source, fake_engine(), tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    for split in SPLITS:
        success = store.success(split)
        assert success.tolist() == [1, 0] * (len(success) // 2)
        assert store.column("success", split).tolist() == success.tolist()
    assert verify_store(tmp_path / "s.zarr").examples == len(store)


def test_max_keeps_the_pairs_that_each_split_has(source, tmp_path):
    engine = fake_engine()
    build_store(settings(), source, engine, tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    for split in SPLITS:
        counts = store.manifest.splits[split]
        assert counts["examples"] == 2 * min(counts["successes"], counts["failures"])
        assert counts["scanned"] == counts["successes"] + counts["failures"]
    assert sum(counts["scanned"] for counts in store.manifest.splits.values()) == len(source.candidates)


def test_what_was_scanned_is_counted_up_to_the_last_pair(source, tmp_path):
    """Whatever was extracted beyond: it depends on the size of blocks, and these counts do not."""
    build_store(settings(per_class=12), source, fake_engine(), tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    for split, candidates in divide(source.candidates, 0, "seeded").items():
        ids = [c.id for c in candidates]
        last = max(ids.index(id) for id in store.column("id", split))
        assert store.manifest.splits[split]["scanned"] == last + 1
    selection = store.manifest.selection
    assert selection["accuracy"] == selection["successes"] / selection["scanned"]
    assert sum(selection["answer_shares"]) == pytest.approx(1)


@pytest.mark.parametrize(("few", "many"), [(8, 30), (5, 7), (7, 12)])
def test_a_smaller_store_is_the_prefix_of_a_larger_one(few, many, source, tmp_path):
    found = []
    for k in (few, many):
        build_store(settings(per_class=k), source, fake_engine(), tmp_path / f"{k}.zarr")
        found.append(ids_of(open_store(tmp_path / f"{k}.zarr")))
    for split in SPLITS:
        assert found[0][split] == found[1][split][: len(found[0][split])]


@pytest.mark.parametrize("k", [160, 200, 500])
def test_a_source_that_runs_out_says_which_k_would_succeed_and_it_does(k, source, tmp_path):
    with pytest.raises(SelectionError) as error:
        build_store(settings(per_class=k), source, fake_engine(), tmp_path / "s.zarr")
    said = re.fullmatch(
        r"the source ran out: found pairs of a success and a failure: (\d+) in train, (\d+) in validation, "
        r"(\d+) in test; expected (\d+) in train, (\d+) in validation, (\d+) in test; "
        r"--per-class (\d+) or --per-class max would succeed",
        str(error.value),
    )
    assert said
    assert tuple(map(int, said.group(4, 5, 6))) == tuple(pairs_wanted(k).values())
    assert not (tmp_path / "s.zarr").exists()
    # What was scanned is kept, for the same command over more time or memory.
    assert (tmp_path / "s.zarr.partial").is_dir()
    advised = int(said[7])
    build_store(settings(per_class=advised), source, fake_engine(), tmp_path / "t.zarr")
    assert open_store(tmp_path / "t.zarr").manifest.selection["k"] == advised
    build_store(settings(), source, fake_engine(), tmp_path / "u.zarr")
    most = {split: n["examples"] // 2 for split, n in open_store(tmp_path / "u.zarr").manifest.splits.items()}
    for split, found in zip(SPLITS, said.group(1, 2, 3), strict=True):
        assert int(found) == min(most[split], pairs_wanted(k)[split])
    if k == 500:  # No split was full, so that all of what there is was known.
        larger = [pairs_wanted(more) for more in range(advised + 1, k)]
        assert all(any(most[split] < wanted[split] for split in SPLITS) for wanted in larger)


def test_a_model_that_answers_all_alike_has_no_pairs(source, tmp_path):
    engine = fake_engine()
    gold = {c.id: c.gold for c in source.candidates}

    def always_right(requests):
        return [replace(record, prediction=gold[record.id]) for record in engine.extract(requests)]

    with pytest.raises(SelectionError, match="the model gives every example of a split the same outcome"):
        build_store(settings(), source, replace(engine, extract=always_right), tmp_path / "s.zarr")


def test_a_split_without_a_row_is_refused(tmp_path):
    """One family alone: whatever the seed, two splits are empty."""
    rows = [{**row, "option1": "cup", "option2": "case"} for row in tiny.rows(20)]
    source = load_source(TASK, str(tiny.write_rows(tmp_path / "rows.jsonl", rows)))
    with pytest.raises(
        SelectionError, match="expected 1 in train, 1 in validation, 1 in test; no k can succ"
    ):
        build_store(settings(), source, fake_engine(), tmp_path / "s.zarr")


def published(folder, splits, count=60):
    rows = [{**row, "paper_split": splits[i % len(splits)]} for i, row in enumerate(tiny.rows(count))]
    return load_source(TASK, str(tiny.write_rows(folder / "rows.jsonl", rows)))


def test_published_splits_are_kept_and_crossing_groups_counted(tmp_path):
    splits = ["train", "test", "validation"]
    source = published(tmp_path, splits)
    report = build_store(settings(splits="published"), source, fake_engine(), tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    found = defaultdict(set)
    for example in store.examples():
        assert example.split == splits[example.source_row % 3]
        found[example.group].add(example.split)
    crossing = sum(len(of_group) > 1 for of_group in found.values())
    assert report.audit["counts"]["groups_across_splits"] == crossing > 0
    assert verify_store(tmp_path / "s.zarr").examples == len(store)


def test_published_splits_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(
        SourceError, match=r"row \d+ carries the split None; --splits published expects paper"
    ):
        build_store(settings(splits="published"), source_of(tmp_path), fake_engine(), tmp_path / "s.zarr")
    other = published(tmp_path, ["train", "dev"])
    with pytest.raises(SourceError, match=r"carries the split 'dev'.*one of: train, validation, test"):
        build_store(settings(splits="published"), other, fake_engine(), tmp_path / "s.zarr")


def test_published_splits_without_a_test_split_are_refused(tmp_path):
    source = published(tmp_path, ["train", "validation"])
    with pytest.raises(SelectionError, match=r"0 in test; expected 1 in train, 1 in validation, 1 in test"):
        build_store(settings(splits="published"), source, fake_engine(), tmp_path / "s.zarr")


@given(
    outcomes=st.lists(st.booleans(), min_size=2, max_size=60),
    pairs=st.none() | st.integers(1, 12),
    block=st.integers(1, 9),
    behind=st.integers(0, 4),
)
def test_what_is_kept_was_wanted_however_little_was_known(outcomes, pairs, block, behind):
    """A block that is given out while ``behind`` blocks before it are out keeps all that a split may want."""
    wanted, tally = [], Tally(pairs, len(outcomes))
    for start in range(0, len(outcomes), block):
        known = Tally(pairs, len(outcomes))
        for outcome in outcomes[: max(0, start - behind * block)]:
            known.visit(outcome)
        wanted += known.keep().wanted(outcomes[start : start + block])
    for outcome in outcomes:
        tally.visit(outcome)
    assert all(wanted[position] for position in tally.rows(0))
    if pairs is not None and not behind:
        assert sum(wanted) <= 2 * pairs + block


@given(outcomes=st.lists(st.booleans(), max_size=60), pairs=st.none() | st.integers(1, 12))
def test_rows_are_final_once_their_pair_is_complete(outcomes, pairs):
    tally, rows = Tally(pairs, len(outcomes)), []
    for outcome in outcomes:
        waiting, before = set(tally.waiting()), tally.pairs
        tally.visit(outcome)
        new = tally.rows(before)
        assert tally.rows(0)[: len(rows)] == rows
        assert set(new) - {tally.seen - 1} <= waiting
        rows += new
        assert tally.rows(0) == rows
    assert [outcomes[position] for position in rows] == [True, False] * tally.pairs
    assert tally.scanned <= len(outcomes)
    if tally.full:
        assert tally.scanned == max(rows) + 1
