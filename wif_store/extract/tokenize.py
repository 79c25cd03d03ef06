"""Texts to tokens, by the rule of the published evaluation harness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wif_store.errors import ModelError, SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from wif_store.tasks.base import Protocol, Request


@dataclass(frozen=True, slots=True)
class Encoded:
    """A request as tokens.

    ``contexts`` and ``continuations`` hold token ids per choice, ``texts`` what is read where that is one
    of the scored sequences. ``read`` are the tokens of the prompt that is read on its own, if any;
    ``cut`` is how many tokens it lost to the protocol's limit.
    """

    request: Request
    contexts: tuple[list[int], ...]
    continuations: tuple[list[int], ...]
    texts: tuple[str, ...]
    read: list[int] | None = None
    cut: int = 0


class Encoder:
    """Encodes requests with one tokenizer under one protocol."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        protocol: Protocol,
        context_length: int,
        *,
        chat: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.protocol = protocol
        self.context_length = context_length
        self.chat = chat
        if chat and (protocol.site != "context" or not getattr(tokenizer, "chat_template", None)):
            msg = (
                "the chat template cannot be used: it needs a tokenizer that has one and a protocol that "
                "reads a shared context (mcq)"
            )
            raise ModelError(msg)
        plain: list[int] = tokenizer("a", add_special_tokens=False).input_ids
        default: list[int] = tokenizer("a").input_ids
        self.start = default[: len(default) - len(plain)]
        if default != self.start + plain:
            msg = "this tokenizer ends every text with a special token; expected one of a decoder-only model"
            raise ModelError(msg)

    def __call__(self, requests: Sequence[Request]) -> list[Encoded]:
        """Encode requests.

        A context's trailing spaces belong to its continuation; context and continuation are encoded
        as one text, which is cut at the length of the context's own encoding, so that a token that
        merges across the boundary is counted as the harness counts it.

        Raises:
            SourceError: If a continuation has no tokens, or a text is longer than the model's context.
        """
        pairs = [self._split(context, text) for r in requests for context, text in r.pairs]
        contexts = self._tokens([context for context, _ in pairs])
        wholes = self._tokens([context + text for context, text in pairs])
        prompts = iter(self._tokens([r.prompt for r in requests if r.prompt is not None]))
        encoded, at = [], 0
        for request in requests:
            span = slice(at, at + len(request.pairs))
            at = span.stop
            read = next(prompts) if request.prompt is not None else None
            encoded.append(self._encoded(request, pairs[span], contexts[span], wholes[span], read))
        return encoded

    def _encoded(
        self,
        request: Request,
        pairs: Sequence[tuple[str, str]],
        contexts: Sequence[list[int]],
        wholes: Sequence[list[int]],
        read: list[int] | None,
    ) -> Encoded:
        continuations = tuple(w[len(c) :] for c, w in zip(contexts, wholes, strict=True))
        for number, tokens in enumerate(continuations, 1):
            if not tokens:
                msg = (
                    f"example {request.id}: choice {number} ({request.pairs[number - 1][1]!r}) "
                    "has no tokens; expected a text to score"
                )
                raise SourceError(msg)
        cut = 0
        if read is not None and self.protocol.max_tokens:
            cut = max(0, len(read) - self.protocol.max_tokens)
            read = read[: self.protocol.max_tokens]
        longest = max(
            *(len(c) + len(t) for c, t in zip(contexts, continuations, strict=True)), len(read or ())
        )
        if longest > self.context_length:
            msg = (
                f"example {request.id} has {longest} tokens; the model reads at most {self.context_length}: "
                "leave it out of the source or use a model with a longer context"
            )
            raise SourceError(msg)
        texts = tuple(c for c, _ in pairs) if self.protocol.site == "context" else tuple(map("".join, pairs))
        return Encoded(request, tuple(contexts), continuations, texts, read, cut)

    def _split(self, context: str, continuation: str) -> tuple[str, str]:
        if self.chat:
            message = [{"role": "user", "content": context}]
            text = self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
            return str(text), continuation.lstrip()
        stripped = context.rstrip()
        return stripped, context[len(stripped) :] + continuation

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        plain = self.tokenizer(list(texts), add_special_tokens=False).input_ids
        # A chat template writes its own start token. Without one, an empty context still needs a
        # token to condition on.
        start = [] if self.chat else self.start
        fallback = self.tokenizer.bos_token_id
        if fallback is None:
            fallback = self.tokenizer.eos_token_id
        needs_start = [not start and (not tokens or self.protocol.context == "") for tokens in plain]
        return [([fallback] if bare else start) + ids for ids, bare in zip(plain, needs_start, strict=True)]
