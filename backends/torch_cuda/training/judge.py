"""A small picture classifier: the eye that gives perceptual features and scores samples.

It learns object, style, colours, background, place and count from composed scenes, whose labels are
exact. The autoencoder's perceptual loss uses its features (no VGG weights were found in the registries),
and evaluation asks it what a sample shows, after its own accuracy on true scenes is reported.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (48, 96, 192, 384)
SIDE_PX = 128


class Judge(nn.Module):
    """Picture [B, 3, 128, 128] in [-1, 1] to one list of logits per label.

    Args:
        heads: Label name -> number of classes.
    """

    def __init__(self, heads: dict[str, int]) -> None:
        super().__init__()
        self.heads = dict(heads)
        stages: list[nn.Module] = []
        width = 3
        for index, out in enumerate(WIDTHS):
            stages.append(_stage(width, out, is_stem=index == 0))
            width = out
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(2 * width, sum(heads.values()))

    def features(self, x: Tensor) -> list[Tensor]:
        """Activations after every stage."""
        out: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            out.append(x)
        return out

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        last = self.features(x)[-1].float()
        pooled = torch.cat([last.mean((2, 3)), last.amax((2, 3))], dim=1)
        logits = self.head(pooled).split(list(self.heads.values()), dim=1)
        return dict(zip(self.heads, logits, strict=True))


def _stage(width: int, out: int, is_stem: bool) -> nn.Sequential:
    first = 5 if is_stem else 3
    return nn.Sequential(
        nn.Conv2d(width, out, first, 2 if is_stem else 1, first // 2, bias=False),
        nn.BatchNorm2d(out),
        nn.SiLU(),
        nn.Conv2d(out, out, 3, 2, 1, bias=False),
        nn.BatchNorm2d(out),
        nn.SiLU(),
        nn.Conv2d(out, out, 3, 1, 1, bias=False),
        nn.BatchNorm2d(out),
        nn.SiLU(),
    )


def prepare(images: Tensor) -> Tensor:
    """Images [B, H, W, 3] in [0, 1] -> [B, 3, 128, 128] in [-1, 1]."""
    x = images.permute(0, 3, 1, 2)
    if x.shape[-2:] != (SIDE_PX, SIDE_PX):
        x = functional.interpolate(x, size=(SIDE_PX, SIDE_PX), mode="bilinear", antialias=True)
    return x.clamp(0, 1) * 2 - 1


def loss(logits: dict[str, Tensor], labels: dict[str, Tensor]) -> Tensor:
    """Sum of cross entropies; a label of -1 does not count."""
    parts = [
        functional.cross_entropy(logits[name].float(), labels[name].long(), ignore_index=-1)
        for name in logits
        if bool((labels[name] >= 0).any())
    ]
    return torch.stack(parts).sum()


@torch.no_grad()
def answers(judge: Judge, images: Tensor, amp: Any) -> dict[str, Tensor]:
    """The class [B] that the judge gives every picture, per label."""
    judge.eval()
    with amp():
        parts = [judge(prepare(chunk)) for chunk in images.split(128)]
    return {name: torch.cat([part[name] for part in parts]).argmax(1) for name in judge.heads}


def accuracy(judge: Judge, images: Tensor, labels: dict[str, Tensor], amp: Any) -> dict[str, float]:
    """Fraction right per label, over the scenes where the label is defined."""
    out: dict[str, float] = {}
    for name, guess in answers(judge, images, amp).items():
        known = labels[name] >= 0
        if int(known.sum()):
            out[name] = (guess[known] == labels[name][known]).float().mean().item()
    return out


def perceptual(judge: Judge, a: Tensor, b: Tensor) -> Tensor:
    """Distance of unit-normalised features of two pictures [B, 3, H, W] in [-1, 1] (LPIPS without weights).

    Source: Zhang et al. 2018.
    """
    total = a.new_zeros(())
    for fa, fb in zip(judge.features(a), judge.features(b), strict=True):
        na = fa / (fa.float().pow(2).sum(1, keepdim=True).sqrt() + 1e-6)
        nb = fb / (fb.float().pow(2).sum(1, keepdim=True).sqrt() + 1e-6)
        total = total + (na - nb).pow(2).sum(1).mean()
    return total / len(WIDTHS)
