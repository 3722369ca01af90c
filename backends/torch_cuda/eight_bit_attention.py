"""Attention in eight bits, in plain torch: what the kernels compute, for tests and for devices without them.

Queries and keys are whole numbers of eight bits, the softmax's weights and the values are e4m3; sums and the
softmax are float32. RMS norms keep queries and keys within a few deviations, where 255 even steps are finer
than e4m3's: on heads of the bundled family the attention errs by 2.4 % with whole numbers, nearly all of it
the weights' and the values' rounding, and by 4.3 %, at worst 11 %, with e4m3 everywhere.

Source: Zhang et al. 2024 (SageAttention, SageAttention2); Shah et al. 2024 (FlashAttention-3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from backends.torch_cuda.codes import LARGEST, SMALLEST_SCALE
from backends.torch_cuda.leaves import RMSNorm
from flux_core.ops import HeadStream

LARGEST_WHOLE = 127.0
"""The largest whole number of eight bits whose negative is one, too."""
BLOCK = 128
"""Keys, and values, that share a scale."""
WEIGHT_SCALE = 256.0
"""What the softmax's weights, at most 1, are multiplied by on their way to e4m3: small ones stay normal."""


def takes_codes(streams: Sequence[HeadStream]) -> bool:
    """Whether queries and keys of all streams may become codes, as their norms say."""
    norms = [norm for stream in streams for norm in (stream.q_norm, stream.k_norm)]
    return all(isinstance(norm, RMSNorm) and norm.feeds_codes for norm in norms)


def attended(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T) v in eight bits; [B, H, L, D] each -> [B, L, H*D] in the dtype of q."""
    dtype = q.dtype
    q, k, v = q.float(), k.float(), v.float()
    q = _whole(q, q.abs().amax(-1, keepdim=True))
    k = _whole(k, _largest_of_blocks(k))
    logits = scale * (q @ k.transpose(-1, -2))
    weights = torch.exp(logits - logits.amax(-1, keepdim=True))  # not yet divided by their sum
    steps = (_largest_of_blocks(v) / LARGEST).clamp_min(SMALLEST_SCALE)
    sums = _e4m3(weights * WEIGHT_SCALE) @ (_e4m3(v * (1.0 / steps)) * steps)
    out = sums / (WEIGHT_SCALE * weights.sum(-1, keepdim=True))
    return out.transpose(1, 2).flatten(2).to(dtype)


def _whole(x: Tensor, largest: Tensor) -> Tensor:
    """x in 255 even steps between -largest and largest."""
    step = (largest / LARGEST_WHOLE).clamp_min(SMALLEST_SCALE)
    return torch.floor(x * (1.0 / step) + 0.5) * step


def _e4m3(x: Tensor) -> Tensor:
    return x.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).float()


def _largest_of_blocks(x: Tensor) -> Tensor:
    """[B, H, L, D] -> [B, H, L, 1], the largest absolute value of each token's block of tokens."""
    length = x.shape[2]
    blocks = functional.pad(x, (0, 0, 0, -length % BLOCK)).unflatten(2, (-1, BLOCK))
    largest = blocks.abs().amax((-1, -2), keepdim=True)  # [B, H, blocks, 1, 1]
    return largest.expand(*blocks.shape[:-1], 1).flatten(2, 3)[:, :, :length]
