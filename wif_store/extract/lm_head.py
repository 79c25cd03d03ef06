"""A model's head: log-probabilities in float32, whatever the model computes in."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from torch.nn import functional

from wif_store.errors import ModelError
from wif_store.extract.float32_linear import needs_float32, piece_rows, pieces
from wif_store.extract.layers import decoder_of
from wif_store.extract.transfer import to_device

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PIECE_BYTES: Final = 512 * 2**20
"""How many bytes the logits of one product take, were they float32."""

SHARPENED: Final = 32
"""How many of the largest logits of a state are computed again in float32."""

SLICE: Final = 128
"""Logits of which the largest is found first, when the largest of all are wanted."""

LOG2_E: Final = math.log2(math.e)

SCALES: Final = (
    ("logit_scale", 1),
    ("logits_scaling", -1),
    ("logits_scaling", 1),
    ("lm_head_multiplier", 1),
    ("logits_mup_width_multiplier", -1),
)
"""Settings that logits are multiplied by (1) or divided by (-1); two families use one name for both."""

CAPS: Final = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap", "logit_softcap")
"""Settings of a soft cap of the logits."""

SIZES: Final = (1.0, 1.0, 64.0, 64.0)
"""What the states of the trial's tokens are multiplied by."""

SAME_LOGITS: Final = 0.02
"""Relative L2 within which the logits of a token are the model's own."""


