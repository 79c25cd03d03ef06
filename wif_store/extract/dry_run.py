"""A model before it is loaded: how large its residuals are, and how many tokens a task has for it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from wif_store.errors import ModelError
from wif_store.extract.chat_template import ChatTemplate
from wif_store.extract.checkpoint import load_tokenizer, locate, read_config
from wif_store.extract.decoder import Decoder
from wif_store.extract.model import UNLIMITED, context_length_of
from wif_store.extract.tokenize import Encoder
from wif_store.extract.work import plan_work
from wif_store.format.layers import parse_layers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

    from wif_store.tasks.base import Protocol, Request


@dataclass(frozen=True, slots=True)
class Preview:
    """What a model's configuration and tokenizer say of a build.

    Attributes:
        tokenizer: Its tokenizer.
        context_length: The most tokens of a sequence.
        d_model: Width of the residual stream.
        layers: The layers that are read at the final token.
        sequence_layers: The layers that are read at every token.
    """

    tokenizer: PreTrainedTokenizerBase
    context_length: int
    d_model: int
    layers: tuple[int, ...]
    sequence_layers: tuple[int, ...]

    def tokens(
        self,
        requests: Sequence[Request],
        protocol: Protocol,
        *,
        chat: bool = False,
        template: Mapping[str, Any] | None = None,
    ) -> list[tuple[int, float]]:
        """Of each request the tokens that are run, and those that are read.

        It is assumed that sequences share what they begin with, that each of them is read as often as the
        others where the model's answer says which is read, and that an answer that is written has as many
        tokens as it may have. Texts beyond the model's context are counted too.

        Raises:
            SourceError: If a request cannot be encoded.
            ModelError: If the tokenizer does not suit the protocol or the template.
        """
        prepared = ChatTemplate(self.tokenizer, template) if chat else None
        encoder = Encoder(
            self.tokenizer,
            protocol,
            context_length=self.context_length,
            vocabulary=UNLIMITED,
            template=prepared,
        )
        decoder = Decoder(None, {}, mapping=False, trees=True)
        works = [plan_work(encoded, protocol, decoder) for encoded in encoder.encode(requests)]
        # What is written is run once when it is written, and once with its prompt when it is read.
        more, times = encoder.writes, 2 if encoder.writes else 1
        return [(times * (len(work) + more), fmean(map(len, work.readings)) + more) for work in works]


def preview(
    model: str, *, layers: str = "all", sequence_layers: str = "auto", trust_remote_code: bool = False
) -> Preview:
    """Read a model's configuration and tokenizer; its weights are neither fetched nor loaded.

    Args:
        model: As for ``open_engine``.
        layers: Likewise.
        sequence_layers: Likewise.
        trust_remote_code: Let the repository's own Python code run.

    Raises:
        ModelError: If there is no such model, or it is not one that can be read.
        LayersError: If it has not these layers.
    """
    located = locate(model, weights=False)
    config = read_config(located, trust_remote_code=trust_remote_code).get_text_config(decoder=True)
    try:
        count, d_model = config.num_hidden_layers, config.hidden_size
    except AttributeError as error:
        msg = f"the configuration of model {located.name} names no layers and width: {error}"
        raise ModelError(msg) from None
    return Preview(
        load_tokenizer(located, trust_remote_code=trust_remote_code),
        context_length_of(config) or UNLIMITED,
        d_model,
        parse_layers(layers, range(count)),
        parse_layers(sequence_layers, range(count), option="--sequence-layers"),
    )
