"""Sequences that begin alike run as one row, and come out as if each had run alone."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import tiny
from wif_store.extract.checkpoint import locate
from wif_store.extract.engine import open_engine
from wif_store.extract.model import load
from wif_store.extract.trees import grow, pad
from wif_store.extract.trials import as_decoder
from wif_store.tasks.base import Protocol, Request

sequences = st.lists(st.lists(st.integers(0, 2), max_size=9), min_size=1, max_size=4)


@given(sequences)
def test_every_sequence_is_a_path(given):
    tree = grow(given)
    for sequence, path in zip(given, tree.paths, strict=True):
        assert [tree.tokens[i] for i in path] == sequence
        assert [tree.depth[i] for i in path] == list(range(len(sequence)))
    assert len(tree) <= sum(map(len, given))


@settings(deadline=None)
@given(st.lists(sequences.filter(any), min_size=1, max_size=3), st.sampled_from([None, 1, 3]))
def test_a_token_sees_its_own_path_and_nothing_else(examples, window):
    trees = [grow(example) for example in examples]
    rows = pad(trees, torch.device("cpu"))
    seen = rows.mask(window, torch.float32)[:, 0] == 0
    for row, tree in enumerate(trees):
        want = np.zeros((len(tree), seen.shape[-1]), bool)
        for path in tree.paths:
            for depth, position in enumerate(path):
                want[position, path[max(0, depth + 1 - (window or depth + 1)) : depth + 1]] = True
        np.testing.assert_array_equal(seen[row, : len(tree)].numpy(), want)
    assert rows.nodes.tolist() == [
        row * seen.shape[-1] + column for row, tree in enumerate(trees) for column in range(len(tree))
    ]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_every_architecture_takes_trees(architecture, tiny_models):
    decoder = load(locate(str(tiny_models(architecture))), device="cpu", dtype="bfloat16").decoder
    assert decoder.trees


@pytest.mark.parametrize("architecture", ["gemma2", "llama"])
def test_a_decoder_that_takes_no_trees_runs_each_sequence_by_itself(architecture, tiny_models, monkeypatch):
    protocol = Protocol("aligned", context="{x}", continuation=" {choice}", site="preferred")
    shared = "After dinner, the cat did not fit the old blue house because it"
    request = Request("x", ((shared, " was large."), (shared, " was too small.")), None)

    def records():
        engine = open_engine(str(tiny_models(architecture)), protocol, dtype="float32", device="cpu")
        return engine.extract.model.decoder.trees, engine.extract([request])[0]

    trees, together = records()
    assert trees
    module = type(load(locate(str(tiny_models(architecture))), device="cpu", dtype="float32").decoder.module)
    forward = module.forward

    def no_trees(self, *args, position_ids=None, **kwargs):
        """Ignores the positions it is given, as a model with positions of its own would."""
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(module, "forward", no_trees)
    trees, apart = records()
    assert not trees
    assert together.cost < apart.cost
    np.testing.assert_allclose(together.logprobs, apart.logprobs, atol=1e-4)
    np.testing.assert_allclose(together.final_token, apart.final_token, rtol=1e-4, atol=1e-5)


def test_layers_of_an_unknown_kind_take_no_trees(tiny_models):
    model = load(locate(str(tiny_models("qwen2"))), device="cpu", dtype="float32")
    config = deepcopy(model.causal_lm.config)
    assert as_decoder(model.decoder.module, config, model.layers[-1]).trees
    config.layer_types = ["linear_attention", *config.layer_types[1:]]
    assert not as_decoder(model.decoder.module, config, model.layers[-1]).trees
