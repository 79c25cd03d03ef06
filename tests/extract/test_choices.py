"""Choice log-likelihoods equal those of one plain forward pass per choice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support import tiny
from wif_store.extract.batching import BatchLimits, plan_batches
from wif_store.extract.engine import open_engine
from wif_store.tasks.base import Protocol, Request

CASES = [
    ("the cat went home because it was", (" large", " too small for the old table", " red")),
    ("Question: is the trophy larger than the suitcase?\nAnswer:", (" yes", " no")),
    ("cook", (" the dinner slowly on the table, number twelve", " a")),
    ("After dinner, " * 12 + "the dog", (" was too large for the house.", " did not fit.")),
    ("The end of this context is ", ("joined", "apart")),
]


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
        want = [tiny.plain_logprob(model, tokenizer, context, text) for text in texts]
        np.testing.assert_allclose(record.logprobs, want, atol=2e-4)
        assert record.prediction == int(np.argmax(want))
        read = context.rstrip() if site == "context" else context + texts[record.prediction]
        assert record.prompt == read
        assert record.token_ids.tolist() == tokenizer(read).input_ids


def test_batches_hold_every_row_once_within_the_budget():
    lengths = [5, 90, 3, 3, 40, 200, 1]
    batches = list(plan_batches(lengths, BatchLimits(tokens=100, examples=3)))
    assert sorted(i for batch in batches for i in batch) == list(range(7))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 100
        assert len(batch) <= 3
