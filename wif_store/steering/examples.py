"""Examples of a store, run without a move and with one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wif_store.errors import DamageError, ResidualError, SteerError
from wif_store.steering.outcomes import Outcomes, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from wif_store.extract.intervention import Intervention
    from wif_store.extract.replay import Replay
    from wif_store.extract.rerun import Block, Rerun
    from wif_store.format.schema import Example
    from wif_store.records import Record

BLOCK: Final = 256
"""Examples whose residuals after the layer are kept at a time, so that the layers below it run once."""


APART: Final = 0.05
"""Share of the examples whose numbers may be farther from the store's than its tolerance."""


class Examples:
    """Examples of a split that are run again and again."""

    def __init__(
        self,
        replay: Replay,
        rerun: Rerun,
        examples: Sequence[Example],
        still: Intervention,
        told: Callable[[int], None],
    ) -> None:
        """Take examples.

        Args:
            replay: The store that they are of.
            rerun: What runs them.
            examples: The examples.
            still: A move that changes nothing, so that all runs go through the same hook.
            told: Told how many examples were run.
        """
        self._replay, self._rerun, self._examples = replay, rerun, examples
        self._still, self._told = still, told
        self.differs = 0
        """Answers without a move that are not those of the store."""
        self.apart = 0
        """Examples whose numbers without a move are farther from the store's than rounding explains."""
        self._open: dict[int, tuple[Block, list[Record]]] = {}

    def run(self, move: Intervention | None) -> Outcomes:
        """Run all examples with a move; None is no move."""
        return joined([self._run(first, move) for first in self._firsts])

    def run_all(self, moves: Mapping[Any, Intervention | None]) -> dict[Any, Outcomes]:
        """Run all examples with each of several moves. A block is forgotten when it is done."""
        found: dict[Any, list[Outcomes]] = {name: [] for name in moves}
        for first in self._firsts:
            for name, move in moves.items():
                found[name].append(self._run(first, move))
            del self._open[first]
        return {name: joined(parts) for name, parts in found.items()}

    @property
    def _firsts(self) -> range:
        return range(0, len(self._examples), BLOCK)

    def _run(self, first: int, move: Intervention | None) -> Outcomes:
        """Run one block, after it was run without a move."""
        rerun, examples = self._rerun, self._examples[first : first + BLOCK]
        if first not in self._open:
            block = rerun.block([self._replay.request(example) for example in examples])
            before = self._records(block, self._still)
            self._check(examples, before)
            self._open[first] = block, before
        block, before = self._open[first]
        records = before if move is None else self._records(block, move.of(first, first + BLOCK))
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
            if move is self._still:
                msg = f"{self._replay.store.name}: without a move, the model gives NaN or infinity"
                raise SteerError(msg)
            size = np.max(np.abs(move.shift)) or np.max(np.abs(move.remove))
            msg = (
                f"moved by {size:g} along a direction after layer {move.layer}, the model gives NaN or "
                "infinity: use smaller strengths"
            )
            raise SteerError(msg)
        self._told(len(records))
        return records

    def _check(self, examples: Sequence[Example], records: Sequence[Record]) -> None:
        """Hold what the model gives without a move against the store.

        In low precision the batch of an example shows in its numbers, so a few may lie apart.

        Raises:
            DamageError: If more do.
        """
        apart: list[DamageError] = []
        for example, record in zip(examples, records, strict=True):
            if example.response is None:
                try:
                    self._replay.check_choice(example, record)
                except DamageError as error:
                    apart.append(error)
                assert example.choice is not None
                self.differs += record.prediction != example.choice.prediction
            else:
                verdict = self._replay.judge(example)(record.answer)
                self.differs += verdict.answer != example.response.answer
        if len(apart) > APART * len(examples):
            raise apart[0]
        self.apart += len(apart)
