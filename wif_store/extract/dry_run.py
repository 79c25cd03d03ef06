"""A model before it is loaded: how large its residuals are, and how many tokens a task has for it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from transformers import AutoConfig, PreTrainedTokenizerBase

from wif_store.errors import ModelError, one_line
from wif_store.extract.engine import parse_layers
from wif_store.extract.jobs import plan
from wif_store.extract.model import load_tokenizer, locate
from wif_store.extract.tokenize import Encoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wif_store.tasks.base import Protocol, Request


@dataclass(frozen=True, slots=True)
class Outline:
    """What a model's configuration and tokenizer say of a build."""

    tokenizer: PreTrainedTokenizerBase
    context_length: int
    d_model: int
    layers: tuple[int, ...]
    sequence_layers: tuple[int, ...]

    def tokens(
        self, requests: Sequence[Request], protocol: Protocol, *, chat: bool = False
    ) -> list[tuple[int, float]]:
        """Of each request the tokens that are run, and those that are read.

        Sequences are taken to share what they begin with, and to be read as often as each other where
        the model's answer says which is read.

        Raises:
            SourceError: If a request cannot be encoded.
        """
        encode = Encoder(self.tokenizer, protocol, self.context_length, chat=chat)
        jobs = [plan(encoded, protocol, trees=True) for encoded in encode(requests)]
        return [(len(job), fmean(map(len, job.readings))) for job in jobs]


def outline(
    model: str, *, layers: str = "all", sequence_layers: str = "auto", trust_remote_code: bool = False
) -> Outline:
    """Read a model's configuration and tokenizer; its weights are neither fetched nor loaded.

    Args:
        model: As for ``open_engine``.
        layers: Likewise.
        sequence_layers: Likewise.
        trust_remote_code: Let the repository's own Python code run.

    Raises:
        ModelError: If there is no such model, or it has not these layers.
    """
    located = locate(model, weights=False)
    extra = {"gguf_file": located.gguf_file} if located.gguf_file else {}
    try:
        config = AutoConfig.from_pretrained(located.path, trust_remote_code=trust_remote_code, **extra)
        config = config.get_text_config(decoder=True)
        count, d_model = config.num_hidden_layers, config.hidden_size
    except Exception as error:
        # transformers raises many kinds here, by architecture and file format.
        msg = f"the configuration of model {located.name} cannot be read: {one_line(error)}"
        raise ModelError(msg) from error
    return Outline(
        load_tokenizer(located, trust_remote_code=trust_remote_code),
        getattr(config, "max_position_embeddings", None) or 2**31,
        d_model,
        parse_layers(layers, count),
        parse_layers(sequence_layers, count),
    )
