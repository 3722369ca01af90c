"""What each tool model learns from: a picture to paint, what it sees beside it, and the words.

The conditions are made as flux_core.pipeline.conditions makes them for inference: masked latents and every
pixel of the mask for Fill, a map's latents for Canny and Depth, the picture before as tokens for Kontext.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from backends.torch_cuda.training import autoencoder
from backends.torch_cuda.training.data import pairs
from backends.torch_cuda.training.data.compose import Composer
from backends.torch_cuda.training.data.feed import Make
from backends.torch_cuda.training.members import maps
from backends.torch_cuda.training.scenes import Captions, SceneSource, captions_of
from flux_core.catalog import AutoencoderConfig
from flux_core.conditioning.packing import pack
from flux_core.imaging.edges import BFL_THRESHOLDS

Arrays = dict[str, Tensor]
Size = tuple[int, int]

_DRAWN_LARGER = 1.5  # than asked for, where pieces are cut out
_WHOLE = 0.3  # of the pictures stay whole
_CONTEXT = 0.25, 0.7  # around a hole, as shares of its longer side


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


class Drawing(Protocol):
    """What can draw the scenes that columns describe."""

    @property
    def composer(self) -> Composer: ...


@dataclass(frozen=True, slots=True)
class Member:
    """A tool model as a low-rank change of the base.

    Attributes:
        name: Of its stage and files.
        channels: What img_in reads.
        is_reference: Whether it sees a picture as tokens behind its own, rather than as channels.
        make: What workers sample for it; None for plain scenes.
        is_near: Whether it also learns from pieces round the hole, enlarged, as the window sends them.
        show: (source, arrays, size) -> pictures.
    """

    name: str
    channels: int
    show: Callable[[Drawing, Arrays, Size], Shown]
    make: Make | None = None
    is_reference: bool = False
    is_near: bool = False


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
    if member.is_near:
        drawn_px = round(size[0] * _DRAWN_LARGER), round(size[1] * _DRAWN_LARGER)
        shown = nearer(member.show(source, arrays, drawn_px), size)
    else:
        shown = member.show(source, arrays, size)
    return Lesson(latents(shown.truth), extra_tokens(shown, latents), captions_of(arrays))


def extra_tokens(shown: Shown, latents: Latents) -> Tensor:
    """What stands beside the noisy latents: [B, L, 64], and 256 channels more for a mask."""
    seen = latents(shown.seen)
    return seen if shown.mask is None else torch.cat([seen, maps.mask_tokens(shown.mask)], dim=2)


def show_fill(source: Drawing, arrays: Arrays, size: Size) -> Shown:
    """A picture, and the same with mid grey in the hole."""
    truth = source.composer(part(arrays, pairs.AFTER), size)
    _, covered = source.composer.with_masks(part(arrays, pairs.OTHER), size)
    mask = maps.masks(arrays["hole"].long(), arrays["box"], arrays["grow"], covered)
    return _hollow(truth, mask)


def nearer(shown: Shown, size: Size) -> Shown:
    """Pictures with holes at (height, width) in pixels, most as a piece round the hole and some whole.

    A piece has the picture's proportions, shows a share of the hole's longer side around it, lies in the
    picture, and is enlarged at most twice, as flux_core.imaging.geometry.fit_box has it.
    """
    truth, mask = shown.truth, shown.mask
    assert mask is not None
    chance, context = torch.rand(2, len(truth), device=truth.device)
    spans = [_span(mask.amax((3, axis))) for axis in (1, 2)]  # across, down: each [2, B]
    longest = torch.stack([span[1] - span[0] for span in spans]).amax(0)
    side = (longest * (1 + 2 * (_CONTEXT[0] + (_CONTEXT[1] - _CONTEXT[0]) * context))).clamp(0.5, 1.0)
    side = torch.where(chance < _WHOLE, torch.ones_like(side), side)
    middle = [torch.minimum(span.mean(0).maximum(side / 2), 1 - side / 2) for span in spans]
    y, x = (torch.linspace(-1 + 1 / n, 1 - 1 / n, n, device=truth.device) for n in size)
    across = 2 * middle[0][:, None] - 1 + side[:, None] * x
    down = 2 * middle[1][:, None] - 1 + side[:, None] * y
    places = torch.stack(
        [across[:, None].expand(-1, size[0], -1), down[:, :, None].expand(-1, -1, size[1])], dim=3
    )

    def cut(images: Tensor, how: str) -> Tensor:
        out = functional.grid_sample(
            images.permute(0, 3, 1, 2), places, mode=how, padding_mode="border", align_corners=False
        )
        return out.permute(0, 2, 3, 1)

    return _hollow(cut(truth, "bilinear"), cut(mask, "nearest"))


def _span(covered: Tensor) -> Tensor:
    """First and last place of each row [B, N] that is covered, as fractions of N: [2, B]."""
    number = covered.shape[1]
    is_covered = (covered > 0.5).float()
    return torch.stack([is_covered.argmax(1), number - is_covered.flip(1).argmax(1)]).float() / number


def _hollow(truth: Tensor, mask: Tensor) -> Shown:
    return Shown(truth, truth * (1 - mask) + 0.5 * mask, mask)


def show_edit(source: Drawing, arrays: Arrays, size: Size) -> Shown:
    """The picture after an edit, and before."""
    return Shown(
        source.composer(part(arrays, pairs.AFTER), size), source.composer(part(arrays, pairs.OTHER), size)
    )


def show_edges(source: Drawing, arrays: Arrays, size: Size) -> Shown:
    """A picture and its edges at BFL's thresholds."""
    truth = source.composer(arrays, size)
    return Shown(truth, maps.edges(truth, *BFL_THRESHOLDS))


def show_depth(source: Drawing, arrays: Arrays, size: Size) -> Shown:
    """A picture and its depth, near is bright."""
    truth, covers = source.composer.with_covers(arrays, size)
    return Shown(truth, maps.depths(arrays["kind"].long(), arrays["pattern"], covers))


def part(arrays: Arrays, prefix: str) -> Arrays:
    """The columns of one picture of a pair."""
    return {key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)}


FILL = Member("fill", 384, show_fill, pairs.fill_pairs, is_near=True)
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