@dataclass(slots=True)
class Head:
    """The projection onto the vocabulary, with the factor and the cap that some models put on its logits.

    A bfloat16 logit near 20 is a multiple of 1/8, too coarse to tell two choices apart. So the projection
    runs in the model's own type, and then the logits that carry the sum, the largest and the scored ones,
    are computed again in float32. The rounding of the others averages out: their log-sum is within about
    1e-3 nats of the exact one. On a CPU whose products are made in float32, every logit is exact as it is.

    Attributes:
        module: The linear map from states to logits.
        softcap: Logits become ``softcap * tanh(logits / softcap)``, unless it is None.
        scale: What logits are multiplied by before that.
    """

    module: Any
    softcap: float | None = None
    scale: float = 1.0
    _buffers: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def vocabulary(self) -> int:
        """How many logits there are."""
        return int(self.module.weight.shape[0])

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Final-norm states ``[n, d_model]`` -> logits ``[n, vocabulary]``, in the model's dtype."""
        return self._finish(self.module(states))

    def divergence(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """How far the distribution of the next token moved between two states: KL(before || after), in nats.

        Args:
            before: Final-norm states ``[n, d_model]``.
            after: As many others.

        Returns:
            float32 ``[n]``. In bfloat16 the rounding of the logits adds about 1e-3.
        """
        step = max(1, PIECE_BYTES // (8 * self.vocabulary))
        found = []
        for first, second in zip(before.split(step), after.split(step), strict=True):
            one, other = (self.logits(states).float().log_softmax(-1) for states in (first, second))
            found.append((one.exp() * (one - other)).sum(-1).clamp_min(0))
        return torch.cat(found)

    def log_probs(
        self, states: torch.Tensor, row: npt.NDArray[np.int64], token: npt.NDArray[np.int64]
    ) -> torch.Tensor:
        """The log-probability in nats of ``token[i]`` at state ``row[i]``.

        Args:
            states: Final-norm states ``[n, d_model]``.
            row: int64 ``[m]``.
            token: int64 ``[m]``.

        Returns:
            float32 ``[m]``, on the device of the states.
        """
        if states.device.type == "cpu" and (states.dtype == torch.float32 or needs_float32(states.dtype)):
            sums = self._log_sum_by_tokens(states)
        else:
            step = max(1, PIECE_BYTES // (4 * self.vocabulary))
            sums = torch.cat([self._log_sum_by_states(piece) for piece in states.split(step)])
        at, wanted = (to_device(index, states.device) for index in (row, token))
        logits = self._exact(states[at], wanted[:, None])[:, 0]
        return self._finish(logits) - sums[at]

    def _log_sum_by_states(self, states: torch.Tensor) -> torch.Tensor:
        """Log of the sum of exponentials over the vocabulary, float32 ``[n]``."""
        logits = self._buffer("logits", len(states), states)
        torch.mm(states, self.module.weight.T, out=logits)
        if self.module.bias is not None:
            logits += self.module.bias
        # On a CPU four rows for each thread at a time: they stay in its cache, and need fewer calls than one
        # row.
        rows = 4 * torch.get_num_threads() if states.device.type == "cpu" else max(1, len(states))
        sums = torch.empty(len(states), device=states.device)
        for start in range(0, len(states), rows):
            piece = slice(start, start + rows)
            values = self._buffer("values", len(states[piece]), sums).copy_(logits[piece])
            if states.dtype != torch.float32:
                top = largest(values, min(SHARPENED, self.vocabulary))
                values.scatter_(1, top, self._exact(states[piece], top))
            sums[piece] = log_sum(self._finish(values), -1)
        return sums

    def _log_sum_by_tokens(self, states: torch.Tensor) -> torch.Tensor:
        """The same where products are made in float32: pieces of the vocabulary, which stay in the cache."""
        columns = states.float().T.contiguous()
        buffer = torch.empty(piece_rows(self.module), len(states))
        sums = []
        for _, weight, bias in pieces(self.module):
            logits = torch.mm(weight, columns, out=buffer[: len(weight)])
            if bias is not None:
                logits += bias[:, None]
            sums.append(log_sum(self._finish(logits), 0))
        return torch.stack(sums).logsumexp(0)

    def _buffer(self, name: str, rows: int, like: torch.Tensor) -> torch.Tensor:
        """Uninitialised ``[rows, vocabulary]``, in the same memory each time, for fresh pages cost time."""
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < rows:
            buffer = self._buffers[name] = torch.empty(
                rows, self.vocabulary, dtype=like.dtype, device=like.device
            )
        return buffer[:rows]

    def _exact(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Unscaled logits of ``tokens`` ``[n, k]`` at ``states`` ``[n, d_model]``, float32 ``[n, k]``."""
        # A product of matrices this small, and indexing, cost a CPU three times as much.
        weight = functional.embedding(tokens, self.module.weight).float()
        logits = (weight * states.float()[:, None]).sum(-1)
        bias = self.module.bias
        return logits if bias is None else logits + bias[tokens].float()

    def _finish(self, logits: torch.Tensor) -> torch.Tensor:
        """Scale and cap logits, in place."""
        if self.scale != 1:
            logits.mul_(self.scale)
        return logits if self.softcap is None else logits.div_(self.softcap).tanh_().mul_(self.softcap)


@torch.inference_mode()
def find_head(causal_lm: Any, config: Any) -> Head:
    """The head of a model whose logits are a linear map of the decoder's last state, with a factor and a cap.

    Raises:
        ModelError: If its logits are anything else, so that no likelihood is silently wrong.
    """
    name = type(causal_lm).__name__
    module = causal_lm.get_output_embeddings()
    if not isinstance(module, nn.Linear):
        msg = f"the output embeddings of {name} are {type(module).__name__}; expected one linear map"
        raise ModelError(msg)
    seen: list[torch.Tensor] = []

    def enlarge(decoder: nn.Module, inputs: Any, output: Any) -> Any:
        # A cap near the size of ordinary logits changes them little: it shows on large ones.
        output.last_hidden_state = (
            output.last_hidden_state * output.last_hidden_state.new_tensor(SIZES)[:, None]
        )
        seen.append(output.last_hidden_state)
        return output

    handle = decoder_of(causal_lm).register_forward_hook(enlarge)
    try:
        ids = torch.arange(1, 1 + len(SIZES), device=causal_lm.device)[None]
        theirs = causal_lm(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    given = [(getattr(config, setting, None), power) for setting, power in SCALES]
    scales = [float(value) ** power for value, power in given if isinstance(value, int | float) and value > 0]
    caps = [cap for setting in CAPS if (cap := getattr(config, setting, None))]
    # What the configuration says comes first: a factor near 1 is within rounding of none.
    for scale, cap in itertools.product((*scales, 1.0), (*caps, None)):
        head = Head(module, cap, scale)
        if any(_same_logits(head.logits(states), theirs) for states in seen):
            return head
    msg = (
        f"the logits of {name} are not its output embedding of the decoder's last state (nor that with a "
        "factor or a soft cap of its configuration); this model is not supported"
    )
    raise ModelError(msg)


def _same_logits(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether the logits are the same at every token."""
    if ours.shape != theirs.shape:
        return False
    # A float16 pass may overflow here: the build refuses it later, and names the layer.
    ours, theirs = (torch.nan_to_num(logits.double(), 0, 0, 0) for logits in (ours, theirs))
    return bool(((ours - theirs).norm(dim=-1) <= SAME_LOGITS * theirs.norm(dim=-1)).all())


def log_sum(logits: torch.Tensor, dim: int) -> torch.Tensor:
    """Log of the sum of exponentials over a dimension, of float32; ``logits`` are used up."""
    top = logits.amax(dim, keepdim=True)
    # exp2 is up to four times as quick as exp on a CPU.
    torch.add(top * -LOG2_E, logits, alpha=LOG2_E, out=logits)
    return logits.exp2_().sum(dim).log_() + top.squeeze(dim)


def largest(values: torch.Tensor, k: int) -> torch.Tensor:
    """Where the ``k`` largest of each row of ``[n, size]`` are, in no order: int64 ``[n, k]``.

    ``topk`` over a whole vocabulary is slow. The k largest lie in the k slices with the largest maxima.
    """
    n, size = values.shape
    if size % SLICE or size // SLICE < k:
        return values.topk(k, sorted=False).indices
    slices = values.view(n, -1, SLICE)
    best = slices.amax(-1).topk(k, sorted=False).indices
    among = slices.gather(1, best[:, :, None].expand(-1, -1, SLICE)).flatten(1).topk(k, sorted=False).indices
    return best.gather(1, among // SLICE) * SLICE + among % SLICE
