"""Running the same examples again and again, each time with another change of the residual stream."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wif_store.extract.memory import memory_errors
from wif_store.extract.trials import AGREE, UNFIT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from wif_store.extract.extractor import Extractor
    from wif_store.extract.intervention import Intervention
    from wif_store.extract.work import Work
    from wif_store.records import Record
    from wif_store.tasks.base import Request


class Rerun:
    """Runs blocks of examples under interventions after one layer.

    What the layers up to it compute of a block is the same each time. It is kept from the first run, and the
    next runs begin there. That is tried once: a decoder that gives other numbers then, or does not run, runs
    whole each time. So does one that writes its answers.

    Example::

        rerun = Rerun(extractor, layer=9)
        block = rerun.block(requests)
        before = block.run(None)
        after = block.run(Intervention(9, direction, shift=4.0))
        moved = rerun.divergence(before, after)
    """

    def __init__(self, extractor: Extractor, layer: int) -> None:
        """Take an extractor, for its model, its protocol and its template, and a 0-based layer."""
        self.extractor = replace(extractor, layers=(layer,), sequence_layers=(), around=self._around)
        self.layer = layer
        self.skips: bool | None = False if extractor.protocol.generation else None
        self.running: Block | None = None

    def block(self, requests: Sequence[Request]) -> Block:
        """Examples that are run together.

        Raises:
            SourceError: If one cannot be encoded.
        """
        return Block(self, requests)

    def divergence(self, before: Sequence[Record], after: Sequence[Record]) -> npt.NDArray[np.float64]:
        """How far the distribution of the token after the context moved: KL in nats, float64 ``[n]``.

        Of several contexts it is the mean.
        """
        model = self.extractor.model
        states = [
            [one.context_states for one in records if one.context_states is not None]
            for records in (before, after)
        ]
        first, second = (
            torch.from_numpy(np.concatenate(parts)).to(model.device, model.dtype) for parts in states
        )
        with torch.inference_mode():
            found = model.head.divergence(first, second).double().cpu().numpy()
        ends = np.cumsum([len(part) for part in states[0]])
        return np.array([part.mean() for part in np.split(found, ends[:-1])])

    @contextmanager
    def _around(self, final: torch.Tensor, owner: torch.Tensor) -> Iterator[None]:
        assert self.running is not None
        with self.running.around(final, owner):
            yield


class Block:
    """Examples that are run together; :meth:`Rerun.block` makes them."""

    def __init__(self, rerun: Rerun, requests: Sequence[Request]) -> None:
        """Lay the examples out, unless the model writes: then they are laid out each time."""
        self._rerun, self._requests = rerun, requests
        writes = rerun.extractor.protocol.generation
        self._works: list[Work] | None = None if writes else rerun.extractor.plan(requests)
        self._kept: dict[bytes, Any] = {}
        self._intervention: Intervention | None = None
        self._skipping = False

    def run(self, intervention: Intervention | None) -> list[Record]:
        """Run the examples with a change, or with none.

        Raises:
            ModelError: If they do not fit into memory.
            ResidualError: If a residual becomes NaN or infinite.
        """
        if self._kept and self._rerun.skips is None:
            self._rerun.skips = self._may_skip()
        return self._run(intervention, skipping=bool(self._kept and self._rerun.skips))

    def _may_skip(self) -> bool:
        """Whether the examples give the same where the layers up to the changed one are not run."""
        try:
            whole, found = self._run(None, skipping=False), self._run(None, skipping=True)
        except UNFIT:
            return False
        near = AGREE[self._rerun.extractor.model.dtype]
        return all(
            np.allclose(one.logprobs, other.logprobs, rtol=near, atol=near)
            for one, other in zip(whole, found, strict=True)
        )

    def _run(self, intervention: Intervention | None, *, skipping: bool) -> list[Record]:
        self._intervention, self._skipping = intervention, skipping
        if not skipping:
            self._kept = {}
        extractor, self._rerun.running = self._rerun.extractor, self
        try:
            with memory_errors("a batch", "use a larger device"):
                return extractor.run(extractor.plan(self._requests) if self._works is None else self._works)
        finally:
            self._rerun.running = None

    @contextmanager
    def around(self, final: torch.Tensor, owner: torch.Tensor) -> Iterator[None]:
        """Around a forward pass: stand in for the lower layers, or keep what they give; then the change."""
        modules, layer = self._rerun.extractor.model.layers, self._rerun.layer
        # By what is run, not by its number: where memory was full, other batches follow. Those are run whole.
        # Where the model writes, nothing is kept.
        batch = b"" if self._works is None else torch.cat([final, owner]).cpu().numpy().tobytes()
        with ExitStack() as stack:
            if self._skipping and batch in self._kept:
                stack.enter_context(_standing_in(modules[: layer + 1], self._kept[batch]))
            elif batch and not self._skipping:
                handle = modules[layer].register_forward_hook(
                    lambda *given: self._kept.__setitem__(batch, given[2])
                )
                stack.callback(handle.remove)
            if self._intervention is not None:
                stack.enter_context(self._intervention.applied(modules, final, owner))
            yield


@contextmanager
def _standing_in(modules: Any, output: Any) -> Iterator[None]:
    """Inside, these decoder layers compute nothing, and the last of them gives ``output``."""
    plain = isinstance(output, torch.Tensor)

    def unchanged(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return hidden if plain else (hidden,)

    own = [module.__dict__.get("forward") for module in modules]
    for module in modules:
        module.forward = unchanged
    modules[-1].forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        for module, forward in zip(modules, own, strict=True):
            if forward is None:
                del module.forward
            else:
                module.forward = forward
