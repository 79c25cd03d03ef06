"""The first half of a build: candidates in visit order, handed out in blocks, until enough are found."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from wif_store.builder.workers import BlockJob
from wif_store.errors import SourceError
from wif_store.format.schema import SPLITS
from wif_store.builder.selection import Tally, assign_splits
from wif_store.tasks.base import PUBLISHED_SPLIT
from wif_store.builder.writer import Kept

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wif_store.builder.workers import Workers
    from wif_store.builder.journal import Journal
    from wif_store.builder.plan import Settings
    from wif_store.format.schema import Int64
    from wif_store.tasks.base import Candidate


class Progress:
    """Told how a build goes. This one says nothing; the command line draws bars."""

    def scanned(self, done: int, total: int, tokens: int, tally: Tally) -> None:
        """``done`` of ``total`` candidates are scored; ``tokens`` were run by this build's crew."""

    def writing(self, done: int, total: int) -> None:
        """``done`` of ``total`` uncompressed bytes are in shards that are durable."""


class Scan:
    """Blocks of candidates, given out and counted in visit order, in whatever order they come back.

    Attributes:
        tally: The outcomes that were counted.
        blocks: How many blocks were counted.
        resumed: How many of them an earlier call had journalled.
        tokens: What the model ran in this call.
    """

    def __init__(
        self,
        settings: Settings,
        candidates: Sequence[Candidate],
        block: int,
        journal: Journal,
        progress: Progress,
    ) -> None:
        self._settings, self._candidates, self._size = settings, candidates, block
        self._journal, self._progress = journal, progress
        self.tally = Tally(settings.per_class, len(candidates))
        self.blocks = self.resumed = self.tokens = 0
        self._there = journal.blocks.numbers()
        self._arrived: dict[int, Int64] = {}
        self._predictions: list[Int64] = []

    def run(self, crew: Workers) -> None:
        """Score candidates until both classes are full or the source ends."""
        self._progress.scanned(0, len(self._candidates), 0, self.tally)
        self._count()
        with closing(crew.scan(self._jobs(), self._journal)) as outcomes:
            for outcome in outcomes:
                self._arrived[outcome.number] = outcome.prediction
                self.tokens += outcome.cost
                self._count()
                if self.tally.full:
                    break  # what the crew has begun beyond is not needed

    def kept(self, positions: Sequence[int]) -> list[Kept]:
        """The examples at these positions of the visit order, split as the settings say."""
        numbers = sorted({p // self._size for p in positions})
        blocks = {number: self._journal.blocks.block(number) for number in numbers}
        outcomes = [self.tally.outcomes[p] for p in positions]
        if self._settings.splits == "published":
            splits = [_published_split(self._candidates[p]) for p in positions]
        else:
            splits = assign_splits(outcomes)
        kept = []
        for position, success, split in zip(positions, outcomes, splits, strict=True):
            candidate, block = self._candidates[position], blocks[position // self._size]
            row = position % self._size
            choices = self._settings.protocol.answers or candidate.choices
            values = {
                "example_id": candidate.id,
                "source_row": candidate.source_row,
                "choices": list(choices),
                "n_choices": len(choices),
                "gold": candidate.gold,
                "prediction": int(block.prediction[row]),
                "success": int(success),
                "choice_logprob": block.logprobs[row, : len(choices)].tolist(),
                "choice_tokens": block.choice_tokens[row, : len(choices)].tolist(),
                "cut_tokens": int(block.cut[row]),
            }
            kept.append(Kept(block, int(block.place[row]), split, values))
        return kept

    def outcomes(self, scanned: int) -> dict[str, Any]:
        """Counts over the first candidates in visit order, kept or not."""
        predictions = np.concatenate(self._predictions)[:scanned]
        successes = sum(self.tally.outcomes[:scanned])
        return {
            "scanned": scanned,
            "successes": successes,
            "failures": scanned - successes,
            "accuracy": successes / scanned,
            "answer_shares": (np.bincount(predictions) / scanned).tolist(),
        }

    def _jobs(self) -> Iterator[BlockJob]:
        """The blocks that nobody has done, while more are wanted."""
        task, protocol = self._settings.task, self._settings.protocol
        for number in range(-(-len(self._candidates) // self._size)):
            if self.tally.full:
                break
            if number not in self._there:
                block = self._block(number)
                requests = tuple(task.request(c, protocol) for c in block)
                yield BlockJob(number, requests, tuple(c.gold for c in block), self.tally.keep())

    def _count(self) -> None:
        """Count the blocks that are here, as far as none is missing before them."""
        while not self.tally.full and self.blocks * self._size < len(self._candidates):
            number = self.blocks
            if number in self._arrived:
                predictions = self._arrived.pop(number)
            elif number in self._there:
                predictions = self._journal.blocks.block(number).prediction
                self.resumed += 1
            else:
                break
            for candidate, prediction in zip(self._block(number), predictions, strict=True):
                self.tally.visit(bool(prediction == candidate.gold))
            self._predictions.append(predictions)
            self.blocks += 1
            done = len(self.tally.outcomes)
            self._progress.scanned(done, len(self._candidates), self.tokens, self.tally)

    def _block(self, number: int) -> Sequence[Candidate]:
        return self._candidates[number * self._size : (number + 1) * self._size]


def _published_split(candidate: Candidate) -> str:
    if candidate.published_split not in SPLITS:
        msg = (
            f"row {candidate.source_row + 1} carries the split {candidate.published_split!r}; "
            f"--splits published expects {PUBLISHED_SPLIT} to be one of: {', '.join(SPLITS)}"
        )
        raise SourceError(msg)
    return str(candidate.published_split)
