"""Answers that a model writes are those of a plain greedy loop, cut where they end, read as they stand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.support import tiny
from tests.support.command import run
from wif_store.errors import ModelError, SourceError
from wif_store.extract import writing
from wif_store.extract.engine import open_engine
from wif_store.tasks.base import Generation, Protocol, Request
from wif_store.tasks.own_rows import own_rows
from wif_store.tasks.rows import load_source

PROMPTS = (
    "the cat went home because it was",
    "Question: is the trophy larger than the suitcase?\nAnswer:",
    "cook",
    "After dinner, " * 12 + "the dog",
    "a ",
)
EOS = 1


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny models are quicker without threads that wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def opened(folder, *, batch=None, **generation):
    """An engine that has a model write."""
    protocol = Protocol("response", "{x}", "", site="response", generation=Generation(**generation))
    return open_engine(
        str(folder), protocol, dtype="float32", device="cpu", sequence_layers="1,3", **batch or {}
    )


def write(engine, prompts):
    return engine.extract([Request(str(n), ((prompt, ""),)) for n, prompt in enumerate(prompts)])


def after_prompt(engine, prompt, record):
    """The tokens of the answer; the prompt's own stand before them."""
    ids, begin = record.token_ids.tolist(), engine.extract.model.tokenizer(prompt).input_ids
    assert ids[: len(begin)] == begin
    assert record.choice_tokens.tolist() == [len(ids) - len(begin)]
    return ids[len(begin) :]


def greedy(model, ids, begin, count, ends=(EOS,)):
    """Why a plain greedy loop ends, if it writes what follows the prompt in ``ids``; else None.

    One pass without a cache does for the whole loop: each token has to be the likeliest after those before.
    """
    with torch.inference_mode():
        likeliest = model(torch.tensor([ids])).logits[0].argmax(-1).tolist()
    if ids[begin:] != likeliest[begin - 1 : -1] or set(ends) & set(ids[begin:]):
        return None
    return "length" if len(ids) == begin + count else "stop" if likeliest[-1] in ends else None


@pytest.fixture(scope="module")
def scripted(tiny_models, tmp_path_factory):
    """Makes a model that answers after the token ``last`` with a text whose tokens are all different."""
    tokenizer = tiny.tokenizer(tmp_path_factory.mktemp("tokenizer"))
    made = {}

    def make(scripts):
        key = tuple(scripts.items())
        if key in made:
            return made[key]

        def change(weights):
            after = {}
            for last, text in scripts.items():
                chain = [tokenizer(t, add_special_tokens=False).input_ids for t in (last, text)]
                chain = [chain[0][-1], *chain[1], EOS]
                assert len(set(chain)) == len(chain)
                for token, following in pairwise(chain):
                    assert after.setdefault(token, following) == following
            assert len(after) <= 32
            changed = {k: torch.zeros_like(v) if "proj" in k else v for k, v in weights.items()}
            embedding, head = changed["model.embed_tokens.weight"], changed["lm_head.weight"]
            head.zero_()
            changed["model.norm.weight"].fill_(1.0)
            for number, (token, following) in enumerate(after.items()):
                embedding[token] = torch.eye(32)[number]
                head[following, number] += 5.0
            return changed

        folder = tiny.save_model("llama", tmp_path_factory.mktemp("scripted"))
        made[key] = tiny.change_weights(folder, change)
        return made[key]

    return make


@pytest.mark.parametrize(
    ("architecture", "batch"),
    [
        *((name, {}) for name in tiny.ARCHITECTURES),
        ("gemma3", {"batch_size": 2}),
        ("gpt2", {"batch_tokens": 1}),
    ],
)
def test_what_is_written_is_what_a_plain_greedy_loop_writes(architecture, batch, tiny_models):
    """The longest go through three rounds: up to 16 tokens, to 48, and to the end."""
    engine = opened(tiny_models(architecture), batch=batch, max_new_tokens=53)
    model = tiny.plain_model(tiny_models(architecture), torch.float32)
    for prompt, record in zip(PROMPTS, write(engine, PROMPTS), strict=True):
        tokens, ids = after_prompt(engine, prompt, record), record.token_ids.tolist()
        assert record.written.finish_reason == greedy(model, ids, len(ids) - len(tokens), 53)
        text = engine.extract.model.tokenizer.decode(tokens, skip_special_tokens=True)
        assert (record.written.text, record.written.others, record.prompt) == (text, (), prompt)
        with torch.inference_mode():
            log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        by_token = [float(log_probs[i - 1, ids[i]]) for i in range(len(ids) - len(tokens), len(ids))]
        assert record.logprobs[0] == pytest.approx(sum(by_token), abs=1e-3)
        assert record.written.least_logprob == pytest.approx(min(by_token, default=0), abs=1e-4)


