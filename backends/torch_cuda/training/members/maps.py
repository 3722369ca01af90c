"""Masks and control maps of whole batches on the device that trains, with the truth that composing knows.

The edges are OpenCV's Canny to the pixel, which the engines use; depth is what the scene's layers say.

Source: Canny 1986; OpenCV imgproc/src/canny.cpp (channel choice, suppression, hysteresis).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from backends.torch_cuda.training.data.pairs import AROUND_OBJECT, BORDER, BOX, OBJECT
from backends.torch_cuda.training.data.scenes import BACKGROUNDS

_TAN_22 = 13573  # tan(22.5 degrees) in units of 2 ** -15, as OpenCV has it
_GROWTHS_PX = (5, 9, 15)
_FAR, _NEAR = 0.08, 0.55  # of the ground, at the horizon and in front
_STEP = 0.1  # from one object to the next nearer one
_RELIEF = 0.25  # how far an object's middle comes forward


def masks(hole: Tensor, box: Tensor, grow: Tensor, covered: Tensor) -> Tensor:
    """Holes [B, H, W, 1], 1 = repaint.

    Args:
        hole: [B] kinds of data.pairs.
        box: [B, 4] left, top, right, bottom, fractions.
        grow: [B] in [0, 1], how far a hole goes beyond its object.
        covered: [B, H, W, 1] coverage of the object.
    """
    _, rows, columns, _ = covered.shape
    inside = box_masks(box, rows, columns)
    shape = (covered > 0.1).float().permute(0, 3, 1, 2)
    choices = torch.stack(_grown(shape))
    which = (grow * len(_GROWTHS_PX)).long().clamp(0, len(_GROWTHS_PX) - 1)
    grown = choices[which, torch.arange(len(hole), device=hole.device)][:, 0]  # [B, H, W]
    down, across = grown.amax(2, keepdim=True), grown.amax(1, keepdim=True)
    kinds = {BOX: inside, OBJECT: grown, AROUND_OBJECT: down * across, BORDER: 1.0 - inside}
    out = torch.zeros_like(inside)
    for kind, mask in kinds.items():
        out = torch.where((hole == kind)[:, None, None], mask, out)
    return out[..., None]


def _grown(shape: Tensor) -> list[Tensor]:
    """A shape [B, 1, H, W] grown by each of _GROWTHS_PX to all sides.

    Each is the one before it grown by the rest, and one axis comes after the other, which is quick.
    """
    grown, reached = [shape], 0
    for px in _GROWTHS_PX:
        more = px - reached
        down = functional.max_pool2d(grown[-1], (2 * more + 1, 1), 1, (more, 0))
        grown.append(functional.max_pool2d(down, (1, 2 * more + 1), 1, (0, more)))
        reached = px
    return grown[1:]


def box_masks(box: Tensor, rows: int, columns: int) -> Tensor:
    """Boxes [B, 4] in fractions as masks [B, H, W]."""
    y = (torch.arange(rows, device=box.device) + 0.5) / rows
    x = (torch.arange(columns, device=box.device) + 0.5) / columns
    is_down = (y >= box[:, 1, None]) & (y < box[:, 3, None])
    is_across = (x >= box[:, 0, None]) & (x < box[:, 2, None])
    return (is_down[:, :, None] & is_across[:, None, :]).float()


def mask_tokens(mask: Tensor) -> Tensor:
    """[B, H, W, 1] -> [B, (H/16)(W/16), 256], as flux_core.conditioning.fill.mask_tokens."""
    count, rows, columns, _ = mask.shape
    grid = mask.reshape(count, rows // 16, 2, 8, columns // 16, 2, 8).permute(0, 1, 4, 3, 6, 2, 5)
    return grid.reshape(count, (rows // 16) * (columns // 16), 256)


@torch.no_grad()
def edges(images: Tensor, low: float, high: float) -> Tensor:
    """Canny's edges as maps [B, H, W, 3], 1 on an edge.

    Args:
        images: [B, H, W, 3] in [0, 1].
        low: Threshold of edges that go on, as flux_core.imaging.edges.canny_map takes it.
        high: Threshold of edges that begin.
    """
    x = (images * 255).round().permute(0, 3, 1, 2)
    dx, dy = _sobel(x)
    size, channel = (dx.abs() + dy.abs()).max(1, keepdim=True)
    dx, dy = dx.gather(1, channel), dy.gather(1, channel)
    is_peak = _peaks(size, dx, dy) & (size > low)
    found = (is_peak & (size > high)).float()
    weak = is_peak.float()
    while True:
        more = functional.max_pool2d(found, 3, 1, 1) * weak
        if torch.equal(more, found):
            return found.permute(0, 2, 3, 1).expand(-1, -1, -1, 3)
        found = more


def _sobel(x: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives across and down, each [B, C, H, W]; the border is repeated."""
    p = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    smooth = p[:, :, :-2] + 2 * p[:, :, 1:-1] + p[:, :, 2:]
    across = p[..., :-2] + 2 * p[..., 1:-1] + p[..., 2:]
    return smooth[..., 2:] - smooth[..., :-2], across[:, :, 2:] - across[:, :, :-2]


