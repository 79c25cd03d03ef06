"""The yardstick: a model's decoder over token sequences, and nothing else."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from wif_store.extract.model import DTYPES

TOKENS = (256, 512, 1024, 2048, 4096)
Batch = tuple[torch.Tensor, torch.Tensor | None]


@dataclass(frozen=True, slots=True)
class Batching:
    """How sequences are put together: in length order, up to so many tokens, padded or of one length."""

    tokens: int
    padded: bool

    def __str__(self) -> str:
        return f"{self.tokens} tokens, {'padded' if self.padded else 'equal lengths'}"

    def batches(self, sequences: list[list[int]]) -> list[Batch]:
        """Ids and masks; a batch without padding has no mask, which is quicker."""
        ordered = sorted(sequences, key=len, reverse=True)
        made, start = [], 0
        while start < len(ordered):
            width = len(ordered[start])
            stop = start + max(1, self.tokens // width)
            rows = [s for s in ordered[start:stop] if self.padded or len(s) == width]
            start += len(rows)
            ids = torch.tensor([s + [0] * (width - len(s)) for s in rows])
            mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in rows])
            made.append((ids, None if bool(mask.all()) else mask))
        return made


ALL = [Batching(tokens, padded) for tokens in TOKENS for padded in (True, False)]


class Bare:
    """A decoder as transformers loads it: no head, no cache, no hooks."""

    def __init__(self, path: str, dtype: str) -> None:
        started = time.perf_counter()
        model = AutoModelForCausalLM.from_pretrained(path, dtype=DTYPES[dtype]).eval()
        self.decoder = model.get_decoder()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.load_seconds = time.perf_counter() - started

    @torch.inference_mode()
    def run(self, batches: list[Batch]) -> None:
        """One forward pass over each batch, whose tensors are there already."""
        for ids, mask in batches:
            self.decoder(input_ids=ids, attention_mask=mask, use_cache=False)

    def best(self, sequences: list[list[int]], count: int) -> dict[str, list[Batch]]:
        """The ``count`` quickest batchings in one run of each: the first of them are not yet the best."""
        made = {str(batching): batching.batches(sequences) for batching in ALL}
        self.run(made[str(ALL[0])][:4])
        seconds = {}
        for name, batches in made.items():
            started = time.perf_counter()
            self.run(batches)
            seconds[name] = time.perf_counter() - started
        return {name: made[name] for name in sorted(seconds, key=seconds.__getitem__)[:count]}
