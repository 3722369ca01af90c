"""One evaluation of the transformer on all ranks: the same on each, with its own share of the tokens."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor

from backends.torch_cuda.graphs import MIN_FREE_SHARE, Recording
from backends.torch_cuda.split.links import Links
from backends.torch_cuda.split.ops import Exchange, SplitOps
from backends.torch_cuda.split.shares import Shares
from flux_core.models.transformer import Transformer

_log = logging.getLogger(__name__)


class Inputs(NamedTuple):
    """What `Transformer.modulated` is given, whole, on every rank.

    Attributes:
        img: [1, L_img, C].
        txt: [1, L_txt, D].
        rows: [1, M, D] modulations.
        pe: [L_txt + L_img, D/2, 2] float32.
    """

    img: Tensor
    txt: Tensor
    rows: Tensor
    pe: Tensor


def evaluated(model: Transformer, links: Links, inputs: Inputs) -> Tensor:
    """The velocity [1, L_img, C], whole on rank 0.

    Args:
        model: Its operations are SplitOps.
        links: Of this rank.
        inputs: Contiguous; those of rank 0 are written into everybody's.
    """
    for values in inputs:
        links.broadcast(values)
    img, txt, rows, pe = inputs
    rank, shares = links.rank, Shares.of(txt.shape[1], img.shape[1], links.size)
    ops: Any = model.ops
    assert isinstance(ops, SplitOps)
    with ops.over(Exchange(links, shares.counts, model.config.num_heads)):
        own = model.modulated(
            img[:, shares.img_of(rank)], txt[:, shares.txt_of(rank)], rows, shares.rotary_of(rank, pe)
        )
    return links.gathered(own[0].contiguous(), shares.img_counts)[None]


def recorded(model: Transformer, links: Links, inputs: Inputs, pool: Any) -> Recording | None:
    """The same as a CUDA graph that reads and writes `inputs`, which must be this recording's own.

    None where the device has too little memory left or refuses.
    """
    free, total = torch.cuda.mem_get_info(links.device)
    if free < MIN_FREE_SHARE * total:
        return None
    try:
        return Recording(lambda: evaluated(model, links, inputs), list(inputs), pool, links.device)
    except RuntimeError as err:
        _log.info("A step on several devices could not be recorded: %s", str(err).splitlines()[0])
        return None
