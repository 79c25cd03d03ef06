"""Blocks run one behind the other give what each gives by itself, however far ahead the device is."""

from __future__ import annotations

import threading
from itertools import chain, pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wif_store.errors import SourceError
from wif_store.extract import batching
from wif_store.extract.batching import BatchLimits, plan_batch_groups, plan_batches
from wif_store.extract.engine import open_engine
from wif_store.tasks import get_task
from wif_store.tasks.base import Request
from wif_store.tasks.rows import load_source

TASK = get_task("winogrande")


@pytest.fixture
def engine(tiny_models):
    protocol = TASK.protocol("aligned")
    return open_engine(
        str(tiny_models("gemma2")), protocol, sequence_layers="1,3", batch_size=3, device="cpu"
    )


@pytest.fixture
def blocks(rows_file):
    candidates = load_source(TASK, str(rows_file)).candidates
    requests = [TASK.request(c, TASK.protocol("aligned")) for c in candidates]
    return [requests[:7], requests[7:8], requests[8:20], []]


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("held", [1, 100, 10**6])
def test_a_stream_is_its_blocks(engine, blocks, depth, held, monkeypatch):
    monkeypatch.setattr(batching, "HELD_TOKENS", held)
    apart = [engine.extract(block) for block in blocks]
    # On CUDA groups are collected late, across blocks, in another thread; here the same code does so.
    monkeypatch.setattr(engine.extract._side, "depth", depth)
    together = list(engine.extract.stream(blocks))
    assert [[r.id for r in block] for block in together] == [[r.id for r in block] for block in blocks]
    for one, other in zip(chain(*apart), chain(*together), strict=True):
        np.testing.assert_array_equal(one.logprobs, other.logprobs)
        np.testing.assert_array_equal(one.final_token, other.final_token)
        np.testing.assert_array_equal(one.sequence, other.sequence)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_block_is_given_back_before_the_next_one_is_done(engine, blocks, depth, monkeypatch):
    monkeypatch.setattr(batching, "HELD_TOKENS", 1)
    monkeypatch.setattr(engine.extract._side, "depth", depth)
    launch, launched = engine.extract._launch, []

    def launching(works, batches, records, budget):
        launched.append(sum(map(len, batches)))
        return launch(works, batches, records, budget)

    monkeypatch.setattr(engine.extract, "_launch", launching)
    stream = engine.extract.stream([blocks[0], blocks[2]])
    next(stream)
    assert sum(launched[:3]) == len(blocks[0])
    # The other thread may collect the last one before this one looks.
    assert 3 <= len(launched) <= 3 + depth
    stream.close()


@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 90)), max_size=60))
def test_groups_are_the_batches_in_turn_and_no_larger_than_needed(rows):
    lengths, states = [n for n, _ in rows], [min(row) for row in rows]
    groups = list(plan_batch_groups(lengths, states, BatchLimits(512, 8)))
    assert list(chain(*groups)) == list(plan_batches(lengths, BatchLimits(512, 8)))
    full = [
        sum(states[i] for i in chain(*group)) >= batching.SCORED_STATES
        or sum(lengths[i] for i in chain(*group)) >= batching.HELD_TOKENS
        for group in groups
    ]
    assert all(full[:-1])
    for group in groups:
        before = [*chain(*group[:-1])]
        assert sum(states[i] for i in before) < batching.SCORED_STATES
        assert sum(lengths[i] for i in before) < batching.HELD_TOKENS


@given(st.lists(st.integers(1, 90), min_size=1, max_size=9), st.sampled_from([0, 4, 40]))
def test_batches_cost_least_of_all_ways_to_cut_the_length_order(lengths, overhead):
    limits = BatchLimits(tokens=128, examples=4, overhead=overhead)
    found = list(plan_batches(lengths, limits))
    order = list(chain(*found))
    assert order == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))

    def cost(batches):
        return sum(max(lengths[i] for i in b) * len(b) + overhead for b in batches)

    def fits(batch):
        return len(batch) == 1 or (len(batch) <= 4 and lengths[batch[0]] * len(batch) <= 128)

    ways = []
    for cuts in product((False, True), repeat=len(order) - 1):
        places = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(order)]
        batches = [order[a:b] for a, b in pairwise(places)]
        if all(map(fits, batches)):
            ways.append(cost(batches))
    assert all(map(fits, found))
    assert cost(found) == min(ways)


def test_no_rows_make_no_batches():
    assert list(plan_batches([], BatchLimits(512, 8))) == []


def test_the_next_block_is_encoded_in_another_thread(engine, blocks, monkeypatch):
    encoder, threads = engine.extract.encoder, []

    def encode(requests):
        threads.append(threading.current_thread())
        return encoder(requests)

    monkeypatch.setattr(engine.extract, "encoder", encode)
    stream = engine.extract.stream(blocks)
    next(stream)
    assert len(threads) == 2
    assert threading.main_thread() not in threads
    stream.close()


def test_what_cannot_be_encoded_is_said_in_its_turn(engine, blocks):
    bad = Request("bad", (("the cat", ""), ("the cat", " a")), None)
    stream = engine.extract.stream([blocks[0], [bad]])
    assert len(next(stream)) == 7
    with pytest.raises(SourceError, match="example bad: choice 1"):
        next(stream)
