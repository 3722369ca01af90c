"""Endless training material on the device: composed scenes, and crops for the autoencoder.

Worker processes sample scenes and captions (data.scenes), the GPU draws them (data.compose); this
module turns the two into batches of the sizes that each stage asks for.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from backends.torch_cuda.training.data.compose import Composer
from backends.torch_cuda.training.data.feed import Feed, Make
from backends.torch_cuda.training.data.pack import Pack

TEXT_KEYS = ("t5", "clip", "clip_end")


class Captions(NamedTuple):
    """Token ids of a batch: T5 [B, L], CLIP [B, L], index of CLIP's first end of text [B]."""

    t5: Tensor
    clip: Tensor
    clip_end: Tensor

    def __len__(self) -> int:
        return len(self.t5)

    def select(self, index: Any) -> Captions:
        return Captions(*(part[index] for part in (self.t5, self.clip, self.clip_end)))

    def expand(self, count: int) -> Captions:
        """One caption, `count` times."""
        return Captions(self.t5.expand(count, -1), self.clip.expand(count, -1), self.clip_end.expand(count))

    def dropped(self, share: float, empty: Captions) -> Captions:
        """A random share of the captions replaced by the empty one."""
        gone = torch.rand(len(self.t5), device=self.t5.device) < share
        return Captions(
            torch.where(gone[:, None], empty.t5, self.t5),
            torch.where(gone[:, None], empty.clip, self.clip),
            torch.where(gone, empty.clip_end, self.clip_end),
        )


class Scenes(NamedTuple):
    """A batch: pictures [B, H, W, 3] in [0, 1], captions, and exact labels [B] (-1: does not apply)."""

    images: Tensor
    captions: Captions
    labels: dict[str, Tensor]


class SceneSource:
    """Scenes without end, for one device.

    Args:
        pack: File made by data.pack.
        device: Where pictures are drawn.
        num_workers: Processes that sample scenes.
        seed: Of the workers; held-out lists use their own.
        make: What workers sample, as Feed takes it; plain scenes with captions where it is None.
        like: Another source of the same pack, whose drawings on the device are shared.
    """

    def __init__(
        self,
        pack: Path,
        device: torch.device,
        num_workers: int,
        seed: int,
        make: Make | None = None,
        like: SceneSource | None = None,
    ) -> None:
        self.device = device
        self.pack = Pack.load(pack) if like is None else like.pack
        self.composer = Composer(self.pack, device) if like is None else like.composer
        self.feed = Feed(pack, num_workers=num_workers, seed=seed, make=make)
        self._batch: dict[str, Tensor] = {}
        self._at = 0
        self._pixels: Tensor | None = None
        self._pixels_at = 0
        own = (
            [torch.from_numpy(photo).to(device) for photo in self.pack.photos]
            if like is None
            else like.photos
        )
        self.photos = own

    def amp(self) -> contextlib.AbstractContextManager[Any]:
        """bfloat16 autocast on CUDA, nothing on CPU."""
        if self.device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return contextlib.nullcontext()

    def arrays(self, count: int) -> dict[str, Tensor]:
        """The next `count` scene descriptions, on the device."""
        parts: list[dict[str, Tensor]] = []
        while count:
            if not self._batch or self._at >= len(self._batch["t5"]):
                self._batch = to_device(self.feed.get(), self.device)
                self._at = 0
            take = min(count, len(self._batch["t5"]) - self._at)
            parts.append({key: value[self._at : self._at + take] for key, value in self._batch.items()})
            self._at += take
            count -= take
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def scenes(self, count: int, size: tuple[int, int]) -> Scenes:
        """`count` scenes at (height, width) in pixels."""
        return self.draw(self.arrays(count), size)

    def draw(self, arrays: dict[str, Tensor], size: tuple[int, int]) -> Scenes:
        """The scenes that `arrays` describe."""
        return Scenes(self.composer(arrays, size), captions_of(arrays), self.composer.labels(arrays))

    def crops(self, count: int, side_px: int, photo_share: float) -> Tensor:
        """Pictures for the autoencoder [count, side, side, 3]: random cuts of scenes and photographs."""
        if self._pixels is None or self._pixels_at + count > len(self._pixels):
            self._pixels = self.scenes(8 * count, (256, 256)).images
            self._pixels_at = 0
        part = self._pixels[self._pixels_at : self._pixels_at + count]
        self._pixels_at += count
        top, left = (int(v) for v in np.random.randint(0, 257 - side_px, 2))
        part = part[:, top : top + side_px, left : left + side_px].clone()
        for index in range(round(count * photo_share)):
            part[index] = self.photo_crop(side_px)
        return part

    def photo_crop(self, side_px: int) -> Tensor:
        """A random square of a photograph [side, side, 3]."""
        photo = self.photos[np.random.randint(len(self.photos))]
        top = np.random.randint(photo.shape[0] - side_px + 1)
        left = np.random.randint(photo.shape[1] - side_px + 1)
        crop = photo[top : top + side_px, left : left + side_px].float() / 255
        return crop.flip(1) if np.random.rand() < 0.5 else crop

    def close(self) -> None:
        """Stops the workers."""
        self.feed.close()


def to_device(batch: dict[str, np.ndarray[Any, Any]], device: torch.device) -> dict[str, Tensor]:
    """NumPy columns as tensors on the device."""
    return {key: torch.from_numpy(value).to(device) for key, value in batch.items()}


def captions_of(arrays: dict[str, Tensor]) -> Captions:
    """The token columns of scene descriptions."""
    return Captions(*(arrays[key].int() for key in TEXT_KEYS))
