"""The pack: everything pictorial that training needs, in one file that opens with NumPy alone.

Sprites of all objects in all styles with their recolour masks and measurements, and the photographs
that the autoencoder also sees, travel as one `.npz` without pickle to a machine that may have no
image library. `python -m backends.torch_cuda.training.data.pack --sources DIR --out FILE` builds it.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from flux_core.errors import Corrupt, ModelMissing
from flux_core.storage import write_atomically

PACK_VERSION = 2
PHOTO_LONG_PX = 512
PHOTO_SHORT_PX = 272  # so that a 256 px crop always fits

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpriteInfo:
    """What is known about one sprite; see raster.Sprite for `box`, `reference`, `colour` and `share`.

    Attributes:
        thing: Index into objects.THINGS.
        style: Index into raster.STYLES.
        box: Content box x0, y0, x1, y1 in pixels, x1 and y1 exclusive.
        reference: Brightness of the fully lit body, 0 to 1.
        colour: Measured name of its dominant colour.
        share: Share of the visible area that may be recoloured.
    """

    thing: int
    style: int
    box: tuple[int, int, int, int]
    reference: float
    colour: str
    share: float


@dataclass(frozen=True)
class Pack:
    """The opened pack.

    Attributes:
        names: Plain names of the objects, in the order of objects.THINGS.
        styles: Names of the styles; sprite index = thing * len(styles) + style.
        sprites: uint8 [S, 256, 256, 4], straight alpha.
        masks: uint8 [S, 256, 256], 255 where a body may be recoloured.
        infos: One per sprite.
        photos: uint8 [H, W, 3] each, short side at least 256 px.
    """

    names: tuple[str, ...]
    styles: tuple[str, ...]
    sprites: np.ndarray
    masks: np.ndarray
    infos: tuple[SpriteInfo, ...]
    photos: tuple[np.ndarray, ...]

    @staticmethod
    def load(path: Path | str) -> Pack:
        """Opens a pack file.

        Raises:
            ModelMissing: There is no such file.
            Corrupt: It is not a pack of this version.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            about = json.loads(arrays["about"].tobytes())
            if about["version"] != PACK_VERSION:
                raise Corrupt(f"{path} is a pack of version {about['version']}.", "Build it again.")
        except FileNotFoundError as error:
            raise ModelMissing(f"There is no training pack at {path}.", "Build it with data.pack.") from error
        except (OSError, ValueError, KeyError) as error:
            raise Corrupt(f"{path} is not a training pack.", "Build it again.") from error
        return Pack(
            names=tuple(about["names"]),
            styles=tuple(about["styles"]),
            sprites=arrays["sprites"],
            masks=arrays["masks"],
            infos=tuple(SpriteInfo(**{**info, "box": tuple(info["box"])}) for info in about["infos"]),
            photos=tuple(arrays[f"photo_{index}"] for index in range(about["photos"])),
        )

    def save(self, path: Path) -> None:
        """Writes the pack, compressed; an existing file is replaced in one step."""
        about = {
            "version": PACK_VERSION,
            "names": self.names,
            "styles": self.styles,
            "infos": [asdict(info) for info in self.infos],
            "photos": len(self.photos),
        }
        arrays = {
            "about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
            "sprites": self.sprites,
            "masks": self.masks,
            **{f"photo_{index}": photo for index, photo in enumerate(self.photos)},
        }
        write_atomically(path, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays))


def build(sources: Path) -> Pack:
    """Rasterises and measures all objects from the fetched `sources` (needs Pillow and resvg)."""
    from PIL import Image  # only the machine that builds has these

    from backends.torch_cuda.training.data.objects import THINGS
    from backends.torch_cuda.training.data.raster import STYLES, Drawings, sprite

    drawings = Drawings(sources)
    sprites: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    infos: list[SpriteInfo] = []
    for index, thing in enumerate(THINGS):
        for style, style_name in enumerate(STYLES):
            is_line = style_name == "line"
            code = thing.line_code if is_line and thing.line_code else thing.code
            rgba = drawings.image(style_name, code, outline=is_line and thing.outline)
            made = sprite(rgba, thing, is_line)
            visible = (made.rgba[..., 3:] > 0).astype(np.uint8)
            sprites.append(made.rgba * visible)  # what is invisible compresses to nothing
            masks.append(made.mask)
            infos.append(
                SpriteInfo(
                    index, style, made.box, round(made.reference, 4), made.colour, round(made.share, 4)
                )
            )
    photos: list[np.ndarray] = []
    for path in sorted(path for path in sources.glob("photo-*/**/*") if path.suffix in (".jpg", ".png")):
        with Image.open(path) as file:
            photo = file.convert("RGB")
        scale = min(1.0, max(PHOTO_LONG_PX / max(photo.size), PHOTO_SHORT_PX / min(photo.size)))
        size = (round(photo.width * scale), round(photo.height * scale))
        photos.append(np.asarray(photo.resize(size, Image.Resampling.LANCZOS)))
    return Pack(
        names=tuple(thing.name for thing in THINGS),
        styles=STYLES,
        sprites=np.stack(sprites),
        masks=np.stack(masks),
        infos=tuple(infos),
        photos=tuple(photos),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the training pack from the fetched sources.")
    parser.add_argument("--sources", type=Path, required=True, help="folder that data.fetch filled")
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    pack = build(arguments.sources)
    pack.save(arguments.out)
    size_mib = arguments.out.stat().st_size / (1 << 20)
    log.info(
        "%s: %d sprites, %d photos, %.1f MiB", arguments.out, len(pack.infos), len(pack.photos), size_mib
    )


if __name__ == "__main__":
    main()
