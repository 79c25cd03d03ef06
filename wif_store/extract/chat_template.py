"""A tokenizer's chat template: what it makes of a prompt, and how the answer is to be spelled after it."""

from __future__ import annotations

import hashlib
import inspect
import re
from typing import TYPE_CHECKING, Any, Final, Literal

from transformers import PreTrainedTokenizerBase

from wif_store.errors import ModelError, first_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Scalar = str | int | float | bool | None
Reasoning = Literal["none", "open", "skipped"]

CLOCK: Final = "date_string"
"""The template argument that stands for the date, whatever a template calls it."""
MARK: Final = "\ue000" * 32
"""What a template is given for the date when none is pinned: a character that no prompt has."""
PROBE: Final = "\ue001"
"""Stands for a text, to see what a template puts around it."""

REASONING: Final = re.compile(r"<(think|thinking|reasoning|seed:think)>|\[THINK\]|<\|begin_of_thought\|>")
CLOSED: Final = re.compile(r"</(think|thinking|reasoning|seed:think)>|\[/THINK\]|<\|end_of_thought\|>")
RANDOM: Final = re.compile(r"\|\s*random\b|\blipsum\s*\(")
"""What gives another text each time, of the functions that every template has."""


class ChatTemplate:
    """A chat template with its arguments, which gives the same text at any time and on any machine.

    Attributes:
        arguments: What the template is given besides the messages.
        gap: White space that the template puts between its generation prompt and an answer.
        header: What the template puts before an answer that its generation prompt does not have, such as the
            name of the role; else nothing.
        reasoning: ``open`` where the generation prompt ends inside a block of reasoning, so that an answer
            that is scored there stands inside of it; ``skipped`` where the template would put a block of
            reasoning before the answer; else ``none``.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Scalar] | None = None
    ) -> None:
        """Try the template of a tokenizer.

        Raises:
            ModelError: If there is none, it prints the date or something random, it does not know an
                argument, or it cannot be rendered.
        """
        try:
            self._own = str(tokenizer.get_chat_template())
        except ValueError as error:
            msg = f"--chat-template: the tokenizer has none to use ({first_line(error)}); leave it out"
            raise ModelError(msg) from None
        self._tokenizer, self.arguments = tokenizer, dict(arguments or {})
        _check_arguments(self.arguments, self._own)
        if RANDOM.search(self._own):
            msg = (
                "the chat template prints something random; expected one that gives the same text every time"
            )
            raise ModelError(msg)
        # A macro of the name by which templates read the clock hides that function.
        pinned = self.arguments.get(CLOCK, MARK)
        clock = f"{{%- macro strftime_now(format) -%}}{{% raw %}}{pinned}{{% endraw %}}{{%- endmacro -%}}"
        self._template = clock + self._own
        prompt = self(PROBE)
        if MARK[:2] in prompt:
            msg = (
                "the chat template prints the date, and a store must not depend on the clock: pin it with "
                f"--template {CLOCK}='26 Jul 2024'"
            )
            raise ModelError(msg)
        self.gap, self.reasoning, self.header = self._around(prompt)

    def __call__(self, context: str, before: Sequence[tuple[str, str]] = ()) -> str:
        """The prompt that asks for an answer to a context, which may be the last of several turns.

        Raises:
            ModelError: If the template cannot be rendered.
        """
        turns = [*before, ("user", context)]
        messages = [{"role": role, "content": text} for role, text in turns]
        return self._render(messages, answer_follows=True)

    def record(self) -> dict[str, Any]:
        """The template as it stands in a manifest."""
        return {
            "sha256": hashlib.sha256(self._own.encode()).hexdigest(),
            "arguments": dict(self.arguments),
            "gap": self.gap,
            "reasoning": self.reasoning,
        }

    def _around(self, prompt: str) -> tuple[str, Reasoning, str]:
        """The gap before an answer, whether there is reasoning before it, and what header is missing."""
        after = prompt.rpartition(PROBE)[2]
        opened = [found.end() for found in REASONING.finditer(after)]
        closed = [found.start() for found in CLOSED.finditer(after)]
        if opened and (not closed or closed[-1] < opened[-1]):
            return "", "open", ""
        messages = [{"role": "user", "content": PROBE}, {"role": "assistant", "content": PROBE * 2}]
        try:
            answered = self._render(messages, answer_follows=False)
        except ModelError:
            return "", "none", ""
        before, found, _ = answered.rpartition(PROBE * 2)
        gap = before.removeprefix(prompt) if found and before.startswith(prompt) else ""
        if not gap.strip():
            return gap, "none", ""
        return ("", "skipped", "") if REASONING.search(gap) else ("", "none", gap.strip())

    def _render(self, messages: list[dict[str, str]], *, answer_follows: bool) -> str:
        arguments: dict[str, Any] = self.arguments
        try:
            text = self._tokenizer.apply_chat_template(
                messages,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=answer_follows,
                **arguments,
            )
        except Exception as error:
            # A template raises what it likes, and jinja adds kinds of its own.
            msg = f"the chat template cannot be rendered: {first_line(error)}"
            raise ModelError(msg) from error
        return str(text)


def _check_arguments(arguments: Mapping[str, Any], template: str) -> None:
    taken = {"messages", *inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters}
    for name, value in arguments.items():
        if not isinstance(value, Scalar) or (
            isinstance(value, str) and ("{%" in value or not value.isprintable())
        ):
            msg = f"--template {name} is {value!r:.60}; expected a printable text, a number, true or false"
            raise ModelError(msg)
        known = re.search(rf"\b{re.escape(name)}\b", template) or (
            name == CLOCK and "strftime_now" in template
        )
        if name in taken or not known:
            msg = f"--template {name}: the chat template has no such argument; check its spelling"
            raise ModelError(msg)
