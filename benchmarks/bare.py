"""The yardstick: a model's decoder over token sequences, and nothing else."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.clock import interleave
from wif_store.extract.model import DTYPES, resolve_device
from wif_store.extract.products import widen

TOKENS = {"cpu": (256, 512, 1024, 2048, 4096), "gpu": (8192, 16384, 32768)}
"""Of a batch, by kind of device."""
SAMPLE = {"cpu": 8000, "gpu": 64_000}
"""Tokens on which batchings are tried."""
TRIALS = 3
"""Times each batching is tried, in turns; its quickest counts."""

Batch = tuple[torch.Tensor, torch.Tensor | None]


@dataclass(frozen=True, slots=True)
class Batching:
    """How sequences are put together: in length order, up to so many tokens, padded or of one length."""

    tokens: int
    padded: bool

    def __str__(self) -> str:
        return f"{self.tokens} tokens, {'padded' if self.padded else 'equal lengths'}"

    def batches(self, sequences: list[list[int]], device: torch.device) -> list[Batch]:
        """Ids and masks, on the device; a batch without padding has no mask, which is quicker."""
        ordered = sorted(sequences, key=len, reverse=True)
        made, start = [], 0
        while start < len(ordered):
            width = len(ordered[start])
            stop = start + max(1, self.tokens // width)
            rows = [s for s in ordered[start:stop] if self.padded or len(s) == width]
            start += len(rows)
            ids = torch.tensor([s + [0] * (width - len(s)) for s in rows])
            mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in rows])
            made.append((ids.to(device), None if bool(mask.all()) else mask.to(device)))
        return made


class Bare:
    """A decoder as transformers loads it: no head, no cache, no hooks. Its products are the build's own."""

    def __init__(self, path: str, dtype: str, device: str) -> None:
        started = time.perf_counter()
        self.device = torch.device(resolve_device(device))
        model = AutoModelForCausalLM.from_pretrained(path, dtype=DTYPES[dtype]).to(self.device).eval()
        widen(model)
        self.decoder = model.get_decoder()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.load_seconds = time.perf_counter() - started

    @torch.inference_mode()
    def run(self, batches: list[Batch]) -> None:
        """One forward pass over each batch, whose tensors are there already."""
        for ids, mask in batches:
            self.decoder(input_ids=ids, attention_mask=mask, use_cache=False)
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def best(self, sequences: list[list[int]]) -> dict[str, list[Batch]]:
        """The quickest padded batching and the quickest of equal lengths, found on some of the sequences."""
        kind = "cpu" if self.device.type == "cpu" else "gpu"
        sample = sequences[:: max(1, sum(map(len, sequences)) // SAMPLE[kind])]
        batchings = [Batching(tokens, padded) for padded in (True, False) for tokens in TOKENS[kind]]
        works = {str(b): partial(self.run, b.batches(sample, self.device)) for b in batchings}
        self.run(batchings[0].batches(sample, self.device)[:4])  # the first are slow
        seconds, _ = interleave(works, TRIALS)
        found = {}
        for padded in (True, False):
            alike = [b for b in batchings if b.padded is padded]
            best = min(alike, key=lambda batching: min(seconds[str(batching)]))
            found[str(best)] = best.batches(sequences, self.device)
        return found
