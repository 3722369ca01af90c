"""Attention with heads too wide for the fused kernels: the autoencoder's single head of 512.

Queries go in parts, so that the scores of one part are all that is in memory; two plain products and a
softmax are faster there than a fused kernel that was made for narrow heads.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_FUSED_DIM = 256
_PART_QUERIES = 4096


def wide_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T) v; [B, H, L, D] each -> the same."""
    out = torch.empty_like(q)
    keys = k.transpose(-1, -2)
    for start in range(0, q.shape[2], _PART_QUERIES):
        part = slice(start, start + _PART_QUERIES)
        scores = torch.matmul(q[:, :, part] * scale, keys)
        torch.matmul(torch.softmax(scores, dim=-1), v, out=out[:, :, part])
    return out
