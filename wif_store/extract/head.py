"""A model's head: log-probabilities in float32, whatever the model computes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PIECE_BYTES: Final = 256 * 2**20
"""How many bytes of float32 logits are held at once."""

SHARPENED: Final = 32
"""How many of the largest logits of a state are computed again in float32."""


@dataclass(slots=True)
class Head:
    """The projection onto the vocabulary, and the cap that some models put on it.

    A bfloat16 logit near 20 is a multiple of 1/8, too coarse to tell two choices apart. So the
    projection runs in the model's own type, and then the logits that carry the sum, the largest and
    the scored ones, are computed again in float32. The rounding of the others averages out: their
    log-sum is within about 1e-3 nats of the exact one.
    """

    module: Any
    softcap: float | None

    @property
    def vocabulary(self) -> int:
        """How many logits there are."""
        return int(self.module.weight.shape[0])

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Final-norm states ``[n, d_model]`` -> logits ``[n, vocabulary]``, in the model's dtype."""
        return self._capped(self.module(states))

    def log_probs(
        self, states: torch.Tensor, place: npt.NDArray[np.int64], token: npt.NDArray[np.int64]
    ) -> torch.Tensor:
        """The log-probability in nats of ``token[i]`` at state ``place[i]``.

        Args:
            states: Final-norm states ``[n, d_model]``.
            place: int64 ``[m]``, rising.
            token: int64 ``[m]``.

        Returns:
            float32 ``[m]``, on the device of the states.
        """
        step = max(1, PIECE_BYTES // (4 * self.vocabulary))
        logits, sums = [], []
        for piece in states.split(step):
            sums.append(self._log_sum(piece))
        at = torch.from_numpy(place).to(states.device)
        wanted = torch.from_numpy(token).to(states.device)
        for piece_at, piece_wanted in zip(at.split(4096), wanted.split(4096), strict=True):
            logits.append(self._exact(states[piece_at], piece_wanted[:, None])[:, 0])
        return self._capped(torch.cat(logits)) - torch.cat(sums)[at]

    def _log_sum(self, states: torch.Tensor) -> torch.Tensor:
        """Log of the sum over the vocabulary, float32 ``[n]``."""
        logits = self.module(states)
        if logits.dtype == torch.float32:
            return self._capped(logits).logsumexp(-1)
        top = logits.topk(min(SHARPENED, self.vocabulary), dim=-1, sorted=False).indices
        exact = self._exact(states, top)
        # On a CPU row by row, so that a row in float32 stays in its cache.
        rows = 1 if logits.device.type == "cpu" else len(logits)
        pieces = zip(logits.split(rows), top.split(rows), exact.split(rows), strict=True)
        return torch.cat([self._capped(a.float().scatter_(1, i, b)).logsumexp(-1) for a, i, b in pieces])

    def _exact(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Uncapped logits of ``tokens`` ``[n, k]`` at ``states`` ``[n, d_model]``, float32 ``[n, k]``."""
        weight = self.module.weight[tokens].float()
        logits = torch.bmm(weight, states.float()[:, :, None])[:, :, 0]
        bias = self.module.bias
        return logits if bias is None else logits + bias[tokens].float()

    def _capped(self, logits: torch.Tensor) -> torch.Tensor:
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap
