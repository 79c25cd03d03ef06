"""A chat template gives the same text at any time, spells answers by its own rules, and is recorded."""

from __future__ import annotations

import pytest

from tests.support import tiny
from wif_store.cli.build import parse_template
from wif_store.errors import ModelError, TaskError
from wif_store.extract.chat_template import ChatTemplate
from wif_store.extract.checkpoint import load_tokenizer, locate
from wif_store.extract.engine import Opener, open_engine
from wif_store.tasks import get_task
from wif_store.tasks.base import Request

MCQ = get_task("winogrande").protocol("mcq")

GEMMA = (
    "{{ bos_token }}{% for m in messages %}<turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end>\n{% endfor %}{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
CLOCK = (
    "{{ bos_token }}Now: {{ strftime_now('%d %b %Y %H:%M:%S') }}\n"
    "{% for m in messages %}{{ m['content'] }}\n{% endfor %}A:"
)
CLOCK_OR_GIVEN = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "Today: {{ date_string }}\n{% for m in messages %}{{ m['content'] }}\n{% endfor %}A: "
)
THINKING = (
    "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}{% endif %}"
)
SKIPPED = (
    "{% for m in messages %}<turn>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}<think>\n\n</think>\n\n"
    "{% endif %}{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)


@pytest.fixture
def template(tmp_path):
    def made(text, **arguments):
        return ChatTemplate(tiny.tokenizer(tmp_path, chat_template=text), arguments)

    return made


@pytest.mark.parametrize(
    ("text", "arguments", "gap", "reasoning"),
    [
        (GEMMA, {}, "", "none"),
        (LLAMA2, {}, " ", "none"),
        (THINKING, {}, "", "open"),
        (THINKING, {"enable_thinking": False}, "", "none"),
        (SKIPPED, {}, "", "skipped"),
    ],
    ids=["newline", "space", "open", "closed", "skipped"],
)
def test_an_answer_is_spelled_as_the_template_spells_one(text, arguments, gap, reasoning, template):
    made = template(text, **arguments)
    assert (made.gap, made.reasoning) == (gap, reasoning)
    assert made.record()["arguments"] == arguments
    assert (made.record()["gap"], made.record()["reasoning"]) == (gap, reasoning)


@pytest.mark.parametrize("text", [CLOCK, CLOCK_OR_GIVEN])
def test_a_template_that_prints_the_date_needs_one(text, template):
    with pytest.raises(ModelError, match=r"prints the date.*--template date_string="):
        template(text)
    made = template(text, date_string="26 Jul 2024")
    assert "26 Jul 2024\nthe cat\n" in made("the cat")


def test_a_template_never_sees_the_clock(template):
    year = (
        "{% if strftime_now('%Y') | int > 2000 %}late{% else %}early{% endif %}{{ messages[0]['content'] }}"
    )
    assert template(year)("x") == "earlyx"


def test_a_template_that_is_random_is_refused(template):
    with pytest.raises(ModelError, match="something random"):
        template("{{ ['a', 'b'] | random }}{{ messages[0]['content'] }}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"enable_thinkin": False}, "enable_thinkin: the chat template has no such argument"),
        ({"messages": "x"}, "messages: the chat template has no such argument"),
        ({"add_generation_prompt": False}, "add_generation_prompt: the chat template has no such argument"),
        ({"enable_thinking": ["x"]}, "enable_thinking is .*expected a printable text"),
        ({"enable_thinking": "{% endraw %}"}, "enable_thinking is .*expected a printable text"),
    ],
)
def test_arguments_that_a_template_does_not_take_are_refused(arguments, message, template):
    with pytest.raises(ModelError, match=message):
        template(THINKING, **arguments)


def test_what_a_template_raises_is_one_line(template):
    with pytest.raises(ModelError, match="cannot be rendered: no users here"):
        template("{{ raise_exception('no users here') }}")


def test_arguments_are_read_as_json_or_text():
    given = ["enable_thinking=false", "date_string=26 Jul 2024", "n=3", "empty=", "x=a=b", "y=NaN", "z=[1]"]
    assert parse_template(given) == {
        "enable_thinking": False,
        "date_string": "26 Jul 2024",
        "n": 3,
        "empty": "",
        "x": "a=b",
        "y": "NaN",
        "z": "[1]",
    }
    for wrong in ("enable_thinking", "=x", "a b=1"):
        with pytest.raises(ModelError, match="expected NAME=VALUE"):
            parse_template([wrong])


def test_an_engine_scores_after_the_template_and_records_it(tmp_path):
    folder = tiny.save_model("llama", tmp_path / "m", chat_template=LLAMA2)
    plain = open_engine(str(folder), MCQ, dtype="float32", device="cpu")
    wrapped = open_engine(str(folder), MCQ, dtype="float32", device="cpu", chat=True)
    assert plain.model["chat_template"] is None
    assert wrapped.model["chat_template"] == {
        "sha256": wrapped.model["chat_template"]["sha256"],
        "arguments": {},
        "gap": " ",
        "reasoning": "none",
    }
    request = Request("x", (("Which?\nAnswer:", " A"), ("Which?\nAnswer:", " B")), None)
    [record] = wrapped.extract([request])
    assert record.prompt == "<bos>[INST] Which?\nAnswer: [/INST]"
    tokenizer = load_tokenizer(locate(str(folder)), trust_remote_code=False)
    assert record.token_ids.tolist() == tokenizer(record.prompt, add_special_tokens=False).input_ids
    [one] = wrapped.extract.encoder([request])
    assert [tokenizer.decode(c) for c in one.continuations] == [" A", " B"]


def test_a_template_needs_the_option_a_tokenizer_that_has_it_and_a_shared_context(tmp_path, tiny_models):
    folder = str(tiny_models("llama"))
    with pytest.raises(ModelError, match="--template is for --chat-template"):
        open_engine(folder, MCQ, template={"x": 1}, device="cpu")
    with pytest.raises(ModelError, match="the tokenizer has none to use"):
        open_engine(folder, MCQ, chat=True, device="cpu")
    chat = str(tiny.save_model("llama", tmp_path / "m", chat_template=GEMMA))
    aligned = get_task("winogrande").protocol("aligned")
    with pytest.raises(TaskError, match="needs a context that all choices share; use --protocol mcq"):
        Opener(chat, chat=True, device="cpu")(aligned)
