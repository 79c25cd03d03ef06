"""The scan: candidates of each split in visit order, given out in blocks, until the split has its pairs."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wif_store.builder.selection import Tally, divide, pairs_wanted
from wif_store.builder.workers import BlockJob
from wif_store.builder.writer import Row
from wif_store.format.schema import SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wif_store.builder.blocks import Block
    from wif_store.builder.journal import Journal
    from wif_store.builder.plan import Settings
    from wif_store.builder.workers import Outcome, Workers
    from wif_store.tasks.base import Candidate

LEAST_BLOCK: Final = 64
MOST_BLOCK: Final = 512


def block_bounds(count: int) -> list[int]:
    """Where the blocks of a split of ``count`` candidates begin, and the end of the last.

    A block is a quarter of what stands before it, within limits: large blocks have less padding, small ones
    leave less to run in vain once a split is full. The blocks do not depend on k, so that the same candidates
    share a forward pass, and have the same residuals, whatever k is.

    Example:
        >>> block_bounds(600)
        [0, 64, 128, 192, 256, 320, 400, 500, 600]
    """
    bounds = [0]
    while bounds[-1] < count:
        size = min(MOST_BLOCK, max(LEAST_BLOCK, bounds[-1] // 4))
        bounds.append(min(count, bounds[-1] + size))
    return bounds


@dataclass
class SplitScan:
    """The scan of one split.

    Attributes:
        split: Its name.
        candidates: Its candidates, in visit order.
        tally: The outcomes that were counted.
        bounds: Where blocks begin.
        done: Blocks that the journal had from an earlier call.
        arrived: Outcomes that were not counted yet, by the number of their block.
        given: How many blocks were given out, or were done.
        counted: How many were counted.
        predictions: Of the counted blocks.
        mass: Likewise, of the probability mass of the scored answers.
        smaller: How many of them had smaller batches than planned, by the most tokens of a batch.
    """

    split: str
    candidates: list[Candidate]
    tally: Tally
    bounds: list[int]
    done: set[str]
    arrived: dict[int, Outcome] = field(default_factory=dict)
    given: int = 0
    counted: int = 0
    predictions: list[np.ndarray] = field(default_factory=list)
    mass: list[np.ndarray] = field(default_factory=list)
    smaller: Counter[int] = field(default_factory=Counter)

    @property
    def most(self) -> int:
        """How many candidates are counted at most: those that a full split has left are not needed."""
        return self.tally.seen if self.ended else self.tally.total

    def name(self, number: int) -> str:
        """What a block is called."""
        return f"{self.split}-{number:06d}"

    def block(self, number: int) -> Sequence[Candidate]:
        """The candidates of a block."""
        return self.candidates[self.bounds[number] : self.bounds[number + 1]]

    def next_block(self) -> int | None:
        """The next block that nobody has begun; None where there is none, or no more are needed."""
        while self.given < len(self.bounds) - 1 and self.name(self.given) in self.done:
            self.given += 1
        return None if self.tally.full or self.given == len(self.bounds) - 1 else self.given

    def will_fill(self) -> bool:
        """Whether the blocks that were given out are likely to fill the split."""
        return self.tally.will_fill(self.bounds[self.given] - self.tally.seen)

    @property
    def ended(self) -> bool:
        """Whether the split has all its pairs, or no more candidates."""
        return self.tally.full or self.counted == len(self.bounds) - 1


class Scan:
    """Blocks of candidates, given out and counted in visit order, in whatever order they come back.

    Attributes:
        parts: The scan of each split.
        blocks: How many blocks were counted.
        resumed: How many of them an earlier call had journalled.
        tokens: What the model ran in this call.
    """

    def __init__(self, settings: Settings, candidates: Sequence[Candidate], journal: Journal) -> None:
        self._settings, self._journal = settings, journal
        self._graded_by = settings.task.graded_by(settings.protocol)
        wanted = pairs_wanted(settings.per_class)
        divided = divide(candidates, settings.seed, settings.splits)
        done = journal.blocks.names()
        self.parts = {
            split: SplitScan(
                split,
                divided[split],
                Tally(wanted[split], len(divided[split])),
                block_bounds(len(divided[split])),
                done,
            )
            for split in SPLITS
        }
        self.blocks = self.resumed = self.tokens = 0
        self._read: dict[str, Block] = {}

    def run(self, workers: Workers) -> Iterator[None]:
        """Score candidates until every split is full or has no more; yields after each count of outcomes."""
        self._count()
        yield
        with closing(workers.scan(self._jobs(), self._journal)) as outcomes:
            for outcome in outcomes:
                split, _, number = outcome.name.rpartition("-")
                self.parts[split].arrived[int(number)] = outcome
                self.tokens += outcome.cost
                self._count()
                yield
                if all(part.ended for part in self.parts.values()):
                    break  # what the workers have begun beyond is not needed

    def rows(self, split: str, positions: Sequence[int]) -> list[Row]:
        """The rows of the candidates at these positions of a split, all counted."""
        return [self._row(self.parts[split], position) for position in positions]

    def waiting(self, split: str) -> set[str]:
        """The blocks of examples that are kept once their other half is found."""
        part = self.parts[split]
        if part.ended:
            return set()
        numbers = np.searchsorted(part.bounds, part.tally.waiting(), side="right") - 1
        return {part.name(int(number)) for number in np.unique(numbers)}

    def counts(self, split: str) -> dict[str, int]:
        """How many candidates of a split had to be visited, and what came of them."""
        tally = self.parts[split].tally
        scanned = tally.scanned
        successes = int(np.searchsorted(tally.positions[True], scanned))
        return {"scanned": scanned, "successes": successes, "failures": scanned - successes}

    def outcomes(self) -> dict[str, Any]:
        """Counts over all candidates that had to be visited, kept or not."""
        counts = [self.counts(split) for split in SPLITS]
        total = {name: sum(c[name] for c in counts) for name in ("scanned", "successes", "failures")}
        scanned = [part.tally.scanned for part in self.parts.values()]
        predictions, mass = (
            np.concatenate([np.concatenate(p)[:n] for p, n in zip(values, scanned, strict=True)])
            for values in zip(*((p.predictions, p.mass) for p in self.parts.values()), strict=True)
        )
        known = mass[~np.isnan(mass)]
        smaller = sum((part.smaller for part in self.parts.values()), Counter[int]())
        return {
            **total,
            "accuracy": total["successes"] / total["scanned"],
            "answer_shares": (
                (np.bincount(predictions) / total["scanned"]).tolist()
                if self._settings.protocol.outcome == "choice"
                else []
            ),
            "answer_mass": float(known.mean()) if len(known) else None,
            "smaller_batches": {str(tokens): smaller[tokens] for tokens in sorted(smaller)},
        }

    def _jobs(self) -> Iterator[BlockJob]:
        """The blocks that nobody has done, while more are needed."""
        task, protocol = self._settings.task, self._settings.protocol
        while (part := self._next()) is not None:
            number, part.given = part.given, part.given + 1
            block = part.block(number)
            requests = tuple(task.request(c, protocol) for c in block)
            judges = tuple(task.judge(c, protocol) for c in block)
            yield BlockJob(part.name(number), requests, judges, part.tally.keep())

    def _next(self) -> SplitScan | None:
        """The split that the next block is of: split by split, so that few rows wait in the journal.

        A split that the blocks which are under way will probably fill is left until all others are.
        """
        open_parts = [part for part in self.parts.values() if part.next_block() is not None]
        return next((part for part in open_parts if not part.will_fill()), next(iter(open_parts), None))

    def _count(self) -> None:
        """Count the blocks that are here, as far as none is missing before them."""
        for part in self.parts.values():
            while not part.ended:
                number = part.counted
                found: Outcome | Block
                if number in part.arrived:
                    found = part.arrived.pop(number)
                elif part.name(number) in part.done:
                    found = self._block(part.name(number))
                    self.resumed += 1
                else:
                    break
                for success in found.success.tolist():
                    part.tally.visit(success)
                part.predictions.append(found.prediction)
                part.mass.append(found.mass)
                if found.batch_tokens:
                    part.smaller[found.batch_tokens] += 1
                part.counted += 1
                self.blocks += 1

    def _row(self, part: SplitScan, position: int) -> Row:
        number = int(np.searchsorted(part.bounds, position, side="right")) - 1
        block, at = self._block(part.name(number)), position - part.bounds[number]
        candidate = part.candidates[position]
        values = {
            "id": candidate.id,
            "task": self._settings.task.name,
            "group": candidate.group,
            "source_row": candidate.source_row,
            "success": int(block.success[at]),
            "cut_tokens": int(block.cut[at]),
        }
        if self._settings.protocol.outcome == "response":
            return Row(block, int(block.row[at]), values | self._response(candidate, block, at))
        return Row(block, int(block.row[at]), values | self._choice(candidate, block, at))

    def _choice(self, candidate: Candidate, block: Block, at: int) -> dict[str, Any]:
        choices = self._settings.protocol.answers or candidate.choices
        return {
            "choices": list(choices),
            "gold": candidate.gold,
            "prediction": int(block.prediction[at]),
            "choice_logprobs": block.logprobs[at, : len(choices)].tolist(),
            "choice_tokens": block.choice_tokens[at, : len(choices)].tolist(),
        }

    def _response(self, candidate: Candidate, block: Block, at: int) -> dict[str, Any]:
        begin, end = block.offsets[block.row[at] : block.row[at] + 2].tolist()
        return {
            "targets": list(candidate.targets),
            "graded_by": self._graded_by,
            "response_logprob": float(block.logprobs[at, 0]),
            "prompt_tokens": end - begin - int(block.choice_tokens[at, 0]),
        }

    def _block(self, name: str) -> Block:
        if name not in self._read:
            self._read[name] = self._journal.blocks.block(name)
        return self._read[name]
