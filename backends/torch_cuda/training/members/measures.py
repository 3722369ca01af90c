"""What a member's pictures are measured by, against the truth that composing knows; see members.evaluate.

Pictures are [B, H, W, 3] in [0, 1], holes [B, H, W, 1] with 1 for what is repainted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from backends.torch_cuda.training import judge
from backends.torch_cuda.training.members import maps
from flux_core.imaging.edges import BFL_THRESHOLDS

OWN_SHAPE = ("add", "replace")
"""Kinds of edits whose words leave the size and shape of the new thing open."""

KEPT_DB = 28.0
"""PSNR from which what an edit had no reason to change counts as kept."""
_GONE = 0.08  # mean absolute error in a hole, below which it shows its background
_CHANGED = 0.06
_LABELS = {
    "recolour": ("colour", "second_colour"),
    "replace": ("object", "second"),
    "add": ("object", "second", "count"),
    "remove": ("object", "count"),
    "background": ("background", "background_colour"),
    "style": ("style",),
}


def is_gone(made: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """[B], whether holes show what lies behind what was taken away."""
    error = ((made - truth).abs().mean(-1, keepdim=True) * mask).flatten(1).sum(1)
    return error / mask.flatten(1).sum(1).clamp_min(1) < _GONE


def seam(made: Tensor, truth: Tensor, mask: Tensor) -> float:
    """How much higher the step across the border of holes is than the truth's, of 255."""
    return 255 * (_steps(made, mask) - _steps(truth, mask)).item()


def _steps(images: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute step across the border of holes."""
    total, count = images.new_zeros(()), images.new_zeros(())
    for axis in (1, 2):
        is_border = mask.diff(dim=axis).abs() > 0.5
        steps = images.diff(dim=axis).abs().mean(-1, keepdim=True)
        total, count = total + (steps * is_border).sum(), count + is_border.sum()
    return total / count.clamp_min(1)


def edit_done(
    eye: judge.Judge, labels: dict[str, Tensor], made: Tensor, truth: Tensor, kind: str, amp: Any
) -> Tensor:
    """[B], whether the judge sees what an edit asked for; an emptied picture is compared with the truth."""
    seen = judge.answers(eye, made, amp)
    done = torch.ones(len(made), dtype=torch.bool, device=made.device)
    for name in _LABELS[kind]:
        done &= (labels[name] < 0) | (labels[name] == seen[name])
    is_empty = labels["object"] < 0
    is_clean = (made - truth).abs().flatten(1).mean(1) < _GONE / 2
    return torch.where(is_empty, is_clean, done)


def kept_db(made: Tensor, before: Tensor, truth: Tensor, has_own_shape: bool = False) -> Tensor:
    """[B], PSNR of what an edit had no reason to change, against the picture before it, in dB.

    Args:
        made: What the model painted.
        before: What it was given.
        truth: What it should have painted.
        has_own_shape: The words leave open how large and of which shape the new thing is. Then the one
            region that changed and reaches into the truth's region is the change, too, unless together they
            are over twice the truth's: damage to the rest stays damage.
    """
    changed = _is_changed(truth, before)
    if has_own_shape:
        own = _connected(_is_changed(made, before), changed)
        both = torch.maximum(own, changed)
        is_small = both.flatten(1).sum(1) <= 2 * changed.flatten(1).sum(1)
        changed = torch.where(is_small[:, None, None, None], both, changed)
    kept = 1 - functional.max_pool2d(changed, 17, 1, 8)[:, 0, ..., None]
    error = ((made - before).pow(2) * kept).flatten(1).sum(1)
    mean = error / (3 * kept.flatten(1).sum(1)).clamp_min(1)
    return -10 * mean.clamp_min(1e-10).log10()


def _is_changed(images: Tensor, before: Tensor) -> Tensor:
    """[B, 1, H, W], 1 where pictures differ by more than noise."""
    return ((images - before).abs().amax(-1) > _CHANGED).float()[:, None]


def _connected(region: Tensor, start: Tensor) -> Tensor:
    """What of a region [B, 1, H, W] hangs together with where it meets `start`."""
    found = region * start
    while True:
        more = functional.max_pool2d(found, 3, 1, 1) * region
        if torch.equal(more, found):
            return found
        found = more


def edge_f1(made: Tensor, wanted: Tensor) -> float:
    """F1 of edges [B, H, W, 3] that lie within a pixel of each other, mean over pictures."""
    found = maps.edges(made, *BFL_THRESHOLDS)[..., :1].permute(0, 3, 1, 2)
    truth = wanted[..., :1].permute(0, 3, 1, 2)
    near_truth, near_found = (functional.max_pool2d(each, 3, 1, 1) for each in (truth, found))
    precision = (found * near_truth).flatten(1).sum(1) / found.flatten(1).sum(1).clamp_min(1)
    recall = (truth * near_found).flatten(1).sum(1) / truth.flatten(1).sum(1).clamp_min(1)
    return (2 * precision * recall / (precision + recall).clamp_min(1e-6)).mean().item()


def outline_recall(made: Tensor, depth_map: Tensor) -> float:
    """Share of the depth map's outlines within two pixels of which the picture has an edge."""
    outline = maps.edges(depth_map, 50.0, 100.0)[..., :1].permute(0, 3, 1, 2)
    found = functional.max_pool2d(maps.edges(made, 25.0, 75.0)[..., :1].permute(0, 3, 1, 2), 5, 1, 2)
    return ((outline * found).flatten(1).sum(1) / outline.flatten(1).sum(1).clamp_min(1)).mean().item()
