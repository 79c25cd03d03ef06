"""What a sequence gives does not depend on how long its neighbours are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support import tiny
from wif_store.errors import ModelError, SourceError
from wif_store.extract.checkpoint import locate
from wif_store.extract.engine import open_engine
from wif_store.extract.model import load
from wif_store.extract.trials import as_decoder
from wif_store.tasks.base import Protocol, Request

SWITCH = 65
"""From this length on the tiny longrope model uses its other frequencies."""

SHORT = "the cat did not fit the table because it was"
LONG = "After dinner, the cat did not fit the old blue house number twelve. " * 2 + "It was"
ANSWERS = (" large.", " too small for the table and the suitcase.", " very" * 60 + " red.")
"""Of two short ones and one that is long by itself."""


def requests(site: str) -> list[Request]:
    made = []
    for number, context in enumerate((SHORT, LONG, "cook", SHORT + " red and")):
        answers = ANSWERS if number != 2 else ANSWERS[:2]
        prompt = (LONG, SHORT)[number % 2] if site == "prompt" else None
        made.append(Request(str(number), tuple((context, answer) for answer in answers), prompt))
    return made


def relative(found: np.ndarray, want: np.ndarray) -> float:
    return float(np.max(np.linalg.norm(found - want, axis=-1) / np.linalg.norm(want, axis=-1)))


@pytest.fixture(scope="module")
def longrope(tiny_models):
    folder = tiny_models("longrope")
    return folder, tiny.plain_model(folder, torch.float32)


@pytest.mark.parametrize("trees", [True, False])
@pytest.mark.parametrize("site", ["context", "preferred", "prompt"])
def test_every_number_is_what_the_sequence_gives_by_itself(site, trees, longrope):
    folder, model = longrope
    protocol = Protocol("aligned", context="{x}", continuation=" {choice}", site=site)
    engine = open_engine(
        str(folder), protocol, sequence_layers="all", dtype="float32", device="cpu", batch_tokens=100_000
    )
    extract, tokenizer = engine.extract, engine.extract.model.tokenizer
    assert extract.model.decoder.switch == SWITCH
    extract.model.decoder.trees = trees
    lengths = [
        len(c) + len(t)
        for r in extract.encoder(requests(site))
        for c, t in zip(r.contexts, r.continuations, strict=True)
    ]
    assert min(lengths) < SWITCH < max(lengths)
    for record, request in zip(extract(requests(site)), requests(site), strict=True):
        want = [tiny.plain_logprob(model, tokenizer, *pair) for pair in request.pairs]
        # A sequence of which the last token is read runs one token more than the harness does.
        atol = 2e-4
        if site != "preferred" or all(len(tokenizer(a + b).input_ids) != SWITCH for a, b in request.pairs):
            np.testing.assert_allclose(record.logprobs, want, atol=atol)
        hooked = tiny.hooked_residuals(model, record.token_ids).numpy()
        assert relative(record.sequence, hooked) < 1e-5
        np.testing.assert_array_equal(record.final_token, record.sequence[:, -1])


def test_without_keeping_lengths_apart_numbers_would_be_others(longrope):
    protocol = Protocol("aligned", context="{x}", continuation=" {choice}")
    engine = open_engine(str(longrope[0]), protocol, sequence_layers="1", dtype="float32", device="cpu")
    apart = engine.extract(requests("context"))
    engine.extract.model.decoder.switch = None
    mixed = engine.extract(requests("context"))
    gaps = [relative(a.sequence, b.sequence) for a, b in zip(apart, mixed, strict=True)]
    assert max(gaps) > 0.01


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_most_models_compute_every_length_alike(architecture, tiny_models):
    decoder = load(locate(str(tiny_models(architecture))), device="cpu", dtype="bfloat16").decoder
    assert (decoder.switch, decoder.longest) == (None, None)


@pytest.mark.parametrize("guess", [64, 200, None])
def test_the_switch_is_found_whatever_the_configuration_says(guess, longrope):
    model = load(locate(str(longrope[0])), device="cpu", dtype="bfloat16")
    config = type(model.causal_lm.config)(**model.causal_lm.config.to_dict())
    config.rope_parameters = {"original_max_position_embeddings": guess} if guess else {}
    found = as_decoder(model.decoder.module, config, model.layers[-1], 512)
    assert (found.switch, found.longest) == (SWITCH, None)


def test_a_decoder_that_takes_no_positions_is_believed(longrope, monkeypatch):
    from wif_store.extract import trials

    monkeypatch.setattr(trials, "_takes_trees", lambda decoder, alone: False)
    model = load(locate(str(longrope[0])), device="cpu", dtype="float32")
    assert not model.decoder.trees
    assert model.decoder.switch == SWITCH


def test_dynamic_scaling_ends_the_context_where_it_begins(tiny_models):
    folder = tiny_models("dynamic")
    model = load(locate(str(folder)), device="cpu", dtype="float32")
    assert model.context_length == 64
    # As if the model claimed to read longer texts, each of which would change the frequencies of all others.
    found = as_decoder(model.decoder.module, model.causal_lm.config, model.layers[-1], 512)
    assert (found.switch, found.longest) == (None, 64)
    protocol = Protocol("aligned", context="{x}", continuation=" {choice}")
    engine = open_engine(str(folder), protocol, dtype="float32", device="cpu")
    long, short = requests("context")[:2][::-1]
    assert engine.extract.too_long([long, short]) == [True, True]
    with pytest.raises(SourceError, match="reads at most 64"):
        engine.extract([long])


def test_a_model_that_keeps_what_a_long_row_set_is_refused(tiny_models, monkeypatch):
    model = load(locate(str(tiny_models("llama"))), device="cpu", dtype="float32")
    rotary = type(model.decoder.module.rotary_emb)
    forward, longest = rotary.forward, 0

    def remembering(self, x, position_ids):
        nonlocal longest
        longest = max(longest, int(position_ids.max()))
        cos, sin = forward(self, x, position_ids)
        return (cos * 0.5, sin) if longest > 100 else (cos, sin)

    monkeypatch.setattr(rotary, "forward", remembering)
    with pytest.raises(ModelError, match="depend on other rows of a batch, or on what was run before"):
        as_decoder(model.decoder.module, model.causal_lm.config, model.layers[-1], 512)


def test_states_are_compared_where_no_rotary_embedding_can_be_looked_at(tiny_models, monkeypatch):
    model = load(locate(str(tiny_models("gpt2"))), device="cpu", dtype="float32")
    module = model.decoder.module
    forward = type(module).forward

    def switching(self, *args, position_ids=None, **kwargs):
        out = forward(self, *args, position_ids=position_ids, **kwargs)
        if position_ids is not None and int(position_ids.max()) >= 99:
            out = replace(out, last_hidden_state=out.last_hidden_state.flip(-1))
        return out

    monkeypatch.setattr(type(module), "forward", switching)
    found = as_decoder(module, model.causal_lm.config, model.layers[-1], 512)
    assert (found.switch, found.longest) == (100, None)
