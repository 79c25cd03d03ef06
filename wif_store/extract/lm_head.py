"""A model's head: log-probabilities in float32, whatever the model computes in."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn import functional

from wif_store.extract.products import pieces, rows_of, widened
from wif_store.extract.transfer import to_device

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PIECE_BYTES: Final = 512 * 2**20
"""How many bytes the logits of one product take, were they float32."""

SHARPENED: Final = 32
"""How many of the largest logits of a state are computed again in float32."""

BLOCK: Final = 128

LOG2_E: Final = math.log2(math.e)


@dataclass(slots=True)
class Head:
    """The projection onto the vocabulary, and the cap that some models put on it.

    A bfloat16 logit near 20 is a multiple of 1/8, too coarse to tell two choices apart. So the
    projection runs in the model's own type, and then the logits that carry the sum, the largest and
    the scored ones, are computed again in float32. The rounding of the others averages out: their
    log-sum is within about 1e-3 nats of the exact one. On a CPU whose products come in float32,
    of that type or for want of others, every logit is exact as it is.
    """

    module: Any
    softcap: float | None
    _rooms: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def vocabulary(self) -> int:
        """How many logits there are."""
        return int(self.module.weight.shape[0])

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Final-norm states ``[n, d_model]`` -> logits ``[n, vocabulary]``, in the model's dtype."""
        return self._cap(self.module(states))

    def log_probs(
        self, states: torch.Tensor, place: npt.NDArray[np.int64], token: npt.NDArray[np.int64]
    ) -> torch.Tensor:
        """The log-probability in nats of ``token[i]`` at state ``place[i]``.

        Args:
            states: Final-norm states ``[n, d_model]``.
            place: int64 ``[m]``.
            token: int64 ``[m]``.

        Returns:
            float32 ``[m]``, on the device of the states.
        """
        if states.device.type == "cpu" and (states.dtype == torch.float32 or widened(states.dtype)):
            sums = self._log_sum_by_words(states)
        else:
            step = max(1, PIECE_BYTES // (4 * self.vocabulary))
            sums = torch.cat([self._log_sum_by_states(piece) for piece in states.split(step)])
        at, wanted = (to_device(index, states.device) for index in (place, token))
        logits = self._exact(states[at], wanted[:, None])[:, 0]
        return self._cap(logits) - sums[at]

    def _log_sum_by_states(self, states: torch.Tensor) -> torch.Tensor:
        """Log of the sum of exponentials over the vocabulary, float32 ``[n]``."""
        logits = self._room("logits", len(states), states)
        torch.mm(states, self.module.weight.T, out=logits)
        if self.module.bias is not None:
            logits += self.module.bias
        # On a CPU four rows for each thread at a time: in its cache, and fewer calls than one.
        rows = 4 * torch.get_num_threads() if states.device.type == "cpu" else max(1, len(states))
        sums = torch.empty(len(states), device=states.device)
        for start in range(0, len(states), rows):
            piece = slice(start, start + rows)
            values = self._room("values", len(states[piece]), sums).copy_(logits[piece])
            if states.dtype != torch.float32:
                top = largest(values, min(SHARPENED, self.vocabulary))
                values.scatter_(1, top, self._exact(states[piece], top))
            sums[piece] = log_sum(self._cap(values), -1)
        return sums

    def _log_sum_by_words(self, states: torch.Tensor) -> torch.Tensor:
        """The same where products come in float32: pieces of the vocabulary, which stay in the cache."""
        columns = states.float().T.contiguous()
        room = torch.empty(rows_of(self.module), len(states))
        sums = []
        for _, weight, bias in pieces(self.module):
            logits = torch.mm(weight, columns, out=room[: len(weight)])
            if bias is not None:
                logits += bias[:, None]
            sums.append(log_sum(self._cap(logits), 0))
        return torch.stack(sums).logsumexp(0)

    def _room(self, name: str, rows: int, like: torch.Tensor) -> torch.Tensor:
        """Uninitialised ``[rows, vocabulary]``, in the same memory each time, for fresh pages cost time."""
        room = self._rooms.get(name)
        if room is None or len(room) < rows:
            room = self._rooms[name] = torch.empty(
                rows, self.vocabulary, dtype=like.dtype, device=like.device
            )
        return room[:rows]

    def _exact(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Uncapped logits of ``tokens`` ``[n, k]`` at ``states`` ``[n, d_model]``, float32 ``[n, k]``."""
        # A product of matrices this small, and indexing, cost a CPU three times as much.
        weight = functional.embedding(tokens, self.module.weight).float()
        logits = (weight * states.float()[:, None]).sum(-1)
        bias = self.module.bias
        return logits if bias is None else logits + bias[tokens].float()

    def _cap(self, logits: torch.Tensor) -> torch.Tensor:
        """In place."""
        return logits if self.softcap is None else logits.div_(self.softcap).tanh_().mul_(self.softcap)


def log_sum(logits: torch.Tensor, dim: int) -> torch.Tensor:
    """Log of the sum of exponentials over a dimension, of float32; ``logits`` are used up."""
    top = logits.amax(dim, keepdim=True)
    # exp2 is up to four times as quick as exp on a CPU.
    torch.add(top * -LOG2_E, logits, alpha=LOG2_E, out=logits)
    return logits.exp2_().sum(dim).log_() + top.squeeze(dim)


def largest(values: torch.Tensor, k: int) -> torch.Tensor:
    """Where the ``k`` largest of each row of ``[n, size]`` are, in no order: int64 ``[n, k]``.

    ``topk`` over a whole vocabulary is slow. The k largest lie in the k blocks with the largest maxima.
    """
    n, size = values.shape
    if size % BLOCK or size // BLOCK < k:
        return values.topk(k, sorted=False).indices
    blocks = values.view(n, -1, BLOCK)
    best = blocks.amax(-1).topk(k, sorted=False).indices
    among = blocks.gather(1, best[:, :, None].expand(-1, -1, BLOCK)).flatten(1).topk(k, sorted=False).indices
    return best.gather(1, among // BLOCK) * BLOCK + among % BLOCK
