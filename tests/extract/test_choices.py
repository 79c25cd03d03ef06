"""Choice log-likelihoods equal those of one plain forward pass per choice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support import tiny
from wif_store.errors import SourceError
from wif_store.extract.batching import BatchLimits, plan_batches
from wif_store.extract.engine import open_engine
from wif_store.extract.tokenize import Encoder
from wif_store.tasks.base import Protocol, Request

PROTOCOL = Protocol("aligned", context="{x}", continuation=" {choice}")

CASES = [
    ("the cat went home because it was", (" large", " too small for the old table", " red")),
    ("Question: is the trophy larger than the suitcase?\nAnswer:", (" yes", " no")),
    ("cook", (" the dinner slowly on the table, number twelve", " a")),
    ("After dinner, " * 12 + "the dog", (" was too large for the house.", " did not fit.")),
    ("The end of this context is ", ("joined", "apart")),
]


def plain(model, tokenizer, context, continuation):
    """Log-likelihood by the harness's rule, computed the long way."""
    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    whole = tokenizer(stripped + continuation).input_ids
    begin = len(tokenizer(stripped).input_ids)
    with torch.inference_mode():
        logprobs = model(torch.tensor([whole])).logits[0].float().log_softmax(-1)
    return sum(float(logprobs[i - 1, whole[i]]) for i in range(begin, len(whole)))


@pytest.mark.parametrize("limits", [{}, {"batch_tokens": 1}, {"batch_size": 2}])
@pytest.mark.parametrize("site", ["context", "preferred"])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_equal_to_one_pass_per_choice(architecture, site, limits, tiny_models):
    folder = tiny_models(architecture)
    protocol = Protocol("aligned", context="{x}", continuation=" {choice}", site=site)
    engine = open_engine(str(folder), protocol, dtype="float32", device="cpu", **limits)
    model = tiny.plain_model(folder, torch.float32)
    tokenizer = engine.extract.model.tokenizer
    requests = [Request(str(i), tuple((c, t) for t in texts), None) for i, (c, texts) in enumerate(CASES)]
    for record, (context, texts) in zip(engine.extract(requests), CASES, strict=True):
        want = [plain(model, tokenizer, context, text) for text in texts]
        np.testing.assert_allclose(record.logprobs, want, atol=2e-4)
        assert record.prediction == int(np.argmax(want))
        read = context.rstrip() if site == "context" else context + texts[record.prediction]
        assert record.prompt == read
        assert record.token_ids.tolist() == tokenizer(read).input_ids


def test_a_token_that_merges_across_the_boundary_is_cut_where_the_harness_cuts_it(tiny_models):
    tokenizer = open_engine(str(tiny_models("llama")), PROTOCOL, device="cpu").extract.model.tokenizer
    encoder = Encoder(tokenizer, PROTOCOL, 512)
    context, continuation = "the suit", "case was red"
    encoded = encoder([Request("x", ((context, continuation), (context, " of")), None)])[0]
    whole = tokenizer(context + continuation).input_ids
    assert len(
        tokenizer(context).input_ids + tokenizer(continuation, add_special_tokens=False).input_ids
    ) != len(whole)
    assert encoded.contexts[0] == tokenizer(context).input_ids
    assert encoded.continuations[0] == whole[len(encoded.contexts[0]) :]


def test_a_choice_without_tokens_is_refused(tiny_models):
    encoder = Encoder(
        open_engine(str(tiny_models("llama")), PROTOCOL, device="cpu").extract.model.tokenizer, PROTOCOL, 512
    )
    with pytest.raises(SourceError, match=r"example x: choice 2 \(''\) has no tokens"):
        encoder([Request("x", (("the cat", " a"), ("the cat", "")), None)])


def test_a_text_longer_than_the_context_is_refused(tiny_models):
    encoder = Encoder(
        open_engine(str(tiny_models("llama")), PROTOCOL, device="cpu").extract.model.tokenizer, PROTOCOL, 8
    )
    with pytest.raises(SourceError, match="reads at most 8"):
        encoder([Request("x", (("the cat " * 20, " a"), ("the cat " * 20, " b")), None)])


def test_batches_hold_every_row_once_within_the_budget():
    lengths = [5, 90, 3, 3, 40, 200, 1]
    batches = list(plan_batches(lengths, BatchLimits(tokens=100, examples=3)))
    assert sorted(i for batch in batches for i in batch) == list(range(7))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 100
        assert len(batch) <= 3