def _peaks(size: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Where the gradient is larger than before and behind it, in its own direction."""
    rows, columns = size.shape[-2:]
    p = functional.pad(size, (1, 1, 1, 1))

    def beside(down: int, right: int) -> Tensor:
        return p[..., 1 + down : 1 + down + rows, 1 + right : 1 + right + columns]

    x, y = dx.abs(), dy.abs() * 2**15
    flat = x * _TAN_22
    steep = flat + x * 2**16
    is_across = (size > beside(0, -1)) & (size >= beside(0, 1))
    is_down = (size > beside(-1, 0)) & (size >= beside(1, 0))
    falling = (size > beside(-1, -1)) & (size > beside(1, 1))
    rising = (size > beside(-1, 1)) & (size > beside(1, -1))
    slanted = torch.where((dx < 0) != (dy < 0), rising, falling)
    return torch.where(y < flat, is_across, torch.where(y > steep, is_down, slanted))


@torch.no_grad()
def depths(kind: Tensor, pattern: Tensor, covers: Tensor) -> Tensor:
    """Maps [B, H, W, 3], near is bright, stretched to [0, 1] as the engine stretches what it estimates.

    Args:
        kind: [B] backgrounds.
        pattern: [B, 3] of the composer's columns; the second is the horizon of a ground.
        covers: [B, S, H, W] coverage of the objects one by one, the last in front.
    """
    count, slots, rows, columns = covers.shape
    y = (torch.arange(rows, device=covers.device) + 0.5)[None, :, None] / rows
    horizon = pattern[:, 1, None, None].clamp(max=0.95)
    ground = _FAR + (_NEAR - _FAR) * ((y - horizon) / (1 - horizon)).clamp(0, 1)
    is_ground = (kind == BACKGROUNDS.index("ground"))[:, None, None]
    depth = torch.where(is_ground, ground, torch.full_like(ground, _FAR)).expand(-1, -1, columns)
    reach = min(rows, columns) // 8
    blurred = functional.avg_pool2d(covers, 2 * reach + 1, 1, reach, count_include_pad=True)
    relief = blurred / blurred.flatten(2).amax(2)[..., None, None].clamp_min(1e-3)
    for slot in range(slots):
        nearness = _NEAR + _STEP * slot + _RELIEF * relief[:, slot]
        depth = torch.where(covers[:, slot] > 0.5, nearness, depth)
    low, high = depth.flatten(1).amin(1)[:, None, None], depth.flatten(1).amax(1)[:, None, None]
    spread = (depth - low) / (high - low).clamp_min(1e-6)
    shown = torch.where(high - low > 1e-6, spread, torch.full_like(spread, 128 / 255))
    return (shown * 255).round().div(255).reshape(count, rows, columns, 1).expand(-1, -1, -1, 3)
