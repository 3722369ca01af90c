"""What each tool model learns from: a picture to paint, what it sees beside it, and the words.

The conditions are made as flux_core.pipeline.conditions makes them for inference: masked latents and every
pixel of the mask for Fill, a map's latents for Canny and Depth, the picture before as tokens for Kontext.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from backends.torch_cuda.training import autoencoder
from backends.torch_cuda.training.data import pairs
from backends.torch_cuda.training.data.feed import Make
from backends.torch_cuda.training.members import maps
from backends.torch_cuda.training.scenes import Captions, SceneSource, captions_of
from flux_core.catalog import AutoencoderConfig
from flux_core.conditioning.packing import pack
from flux_core.imaging.edges import BFL_THRESHOLDS

Arrays = dict[str, Tensor]
Size = tuple[int, int]


class Lesson(NamedTuple):
    """tokens [B, L, 64] of the picture, extra [B, L, C] or [B, L_ref, 64] beside it, and the words."""

    tokens: Tensor
    extra: Tensor
    captions: Captions

    @property
    def columns(self) -> list[Tensor]:
        """For a pool: tokens and extra in bfloat16, and the three columns of captions."""
        return [self.tokens.bfloat16(), self.extra.bfloat16(), *self.captions]


class Shown(NamedTuple):
    """Pictures [B, H, W, 3] in [0, 1]: the truth and what the member sees; and the hole [B, H, W, 1]."""

    truth: Tensor
    seen: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """A tool model as a low-rank change of the base.

    Attributes:
        name: Of its stage and files.
        channels: What img_in reads.
        is_reference: Whether it sees a picture as tokens behind its own, rather than as channels.
        make: What workers sample for it; None for plain scenes.
        show: (source, arrays, size) -> pictures.
    """

    name: str
    channels: int
    show: Callable[[SceneSource, Arrays, Size], Shown]
    make: Make | None = None
    is_reference: bool = False


class Latents:
    """Pictures as normalised, packed latents.

    Args:
        ae: The autoencoder.
        config: Its numbers.
        amp: Autocast.
    """

    def __init__(self, ae: autoencoder.AutoencoderNets, config: AutoencoderConfig, amp: Any) -> None:
        self._ae = ae
        self._config = config
        self._amp = amp

    def __call__(self, images: Tensor) -> Tensor:
        """[B, H, W, 3] in [0, 1] -> [B, L, 64]."""
        z = autoencoder.encode(self._ae, images, self._amp)
        return pack(self._ae.encoder.model.ops, (z - self._config.shift) * self._config.scale)


def lesson(member: Member, source: SceneSource, arrays: Arrays, size: Size, latents: Latents) -> Lesson:
    """What a member learns from scene descriptions, at (height, width) in pixels."""
    shown = member.show(source, arrays, size)
    return Lesson(latents(shown.truth), extra_tokens(shown, latents), captions_of(arrays))


def extra_tokens(shown: Shown, latents: Latents) -> Tensor:
    """What stands beside the noisy latents: [B, L, 64], and 256 channels more for a mask."""
    seen = latents(shown.seen)
    return seen if shown.mask is None else torch.cat([seen, maps.mask_tokens(shown.mask)], dim=2)


def show_fill(source: SceneSource, arrays: Arrays, size: Size) -> Shown:
    """A picture, and the same with mid grey in the hole."""
    truth = source.composer(part(arrays, pairs.AFTER), size)
    _, covered = source.composer.with_masks(part(arrays, pairs.OTHER), size)
    mask = maps.masks(arrays["hole"].long(), arrays["box"], arrays["grow"], covered)
    return Shown(truth, truth * (1 - mask) + 0.5 * mask, mask)


def show_edit(source: SceneSource, arrays: Arrays, size: Size) -> Shown:
    """The picture after an edit, and before."""
    return Shown(
        source.composer(part(arrays, pairs.AFTER), size), source.composer(part(arrays, pairs.OTHER), size)
    )


def show_edges(source: SceneSource, arrays: Arrays, size: Size) -> Shown:
    """A picture and its edges at BFL's thresholds."""
    truth = source.composer(arrays, size)
    return Shown(truth, maps.edges(truth, *BFL_THRESHOLDS))


def show_depth(source: SceneSource, arrays: Arrays, size: Size) -> Shown:
    """A picture and its depth, near is bright."""
    truth, covers = source.composer.with_covers(arrays, size)
    return Shown(truth, maps.depths(arrays["kind"].long(), arrays["pattern"], covers))


def part(arrays: Arrays, prefix: str) -> Arrays:
    """The columns of one picture of a pair."""
    return {key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)}


FILL = Member("fill", 384, show_fill, pairs.fill_pairs)
KONTEXT = Member("kontext", 64, show_edit, pairs.edit_pairs, is_reference=True)
CANNY = Member("canny", 128, show_edges)
DEPTH = Member("depth", 128, show_depth)
ALL = {member.name: member for member in (FILL, KONTEXT, CANNY, DEPTH)}


class Pool:
    """Lessons of one size kept ready and slowly renewed: making one costs more than learning from it.

    Args:
        make: count -> columns that share their first axis.
        capacity: Lessons held.
        chunk: Made at a time.
    """

    def __init__(self, make: Callable[[int], list[Tensor]], capacity: int, chunk: int) -> None:
        self._make = make
        self._chunk = chunk
        parts = [make(chunk) for _ in range(max(1, capacity // chunk))]
        self._held = [torch.cat(column) for column in zip(*parts, strict=True)]
        self._next = 0

    def renew(self) -> None:
        """Replaces the oldest chunk."""
        place = slice(self._next, self._next + self._chunk)
        for held, new in zip(self._held, self._make(self._chunk), strict=True):
            held[place] = new
        self._next = (self._next + self._chunk) % len(self._held[0])

    def draw(self, count: int) -> list[Tensor]:
        """The columns of a random batch."""
        index = torch.randint(0, len(self._held[0]), (count,), device=self._held[0].device)
        return [held[index] for held in self._held]