def test_rounds_write_what_one_go_writes(tiny_models, monkeypatch):
    engine = opened(tiny_models("llama"), max_new_tokens=90)
    ids = [record.token_ids.tolist() for record in write(engine, PROMPTS)]
    for first in (5, 90):
        monkeypatch.setattr(writing, "FIRST_ROUND", first)
        assert [record.token_ids.tolist() for record in write(engine, PROMPTS)] == ids


@pytest.mark.parametrize(
    "own",
    [{"do_sample": True, "temperature": 0.6, "top_k": 5}, {"num_beams": 3}, {"repetition_penalty": 5.0}],
    ids=lambda own: "-".join(own),
)
def test_the_likeliest_token_is_taken_whatever_the_model_would_do_by_itself(own, tiny_models):
    engine = opened(tiny_models("llama"), max_new_tokens=20)
    want = [record.token_ids.tolist() for record in write(engine, PROMPTS)]
    for name, value in own.items():
        setattr(engine.extract.model.causal_lm.generation_config, name, value)
    assert [record.token_ids.tolist() for record in write(engine, PROMPTS)] == want


def test_every_end_token_of_the_model_ends_an_answer(tiny_models):
    folder = tiny_models("llama")
    engine = opened(folder, max_new_tokens=30)
    [whole] = write(engine, PROMPTS[:1])
    other = after_prompt(engine, PROMPTS[0], whole)[6]
    engine.extract.model.causal_lm.generation_config.eos_token_id = [EOS, other]
    model, reasons = tiny.plain_model(folder, torch.float32), []
    for prompt, record in zip(PROMPTS, write(engine, PROMPTS), strict=True):
        begin = len(record.token_ids) - len(after_prompt(engine, prompt, record))
        reasons.append(greedy(model, record.token_ids.tolist(), begin, 30, (EOS, other)))
        assert record.written.finish_reason == reasons[-1]
    assert reasons[0] == "stop"
    assert set(reasons) == {"stop", "length"}


@pytest.mark.parametrize(
    ("stop", "text", "kept"),
    [
        ((), " yes, the old trophy was 3\nno", " yes, the old trophy was 3\nno"),
        (("\n",), " yes, the old trophy was 3", " yes, the old trophy was 3"),
        (("absent", "\n", " was"), " yes, the old trophy", " yes, the old trophy"),
        # A token that begins in the answer and goes on into the stop string is the answer's last.
        (("phy was",), " yes, the old tro", " yes, the old trophy"),
        (("es, the",), " y", " yes"),
        ((" yes",), "", ""),
        (("",), " yes, the old trophy was 3\nno", " yes, the old trophy was 3\nno"),
    ],
)
@pytest.mark.parametrize("first", [2, 16])
def test_a_stop_string_cuts_text_and_tokens(first, stop, text, kept, scripted, monkeypatch):
    monkeypatch.setattr(writing, "FIRST_ROUND", first)  # a stop string may begin in one round and end later
    engine = opened(scripted({":": " yes, the old trophy was 3\nno"}), max_new_tokens=40, stop=stop)
    prompts = ("Question:", "the cat:", "Question: is the trophy old? Answer:")
    for prompt, record in zip(prompts, write(engine, prompts), strict=True):
        tokens = after_prompt(engine, prompt, record)
        assert (record.written.text, record.written.finish_reason) == (text, "stop")
        assert engine.extract.model.tokenizer.decode(tokens) == kept


