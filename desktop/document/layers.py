"""What a layer is: immutable records that hold pixels, children or a generated picture with its recipe.

A layer is a frozen value with a stable id; changing one means making a new one (`dataclasses.replace`)
and committing the state that holds it, so every older state stays whole. A layer knows neither its
parent nor its document. Pixels lie in document coordinates and may reach outside the canvas.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from desktop.document.blend import BlendMode
from desktop.document.geometry import EMPTY, Rect
from desktop.document.tiles import TileRaster
from flux_core.request import GenerationRequest


def new_id() -> str:
    """A fresh layer id: 32 hex digits."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """What every layer has; compared by identity.

    Attributes:
        name: Shown in the layer list; any text.
        id: Stable over every edit, undo and save.
        opacity: In [0, 1].
        is_visible: Whether it is part of the picture.
        is_locked: Whether its pixels and mask refuse changes.
        blend: How it meets what lies below.
        mask: Grey raster, 255 = show, 0 = hide, multiplied into the layer's alpha; None = no mask.
    """

    name: str
    id: str = field(default_factory=new_id)
    opacity: float = 1.0
    is_visible: bool = True
    is_locked: bool = False
    blend: BlendMode = BlendMode.NORMAL
    mask: TileRaster | None = None

    @property
    def bounds(self) -> Rect:
        """Whole tiles outside of which the layer is transparent."""
        return EMPTY


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RasterLayer(Layer):
    """Pixels: straight RGBA."""

    raster: TileRaster = field(default_factory=TileRaster)

    @property
    def bounds(self) -> Rect:
        return self.raster.bounds


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupLayer(Layer):
    """Layers that are shown, moved and masked together; the last child is the top-most.

    Attributes:
        children: Bottom to top.
        is_isolated: True composites the children on their own before they meet what lies below; False
            lets their blend modes see through the group. A group with a mask, an opacity below 1 or a
            blend mode other than NORMAL is composited as isolated either way (OpenRaster's "auto").
    """

    children: tuple[Layer, ...] = ()
    is_isolated: bool = True

    @property
    def bounds(self) -> Rect:
        found = EMPTY
        for child in self.children:
            found = found.union(child.bounds)
        return found

    @property
    def is_pass_through(self) -> bool:
        """Whether the children meet what lies below the group directly."""
        return (
            not self.is_isolated
            and self.mask is None
            and self.opacity >= 1.0
            and self.blend is BlendMode.NORMAL
        )


@dataclass(frozen=True, slots=True)
class Variant:
    """One generated picture of a recipe.

    Attributes:
        png: The working-size crop as the engine gave it, encoded.
        seed: The seed that made it.
    """

    png: bytes
    seed: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything needed to change a generated layer later, or to generate it again.

    Attributes:
        request: The job.
        box: Where the crop lies on the canvas; its size may differ from the variants' working size.
        variants: At least one.
        chosen: Index of the variant whose pixels the layer shows.
    """

    request: GenerationRequest
    box: Rect
    variants: tuple[Variant, ...]
    chosen: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.chosen < len(self.variants):
            raise ValueError(f"variant {self.chosen} of {len(self.variants)} does not exist")

    @property
    def seed(self) -> int:
        """Seed of the variant that is shown."""
        return self.variants[self.chosen].seed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GenerativeLayer(RasterLayer):
    """Pixels that a model made, with the recipe and the untouched crop behind them."""

    recipe: Recipe
