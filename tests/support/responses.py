"""Answers that nobody wrote: an engine, rows and settings for stores of responses."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from tests.support import tiny
from tests.support.fake_engine import fake_engine
from wif_store.builder.plan import Settings
from wif_store.format.schema import FINAL_TOKEN, PROMPT_END
from wif_store.records import Written
from wif_store.tasks.base import Generation
from wif_store.tasks.own_rows import own_rows
from wif_store.tasks.rows import load_source

LAYERS, SEQUENCE_LAYERS = 3, 2
ANSWERS = ("Yes, yes.", "no")


def record(request):
    """A made-up answer: of some tokens, right or wrong, or none at all."""
    made = fake_engine(layers=LAYERS, sequence_layers=SEQUENCE_LAYERS).extract.record(request)
    digest = hashlib.sha256(request.id.encode()).digest()
    written = digest[9] % len(made.token_ids)
    end = made.final_token.copy()
    if written:
        end = np.roll(end, 1, axis=1)
        end[:SEQUENCE_LAYERS] = made.sequence[:, -1 - written]
    text = ANSWERS[digest[10] % 2] if written else ""
    return replace(
        made,
        prompt=request.pairs[0][0],
        logprobs=made.logprobs[:1] * written,
        prediction=0,
        choice_tokens=np.array([written], np.int32),
        prompt_end=end,
        written=Written(
            text,
            "stop" if digest[11] % 2 else "length",
            ("yes yes", "no", "maybe"),
            least_logprob=made.logprobs[0] / 2 * bool(written),
        ),
    )


def responding(extract=lambda requests: [record(request) for request in requests]):
    """An engine that writes those answers."""
    engine = fake_engine(layers=LAYERS, sequence_layers=SEQUENCE_LAYERS)
    model = {**engine.model, "id": "google/gemma-2-2b", "kind": "hub"}
    return replace(engine, extract=extract, model=model, sites=(FINAL_TOKEN, PROMPT_END))


def questions(folder, count=100):
    """Rows that say which answers are right: where they are."""
    rows = [
        {"prompt": f"Is {i} " + "very " * (i % 5) + "odd?", "targets": ["yes yes", "1"]} for i in range(count)
    ]
    return tiny.write_rows(folder / "questions.jsonl", rows)


def settings_of(path, **generation):
    task = own_rows(str(path))
    protocol = task.protocols[0]
    if generation:
        protocol = replace(protocol, generation=Generation(**generation))
    return Settings(task, protocol, per_class=None), load_source(task, str(path))
