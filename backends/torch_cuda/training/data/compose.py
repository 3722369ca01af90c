"""Draws scenes in batches on the device that trains: background, shadow, recoloured sprites.

The sprites live on the device as premultiplied mip levels; one grid_sample per object places them with
rotation and scale, and recolouring keeps the light of the drawing (its shading and highlights) while
replacing its hue. The same code runs on a CPU for tests and contact sheets, at any picture shape.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from backends.torch_cuda.training.data.feed import LABELS
from backends.torch_cuda.training.data.pack import Pack
from backends.torch_cuda.training.data.scenes import BACKGROUNDS, LINE, MAX_ITEMS

_CHUNK = 512
_LEVELS = 4


class Composer:
    """A pack on a device, ready to draw.

    Args:
        pack: The opened pack.
        device: Where pictures are drawn.
    """

    def __init__(self, pack: Pack, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._levels = [level.to(self.device) for level in _mip_levels(pack)]
        side_px = pack.sprites.shape[1]
        boxes = (
            torch.tensor([info.box for info in pack.infos], dtype=torch.float32, device=self.device) / side_px
        )
        extent = boxes[:, 2:] - boxes[:, :2]
        self._centre = (boxes[:, :2] + boxes[:, 2:]) / 2  # [S, 2] of the content, in sprite units
        self._longest = extent.amax(1)  # [S]
        self._aspect = extent / self._longest[:, None]  # [S, 2] width and height relative to the longer
        self._reference = torch.tensor([max(info.reference, 0.05) for info in pack.infos], device=self.device)
        self._is_line = torch.tensor([info.style == LINE for info in pack.infos], device=self.device)
        self._side_px = side_px

    @torch.no_grad()
    def __call__(self, arrays: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        """Pictures [B, H, W, 3] in [0, 1].

        Args:
            arrays: Columns of data.feed.arrays, on the device.
            size: Height and width in pixels.
        """
        return self.with_masks(arrays, size)[0]

    @torch.no_grad()
    def with_masks(self, arrays: dict[str, Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Pictures [B, H, W, 3] in [0, 1], and where the objects are [B, H, W, 1] in [0, 1]."""
        pictures, covers = self.with_covers(arrays, size)
        return pictures, covers.amax(1)[..., None]

    @torch.no_grad()
    def with_covers(self, arrays: dict[str, Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Pictures [B, H, W, 3] in [0, 1], and what each object covers [B, MAX_ITEMS, H, W] in [0, 1]."""
        count = len(arrays["kind"])
        parts = [
            self._draw({key: arrays[key][at : at + _CHUNK] for key in _DRAWN}, size)
            for at in range(0, count, _CHUNK)
        ]
        pictures = torch.cat([part[0] for part in parts]) if len(parts) > 1 else parts[0][0]
        covers = torch.cat([part[1] for part in parts]) if len(parts) > 1 else parts[0][1]
        return pictures.permute(0, 2, 3, 1), covers

    @staticmethod
    def labels(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
        """Exact labels, int64 [B] each, -1 where one does not apply; classes in data.feed.LABELS."""
        return dict(zip(LABELS, arrays["label"].long().unbind(1), strict=True))

    def _draw(self, arrays: dict[str, Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        grid = _Grid(size, self.device)
        picture = _background(arrays, grid)
        covers = picture.new_zeros(len(picture), MAX_ITEMS, *size)
        for slot in range(MAX_ITEMS):
            sprite, geometry = arrays["sprite"][:, slot].long(), arrays["geometry"][:, slot]
            level = self._level(sprite, geometry[:, 2] * grid.short_px)
            for number, atlas in enumerate(self._levels):
                chosen = ((sprite >= 0) & (level == number)).nonzero()[:, 0]
                if len(chosen) == 0:
                    continue
                shown, place = sprite[chosen], geometry[chosen]
                rgb, alpha = self._sampled(atlas, shown, place, grid, arrays["recolour"][chosen, slot])
                shadow = self._shadow(shown, place, grid, arrays["pattern"][chosen, 2])
                picture[chosen] = picture[chosen] * (1 - shadow) * (1 - alpha) + rgb * alpha
                covers[chosen, slot] = alpha[:, 0]
        return picture.clamp_(0, 1), covers

    def _level(self, sprite: Tensor, size_px: Tensor) -> Tensor:
        """The mip level whose pixels are nearest in size to those of the picture."""
        shrink = self._longest[sprite.clamp_min(0)] * self._side_px / size_px.clamp_min(1)
        return shrink.log2().round().clamp(0, _LEVELS - 1)

    def _sampled(
        self, atlas: Tensor, sprite: Tensor, place: Tensor, grid: _Grid, recolour: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Colour [N, 3, H, W] and coverage [N, 1, H, W] of one object in each of N pictures."""
        cx, cy, size, rotation, mirror = (column[:, None, None] for column in place.unbind(1))
        dx = (grid.x - cx * grid.width) / size
        dy = (grid.y - cy * grid.height) / size
        cosine, sine = torch.cos(rotation), torch.sin(rotation)
        longest = self._longest[sprite][:, None, None]
        centre = self._centre[sprite]
        u = (dx * cosine + dy * sine) * mirror * longest + centre[:, 0, None, None]
        v = (dy * cosine - dx * sine) * longest + centre[:, 1, None, None]
        points = torch.stack([u, v], dim=-1) * 2 - 1
        texels = functional.grid_sample(
            atlas[sprite].float().div_(255),
            points,
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )
        alpha = texels[:, 3:4]
        covered = alpha.clamp_min(1e-3)
        rgb = texels[:, :3] / covered
        weight = (texels[:, 4:5] / covered).clamp(0, 1) * (recolour[:, 3, None, None, None] > 0)
        return rgb + weight * (self._recoloured(rgb, sprite, recolour) - rgb), alpha

    def _recoloured(self, rgb: Tensor, sprite: Tensor, recolour: Tensor) -> Tensor:
        """`rgb` [N, 3, H, W] in a new colour under the same light: shades darken, highlights whiten."""
        target = recolour[:, :3, None, None].float() / 255
        luma = 0.299 * rgb[:, :1] + 0.587 * rgb[:, 1:2] + 0.114 * rgb[:, 2:3]
        light = 0.5 * (luma + rgb.amax(1, keepdim=True)) / self._reference[sprite][:, None, None, None]
        light = torch.where(self._is_line[sprite][:, None, None, None], torch.ones_like(light), light)
        shade = light.clamp(0, 1)
        shade = shade / (shade + 0.6 * (1 - shade))
        return target * shade + (1 - target) * ((light - 1) * 1.2).clamp(0, 0.75)

    def _shadow(self, sprite: Tensor, place: Tensor, grid: _Grid, strength: Tensor) -> Tensor:
        """Soft ellipse [N, 1, H, W] under an object."""
        cx, cy, size = (column[:, None, None] for column in place[:, :3].unbind(1))
        half = size * self._aspect[sprite][:, :, None, None].transpose(0, 1) / 2  # [2, N, 1, 1]
        away_x = (grid.x - cx * grid.width) / (half[0] * 0.85)
        away_y = (grid.y - cy * grid.height - half[1] * 0.97) / (half[0] * 0.16)
        return (strength[:, None, None] * torch.exp(-1.2 * (away_x**2 + away_y**2)))[:, None]


_DRAWN = ("sprite", "geometry", "recolour", "kind", "ground", "pattern")


class _Grid:
    """Pixel centres in units of the shorter side: x [1, 1, W], y [1, H, 1]."""

    def __init__(self, size: tuple[int, int], device: torch.device) -> None:
        rows, columns = size
        self.short_px = min(size)
        self.width, self.height = columns / self.short_px, rows / self.short_px
        self.x = ((torch.arange(columns, device=device) + 0.5) / self.short_px)[None, None, :]
        self.y = ((torch.arange(rows, device=device) + 0.5) / self.short_px)[None, :, None]


def _background(arrays: dict[str, Tensor], grid: _Grid) -> Tensor:
    """Pictures [B, 3, H, W] of the backgrounds alone."""
    kind = arrays["kind"].long()
    colours = arrays["ground"].float() / 255
    share = torch.zeros(len(kind), grid.y.shape[1], grid.x.shape[2], device=kind.device)
    for number, name in enumerate(BACKGROUNDS):
        chosen = (kind == number).nonzero()[:, 0]
        if name != "solid" and len(chosen):
            share[chosen] = _share(name, arrays["pattern"][chosen], grid).expand(-1, *share.shape[1:])
    share = share[:, None]
    first, second = colours[:, 0, :, None, None], colours[:, 1, :, None, None]
    return first + (second - first) * share


def _share(kind: str, pattern: Tensor, grid: _Grid) -> Tensor:
    """How much of the second colour shows, broadcastable to [N, H, W]; edges one pixel soft."""
    angle, repeats = pattern[:, 0, None, None], pattern[:, 1, None, None]
    x, y, short_px = grid.x, grid.y, grid.short_px
    if kind == "gradient":
        return (y / grid.height).expand(len(pattern), -1, -1)
    if kind == "glow":
        away = (x - grid.width / 2) ** 2 + (y - grid.height / 2) ** 2
        return torch.exp(-away / 0.36**2).expand(len(pattern), -1, -1)
    if kind == "ground":
        return ((y - repeats * grid.height) * short_px + 0.5).clamp(0, 1)
    if kind == "stripes":
        wave = torch.sin(2 * math.pi * repeats * (x * torch.cos(angle) + y * torch.sin(angle)))
        return (wave * short_px / (2 * math.pi * repeats) + 0.5).clamp(0, 1)
    if kind == "checker":
        sides = [torch.sin(math.pi * repeats * axis) * short_px / (math.pi * repeats) for axis in (x, y)]
        return (2 * sides[0].clamp(-0.5, 0.5) * sides[1].clamp(-0.5, 0.5)) + 0.5
    across = ((x * repeats) % 1 - 0.5) ** 2 + ((y * repeats) % 1 - 0.5) ** 2
    return ((0.28 - across.sqrt()) * short_px / repeats + 0.5).clamp(0, 1)


def _mip_levels(pack: Pack) -> list[Tensor]:
    """Premultiplied red, green, blue, coverage and recolour mask, uint8 [S, 5, h, h], each half the last."""
    levels: list[list[Tensor]] = [[] for _ in range(_LEVELS)]
    for at in range(0, len(pack.infos), 16):
        rgba = torch.from_numpy(pack.sprites[at : at + 16]).permute(0, 3, 1, 2).float() / 255
        alpha = rgba[:, 3:]
        mask = torch.from_numpy(pack.masks[at : at + 16])[:, None].float() / 255
        layer = torch.cat([rgba[:, :3] * alpha, alpha, torch.minimum(mask, alpha)], dim=1)
        for level in levels:
            level.append((layer * 255).round().byte())
            layer = functional.avg_pool2d(layer, 2)
    return [torch.cat(level) for level in levels]
