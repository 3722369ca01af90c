"""One evaluation of the transformer on all ranks: the same on each, with its own share of the tokens."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from backends.torch_cuda.graphs import MIN_FREE_SHARE
from backends.torch_cuda.recording import Recording, Tape
from backends.torch_cuda.split.inputs import Inputs
from backends.torch_cuda.split.links import Links
from backends.torch_cuda.split.ops import Exchange, SplitOps
from backends.torch_cuda.split.shares import Shares
from flux_core.models.transformer import Residuals, Transformer
from flux_core.sampling.step_cache import Sparing

_log = logging.getLogger(__name__)


def evaluated(
    model: Transformer,
    links: Links,
    inputs: Inputs,
    cache: Any = None,
    heard: Hashable = None,
) -> Tensor:
    """The velocity [1, L_img, C], whole on rank 0.

    Args:
        model: Its operations are SplitOps.
        links: Of this rank.
        inputs: Contiguous; those of rank 0 are written into everybody's.
        cache: What this rank has in place of a BlockCache (caches.py), or None.
        heard: As for Transformer.modulated.
    """
    for values in inputs.arrays:
        links.broadcast(values)
    img, txt, rows, pe, residuals, image_prompts, bias = inputs
    rank, shares = links.rank, Shares(txt.shape[1], img.shape[1], links.size)
    ops: Any = model.ops
    assert isinstance(ops, SplitOps)
    own = shares.of(rank)
    cached = {} if cache is None else {"cache": cache, "heard": heard}
    evaluate = model.modulated if cache is None else Sparing(model, lambda part: part).evaluated
    with ops.over(Exchange(links, shares.counts, model.config.num_heads)):
        out = evaluate(
            img[:, own],
            txt[:, own],
            rows,
            shares.rows_of(rank, pe),
            residuals=[_cut(each, own) for each in residuals],
            image_prompts=image_prompts,
            bias=None if bias is None else _reordered(bias, shares.order_of(rank, bias.device)),
            **cached,
        )
    rows = links.gathered(out[0].contiguous(), shares.img_counts)
    return rows[None] if rank else shares.merged(rows)[None]


def _cut(residuals: Residuals, own: slice) -> Residuals:
    """A rank's share; reference pictures behind the picture's tokens have none."""
    double, single = ([each[:, own] for each in kind] for kind in (residuals.double, residuals.single))
    return Residuals(double, single, residuals.is_repeated)


def _reordered(bias: Tensor, order: Tensor) -> Tensor:
    """A table [1, 1, L, L] with both axes in another order."""
    return bias.index_select(2, order).index_select(3, order)


def recorded(model: Transformer, links: Links, inputs: Inputs, tape: Tape) -> Recording | None:
    """The same as a CUDA graph that reads and writes `inputs`, which must be this recording's own.

    None where the device has too little memory left or refuses.
    """
    free, total = torch.cuda.mem_get_info(links.device)
    if free < MIN_FREE_SHARE * total:
        return None
    try:
        return Recording(lambda: evaluated(model, links, inputs), inputs.arrays, tape)
    except RuntimeError as err:
        _log.info("A step on several devices could not be recorded: %s", str(err).splitlines()[0])
        return None