@pytest.mark.parametrize("answer", ["€", " yes é", "no😀"])
def test_a_character_of_several_tokens_is_kept_whole_before_a_stop_string(answer, scripted):
    engine = opened(scripted({":": f"{answer}\nQ"}), max_new_tokens=40, stop=("\n",))
    [record] = write(engine, ["Question:"])
    assert record.written.text == answer
    tokens = after_prompt(engine, "Question:", record)
    assert engine.extract.model.tokenizer.decode(tokens) == answer


@pytest.mark.parametrize("prompts", [["Question:"], ["Question:", "the cat?"]], ids=["alone", "beside"])
def test_an_empty_answer_is_read_at_the_end_of_the_prompt(prompts, scripted):
    engine = opened(scripted({":": "", "?": " yes"}), max_new_tokens=20)
    record, *others = write(engine, prompts)
    assert (record.written.text, record.written.finish_reason) == ("", "stop")
    assert record.logprobs.tolist() == [0]
    assert after_prompt(engine, "Question:", record) == []
    np.testing.assert_array_equal(record.prompt_end, record.final_token)
    np.testing.assert_array_equal(record.final_token[[1, 3]], record.sequence[:, -1])
    for other in others:
        assert other.written.text == " yes"
        assert not np.array_equal(other.prompt_end, other.final_token)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_residuals_and_likelihood_are_those_of_a_plain_pass_over_prompt_and_answer(architecture, tiny_models):
    engine = opened(tiny_models(architecture), max_new_tokens=20)
    model = tiny.plain_model(tiny_models(architecture), torch.float32)
    for prompt, record in zip(PROMPTS, write(engine, PROMPTS), strict=True):
        begin = len(engine.extract.model.tokenizer(prompt).input_ids)
        want = tiny.hooked_residuals(model, record.token_ids).numpy()
        for found, expected in (
            (record.prompt_end, want[:, begin - 1]),
            (record.final_token, want[:, -1]),
            (record.sequence, want[[1, 3]]),
        ):
            distance = np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
            assert distance.max() < 1e-5
        with torch.inference_mode():
            ids = torch.from_numpy(record.token_ids.astype(np.int64))[None]
            logprobs = model(ids).logits[0].log_softmax(-1)
        total = sum(float(logprobs[i - 1, ids[0, i]]) for i in range(begin, ids.shape[1]))
        assert record.logprobs.tolist() == pytest.approx([total], abs=1e-4)
        assert np.isnan(record.answer_mass)


def test_samples_are_drawn_by_the_seed(tiny_models):
    found = []
    for seed in (0, 0, 1):
        engine = opened(tiny_models("llama"), max_new_tokens=8, temperature=2.0, samples=3, seed=seed)
        records = write(engine, PROMPTS)
        found.append([(r.written.text, *r.written.others) for r in records])
        for prompt, record in zip(PROMPTS, records, strict=True):
            decode = engine.extract.model.tokenizer.decode
            tokens = after_prompt(engine, prompt, record)
            assert decode(tokens, skip_special_tokens=True) == record.written.text
    assert found[0] == found[1]
    assert [len(texts) for texts in found[0]] == [3] * len(PROMPTS)
    assert all(len(set(texts)) == 3 for texts in found[0])
    assert all(one != other for one, other in zip(found[0], found[2], strict=True))


def test_samples_that_are_not_written_together_differ_too(tiny_models):
    engine = opened(
        tiny_models("llama"), batch={"batch_size": 2}, max_new_tokens=8, temperature=2.0, samples=6
    )
    [record] = write(engine, PROMPTS[:1])
    assert len({record.written.text, *record.written.others}) == 6


def given(folder, rows, tmp_path):
    """The records of own rows that say what was written."""
    source = str(tiny.write_rows(tmp_path / "given.jsonl", rows))
    task = own_rows(source)
    engine = open_engine(str(folder), task.protocols[0], dtype="float32", device="cpu")
    candidates = load_source(task, source).candidates
    return engine, engine.extract([task.request(c, task.protocols[0]) for c in candidates])


