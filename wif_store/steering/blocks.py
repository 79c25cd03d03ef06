"""Examples in blocks, run without a move and with one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wif_store.errors import ResidualError, SteerError
from wif_store.steering.outcomes import Outcomes, joined, parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from wif_store.extract.intervention import Intervention
    from wif_store.extract.replay import Replay
    from wif_store.extract.rerun import Block, Rerun
    from wif_store.format.schema import Example
    from wif_store.records import Record


class Blocks:
    """The examples of a split, in blocks that share their random directions: each is run by itself."""

    def __init__(
        self,
        replay: Replay,
        rerun: Rerun,
        examples: Sequence[Example],
        count: int,
        still: Intervention,
        told: Callable[[int], None],
    ) -> None:
        """Take examples.

        Args:
            replay: The store that they are of.
            rerun: What runs them.
            examples: The examples.
            count: How many blocks, at most.
            still: A move that changes nothing, so that all runs go through the same hook.
            told: Told how many examples were run.
        """
        self._replay, self._rerun, self._examples = replay, rerun, examples
        self._still, self._told = still, told
        self.part = parts_of(len(examples), count)
        """Which block each example is in."""
        self.differs = 0
        """Answers without a move that are not those of the store."""
        self._open: dict[int, tuple[Block, list[Record]]] = {}

    def run(self, moves: Sequence[Intervention | None]) -> Outcomes:
        """Run all examples: with one move, or each block with one of several in turn; None is no move."""
        return joined([self._run(n, moves[n % len(moves)]) for n in self._numbers], self.part)

    def run_all(self, conditions: Mapping[Any, Sequence[Intervention | None]]) -> dict[Any, Outcomes]:
        """Run all examples under each of several conditions. A block is forgotten when it is done."""
        found: dict[Any, list[Outcomes]] = {name: [] for name in conditions}
        for n in self._numbers:
            for name, moves in conditions.items():
                found[name].append(self._run(n, moves[n % len(moves)]))
            del self._open[n]
        return {name: joined(parts, self.part) for name, parts in found.items()}

    @property
    def _numbers(self) -> range:
        return range(int(self.part.max()) + 1)

    def _run(self, n: int, move: Intervention | None) -> Outcomes:
        """Run one block, after it was run without a move."""
        rerun = self._rerun
        examples = [one for one, part in zip(self._examples, self.part, strict=True) if part == n]
        if n not in self._open:
            block = rerun.block([self._replay.request(example) for example in examples])
            before = self._records(block, self._still)
            self._check(examples, before)
            self._open[n] = block, before
        block, before = self._open[n]
        records = before if move is None else self._records(block, move)
        verdicts = [
            self._replay.judge(example)(record.answer)
            for example, record in zip(examples, records, strict=True)
        ]
        answers = [
            record.prediction if example.response is None else verdict.answer
            for example, record, verdict in zip(examples, records, verdicts, strict=True)
        ]
        return Outcomes(
            np.array(answers, dtype=object),
            np.array([verdict.success for verdict in verdicts], dtype=bool),
            np.zeros(len(examples)) if move is None else rerun.divergence(before, records),
        )

    def _records(self, block: Block, move: Intervention) -> list[Record]:
        try:
            records = block.run(move)
            finite = all(np.all(np.isfinite(record.logprobs)) for record in records)
        except ResidualError:
            finite = False
        if not finite:
            if not move.shift and not move.remove:
                msg = f"{self._replay.store.name}: the model gives numbers that are not finite by itself"
                raise SteerError(msg)
            how = f"by {abs(move.shift):g}" if move.shift else f"to {1 - move.remove:g} of what it is"
            msg = (
                f"moved {how} along a direction after layer {move.layer}, the model gives NaN or infinity: "
                "use smaller strengths"
            )
            raise SteerError(msg)
        self._told(len(records))
        return records

    def _check(self, examples: Sequence[Example], records: Sequence[Record]) -> None:
        """Hold what the model gives without a move against the store."""
        for example, record in zip(examples, records, strict=True):
            if example.response is None:
                self._replay.check_choice(example, record)
                assert example.choice is not None
                self.differs += record.prediction != example.choice.prediction
            else:
                verdict = self._replay.judge(example)(record.answer)
                self.differs += verdict.answer != example.response.answer
