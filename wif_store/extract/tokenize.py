"""Texts to tokens, by the rule of the published evaluation harness."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from wif_store.errors import ModelError, SourceError, TaskError
from wif_store.records import Written

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from wif_store.extract.chat_template import ChatTemplate
    from wif_store.tasks.base import Protocol, Request


@dataclass(frozen=True, slots=True)
class Encoded:
    """A request as tokens.

    Attributes:
        request: The request.
        contexts: Token ids of the context, one list a choice.
        continuations: Token ids of the continuation, one list a choice.
        texts: What is read where that is one of the scored sequences, one text a choice.
        read: Token ids of the prompt that is read by itself, if there is one.
        cut: How many tokens that prompt lost to the protocol's limit.
        written: The response, where the model wrote one.
    """

    request: Request
    contexts: tuple[list[int], ...]
    continuations: tuple[list[int], ...]
    texts: tuple[str, ...]
    read: list[int] | None = None
    cut: int = 0
    written: Written | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, without what is still to be written."""
        joined = (len(c) + len(t) for c, t in zip(self.contexts, self.continuations, strict=True))
        return max(*joined, len(self.read or ()))


class Encoder:
    """Encodes requests with one tokenizer under one protocol."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        protocol: Protocol,
        *,
        context_length: int,
        vocabulary: int,
        template: ChatTemplate | None = None,
    ) -> None:
        """Try the tokenizer.

        Args:
            tokenizer: The model's own.
            protocol: What is scored and read.
            context_length: The most tokens of a sequence.
            vocabulary: The number of token ids that the model knows.
            template: Wraps the contexts, if it is given.

        Raises:
            ModelError: If the tokenizer ends texts with a special token, or the template has no generation
                prompt and the model is to write.
            TaskError: If the protocol needs a token to start with and the tokenizer has none, or if it has no
                shared context for a template to wrap.
        """
        self.tokenizer = tokenizer
        self.protocol = protocol
        self.context_length = context_length
        self.vocabulary = vocabulary
        self.template = template
        self.writes = protocol.generation.max_new_tokens if protocol.generation else 0
        if template is not None and protocol.site not in ("context", "response"):
            msg = (
                f"--chat-template cannot be used with protocol {protocol.name} of this task: it needs a "
                "context that all choices share; use --protocol mcq, or leave it out"
            )
            raise TaskError(msg)
        if template is not None and protocol.outcome == "response" and template.header:
            msg = (
                f"the chat template has no generation prompt: it puts {template.header!r:.60} before an "
                "answer, which the model would have to write first; use another template, or leave "
                "--chat-template out"
            )
            raise ModelError(msg)
        plain: list[int] = tokenizer("a", add_special_tokens=False).input_ids
        default: list[int] = tokenizer("a").input_ids
        self.start = default[: len(default) - len(plain)]
        if default != self.start + plain:
            msg = "this tokenizer ends every text with a special token; expected one of a decoder-only model"
            raise ModelError(msg)
        if protocol.context == "" and not self.start:
            self._fallback()

    def __call__(self, requests: Sequence[Request]) -> list[Encoded]:
        """Encode requests.

        A context's trailing spaces belong to its continuation. Context and continuation are encoded as one
        text, which is cut at the length of the context's own encoding, so that a token that merges across the
        boundary is counted as the harness counts it.

        Raises:
            SourceError: If a continuation has no tokens, or a text is longer than the model's context.
            ModelError: If a text has a token that the model does not know, or needs a start token and there
                is none.
        """
        encoded = self.encode(requests)
        for one in encoded:
            if self.too_long(one):
                writes = f" and {self.writes} are to be written" if self.writes else ""
                msg = (
                    f"example {one.request.id} has {one.longest} tokens{writes}; the model reads at most "
                    f"{self.context_length}: pass --skip-too-long, or use a model with a longer context"
                )
                raise SourceError(msg)
        return encoded

    def too_long(self, encoded: Encoded) -> bool:
        """Whether a sequence, with what is to be written after it, is longer than the model's context."""
        return encoded.longest + self.writes > self.context_length

    def encode(self, requests: Sequence[Request]) -> list[Encoded]:
        """The same, whatever the length of the texts.

        Raises:
            SourceError: If a continuation has no tokens.
            ModelError: As above.
        """
        pairs = [self._split(r, context, text) for r in requests for context, text in r.pairs]
        contexts = self._tokens([context for context, _ in pairs])
        joined = self._tokens([context + text for context, text in pairs])
        prompts = iter(self._tokens([r.prompt for r in requests if r.prompt is not None]))
        encoded, at = [], 0
        for request in requests:
            span = slice(at, at + len(request.pairs))
            at = span.stop
            read = next(prompts) if request.prompt is not None else None
            encoded.append(self._encoded(request, pairs[span], contexts[span], joined[span], read))
        return encoded

    def _encoded(
        self,
        request: Request,
        pairs: Sequence[tuple[str, str]],
        contexts: Sequence[list[int]],
        joined: Sequence[list[int]],
        read: list[int] | None,
    ) -> Encoded:
        if self.protocol.site == "response":
            # A response begins with the first token that has some of it.
            shared = [_shared(c, w) for c, w in zip(contexts, joined, strict=True)]
            contexts = [w[:n] for w, n in zip(joined, shared, strict=True)]
        continuations = tuple(w[len(c) :] for c, w in zip(contexts, joined, strict=True))
        for number, tokens in enumerate(continuations, 1):
            if not tokens and not self.writes:
                msg = (
                    f"example {request.id}: choice {number} ({request.pairs[number - 1][1]!r}) "
                    "has no tokens; expected a text to score"
                )
                raise SourceError(msg)
        for tokens in (*contexts, *joined, read or []):
            if tokens and max(tokens) >= self.vocabulary:
                self._refuse_token(request.id, max(tokens))
        cut = 0
        if read is not None and self.protocol.max_tokens:
            cut = max(0, len(read) - self.protocol.max_tokens)
            read = read[: self.protocol.max_tokens]
        alike = self.protocol.site in ("context", "response")
        texts = tuple(c for c, _ in pairs) if alike else tuple(map("".join, pairs))
        given = None
        if self.protocol.site == "response" and not self.writes:
            given = Written(request.pairs[0][1], "given")
        return Encoded(request, tuple(contexts), continuations, texts, read, cut, given)

    def _refuse_token(self, name: str, token: int) -> None:
        msg = (
            f"example {name}: the tokenizer gives token {token} "
            f"({self.tokenizer.convert_ids_to_tokens(token)!r}); the model knows those below "
            f"{self.vocabulary}: use the tokenizer that was saved with these weights, or leave the example "
            "out"
        )
        raise ModelError(msg)

    def _split(self, request: Request, context: str, continuation: str) -> tuple[str, str]:
        if request.before and self.template is None:
            msg = (
                f"example {request.id} has turns of a chat before its prompt, and only a chat template can "
                "render them: pass --chat-template"
            )
            raise TaskError(msg)
        response = self.protocol.site == "response"
        if self.template is not None:
            # The template says what stands before a choice, and not the protocol's own leading space.
            prompt = self.template(context, request.before)
            return prompt, continuation if response else self.template.gap + continuation.lstrip()
        if response:
            return context, continuation
        stripped = context.rstrip()
        return stripped, context[len(stripped) :] + continuation

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        plain = self.tokenizer(list(texts), add_special_tokens=False).input_ids
        # A chat template writes its own start token. Without one, an empty context still needs a
        # token to condition on.
        start = [] if self.template is not None else self.start
        empty = self.protocol.context == ""
        bare = [not start and (not tokens or empty) for tokens in plain]
        return [
            (self._fallback() if needs else start) + tokens for needs, tokens in zip(bare, plain, strict=True)
        ]

    def _fallback(self) -> list[int]:
        """The token that an empty context is conditioned on, where the tokenizer starts no text by itself."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return [token]
        msg = (
            f"protocol {self.protocol.name} scores texts that have no context, and this tokenizer has "
            "neither a start nor an end token to put there: use another --protocol, or a model that has one"
        )
        raise TaskError(msg)


def _shared(context: list[int], joined: list[int]) -> int:
    """How many tokens of a context begin the text of which it is the beginning: one at least."""
    pairs = zip(context, joined, strict=False)
    return max(1, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)))