def test_a_given_response_is_read_as_it_stands(tiny_models, tmp_path):
    texts = [
        ("the cat went home because", " it was large."),
        ("Question: is it red? ", " yes\n"),
        ("Answer:", " blue é €"),
    ]
    rows = [{"prompt": p, "response": r, "success": bool(n % 2)} for n, (p, r) in enumerate(texts)]
    engine, records = given(tiny_models("llama"), rows, tmp_path)
    model, tokenizer = tiny.plain_model(tiny_models("llama"), torch.float32), engine.extract.model.tokenizer
    for (prompt, response), record in zip(texts, records, strict=True):
        assert tokenizer.decode(record.token_ids[1:]) == prompt + response
        assert (record.prompt, record.written.text) == (prompt, response)
        assert record.written.finish_reason == "given"
        begin = len(tokenizer(prompt).input_ids)
        assert len(record.token_ids) == begin + record.choice_tokens[0]
        want = tiny.hooked_residuals(model, record.token_ids).numpy()
        np.testing.assert_allclose(record.prompt_end, want[:, begin - 1], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(record.final_token, want[:, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("prompt", "response"), [("the tr", "ophy was red"), ("the suit", "case"), ("Answer: ", "blue")]
)
def test_a_given_response_whose_first_token_began_in_the_prompt_loses_no_text(
    prompt, response, tiny_models, tmp_path
):
    engine, [record] = given(
        tiny_models("llama"), [{"prompt": prompt, "response": response, "success": True}], tmp_path
    )
    assert engine.extract.model.tokenizer.decode(record.token_ids[1:]) == prompt + response


def test_messages_need_a_chat_template(tiny_models, tmp_path):
    turns = [("user", "the cat?"), ("assistant", "no"), ("user", "the dog?")]
    messages = [{"role": role, "content": text} for role, text in turns]
    rows = tiny.write_rows(tmp_path / "chat.jsonl", [{"messages": messages, "targets": ["yes"]}])
    build = ("build", "--task", rows, "--out", tmp_path / "s.zarr", "--dtype", "float32", "--device", "cpu")
    done = run(*build, "--model", tiny_models("llama"))
    assert done.returncode != 0
    assert "only a chat template can render them: pass --chat-template" in done.stderr.replace("\n", " ")
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}A:"
    folder = tiny.save_model("llama", tmp_path / "chat", chat_template=template)
    task = own_rows(str(rows))
    engine = open_engine(str(folder), task.protocols[0], dtype="float32", device="cpu", chat=True)
    [candidate] = load_source(task, str(rows)).candidates
    [record] = engine.extract([task.request(candidate, task.protocols[0])])
    assert record.prompt == "<user>the cat?\n<assistant>no\n<user>the dog?\nA:"
    assert engine.extract.model.tokenizer.decode(record.token_ids).startswith(record.prompt)


def test_a_prompt_whose_answer_would_pass_the_context_is_too_long(tiny_models):
    engine = opened(tiny_models("llama"), max_new_tokens=20)
    tokens = len(engine.extract.model.tokenizer("cat " * 100).input_ids)
    engine.extract.model.context_length = tokens + 20
    requests = [Request(str(n), (("cat " * n, ""),)) for n in (100, 101)]
    assert engine.extract.too_long(requests) == [False, True]
    [record] = engine.extract(requests[:1])
    assert len(record.token_ids) <= tokens + 20
    message = rf"example 101 has \d+ tokens and 20 are to be written; the model reads at most {tokens + 20}"
    with pytest.raises(SourceError, match=message):
        engine.extract(requests)


def test_a_template_without_a_generation_prompt_is_refused_where_the_model_writes(tmp_path):
    turns = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    prompted = turns + "{% if add_generation_prompt %}<assistant>{% endif %}"
    for name, template in (("without", turns), ("with", prompted)):
        tiny.save_model("llama", tmp_path / name, chat_template=template)
    opened(tmp_path / "with", batch={"chat": True}).extract.check()
    with pytest.raises(ModelError, match="no generation prompt: it puts '<assistant>' before an answer"):
        opened(tmp_path / "without", batch={"chat": True}).extract.check()
