"""Texts become the tokens that the harness would score; what cannot be encoded is said in one line."""

from __future__ import annotations

import pytest
import torch

from tests.support import tiny
from wif_store.errors import ModelError, SourceError, TaskError
from wif_store.extract.checkpoint import load_tokenizer, locate
from wif_store.extract.engine import Opener, open_engine
from wif_store.extract.model import load
from wif_store.extract.tokenize import Encoder
from wif_store.tasks import get_task
from wif_store.tasks.base import Protocol, Request

PROTOCOL = Protocol("aligned", context="{x}", continuation=" {choice}")


@pytest.fixture
def tokenizer(tiny_models):
    return load_tokenizer(locate(str(tiny_models("llama"))), trust_remote_code=False)


def encoder_of(tokenizer, *, context_length=512, vocabulary=512, protocol=PROTOCOL):
    return Encoder(tokenizer, protocol, context_length=context_length, vocabulary=vocabulary)


def test_a_token_that_merges_across_the_boundary_is_cut_where_the_harness_cuts_it(tokenizer):
    context, continuation = "the suit", "case was red"
    encoded = encoder_of(tokenizer)([Request("x", ((context, continuation), (context, " of")), None)])[0]
    whole = tokenizer(context + continuation).input_ids
    assert len(
        tokenizer(context).input_ids + tokenizer(continuation, add_special_tokens=False).input_ids
    ) != len(whole)
    assert encoded.contexts[0] == tokenizer(context).input_ids
    assert encoded.continuations[0] == whole[len(encoded.contexts[0]) :]


def test_a_choice_without_tokens_is_refused(tokenizer):
    with pytest.raises(SourceError, match=r"example x: choice 2 \(''\) has no tokens"):
        encoder_of(tokenizer)([Request("x", (("the cat", " a"), ("the cat", "")), None)])


def test_a_text_longer_than_the_context_is_refused(tokenizer):
    long = Request("long", (("the cat " * 20, " a"), ("the cat " * 20, " b")), None)
    with pytest.raises(SourceError, match=r"example long has \d+ tokens; the model reads at most 8"):
        encoder_of(tokenizer, context_length=8)([long])


def test_long_requests_are_told_from_others_before_they_are_run(tiny_models):
    engine = open_engine(str(tiny_models("llama")), PROTOCOL, device="cpu")
    long = Request("long", (("the cat " * 400, " a"), ("the cat", " b")), None)
    short = Request("short", (("the cat", " a"), ("the cat", " b")), None)
    read = Request("read", (("the cat", " a"), ("the cat", " b")), "the cat " * 400)
    assert engine.extract.too_long([short, long, read]) == [False, True, True]
    assert [record.id for record in engine.extract([short])] == ["short"]


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    folder = tiny.save_model("llama", tmp_path / "m")
    tokenizer = load_tokenizer(locate(str(folder)), trust_remote_code=False)
    tokenizer.add_tokens([f"zz{n}" for n in range(512 - len(tokenizer) + 26)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"model m has 26 tokens beyond the 512 .*belongs to another model"):
        load(locate(str(folder)), device="cpu", dtype="float32")


def test_a_special_token_without_an_embedding_is_refused_where_it_is_used(tmp_path):
    folder = tiny.save_model("llama", tmp_path / "m")
    tokenizer = load_tokenizer(locate(str(folder)), trust_remote_code=False)
    tokenizer.add_tokens([f"zz{n}" for n in range(512 - len(tokenizer))])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})  # as Gemma 3's text models have
    tokenizer.save_pretrained(folder)
    engine = open_engine(str(folder), PROTOCOL, dtype="float32", device="cpu")
    engine.extract([Request("plain", (("the cat", " a"), ("the cat", " b")), None)])
    with pytest.raises(ModelError, match=r"example odd: the tokenizer gives token 512 \('<image>'\)"):
        engine.extract([Request("odd", (("the <image> cat", " a"), ("the cat", " b")), None)])


def test_a_tokenizer_without_start_and_end_tokens_cannot_score_whole_texts(tmp_path):
    folder = tiny.save_model("llama", tmp_path / "m", special=False)
    task = get_task("boolq")
    opener = Opener(str(folder), dtype="float32", device="cpu")
    with pytest.raises(TaskError, match="protocol paper scores texts that have no context"):
        opener(task.protocol("paper"))
    assert opener(task.protocol("mcq")).extract.protocol.name == "mcq"
    engine = open_engine(str(folder), PROTOCOL, dtype="float32", device="cpu")
    engine.extract([Request("plain", (("the cat", " a"), ("the cat", " b")), None)])
    with pytest.raises(TaskError, match="neither a start nor an end token"):
        engine.extract([Request("bare", (("", " a"), ("", " b")), None)])


def test_the_mass_of_the_answers_is_the_probability_of_going_on_with_one(tiny_models):
    folder = tiny_models("llama")
    engine = open_engine(str(folder), PROTOCOL, dtype="float32", device="cpu")
    tokenizer, model = engine.extract.model.tokenizer, tiny.plain_model(folder, torch.float32)
    answers = (" red", " blue", " red", " red table")
    [record] = engine.extract([Request("x", tuple(("the cat was", a) for a in answers), None)])
    context = tokenizer("the cat was").input_ids
    assert len(tokenizer("the cat was red").input_ids) == len(context) + 1
    want = sum(np_exp(tiny.plain_logprob(model, tokenizer, "the cat was", a)) for a in (" red", " blue"))
    assert record.answer_mass == pytest.approx(want, rel=1e-3)


def np_exp(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float64).exp())


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol("aligned", context="{before}{choice}", continuation=" {ending}", site="preferred"),
        Protocol("paper", context="{x}", continuation="{choice}", scale_by_length=True),
    ],
)
def test_answers_that_do_not_follow_one_context_have_no_mass(protocol, tiny_models):
    engine = open_engine(str(tiny_models("llama")), protocol, dtype="float32", device="cpu")
    second = "the dog" if protocol.site == "preferred" else "the cat"
    [record] = engine.extract([Request("x", (("the cat", " was red"), (second, " was blue")), None)])
    assert record.answer_mass != record.answer_mass
