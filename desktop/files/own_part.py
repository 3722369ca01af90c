"""Our own part of a project: document.json and the pictures that OpenRaster has no place for.

It describes the whole document, with masks, recipes, crops and the selection, and refers to the standard
layers' PNGs where these hold the same pixels, so nothing is stored twice. The same description makes the
recovery journal. Pydantic checks it on reading, because a file may come from anywhere.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from desktop.document.blend import BlendMode
from desktop.document.geometry import Extent, Rect, check_canvas_size
from desktop.document.layers import (
    GenerativeLayer,
    GroupLayer,
    Layer,
    RasterLayer,
    Recipe,
    Variant,
)
from desktop.document.state import DocumentState
from desktop.document.tiles import Pixels, TileRaster
from desktop.files.archive import HINT, Source
from desktop.files.png_cache import Encoded, Encoder
from desktop.files.rasters import PixelBudget, encoded_raster, rect_to_save
from flux_core.errors import Corrupt, RequestInvalid
from flux_core.request import GenerationRequest

DOCUMENT_NAME = "flowbrush/document.json"
VERSION = 1
MAX_OFFSET_PX = 1 << 20

Offset = Annotated[int, Field(ge=-MAX_OFFSET_PX, le=MAX_OFFSET_PX)]
PartName = Annotated[str, Field(max_length=200)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class RasterPart(_Part):
    """A PNG and where it lies; without a source, nothing but `fill`."""

    src: PartName | None = None
    x: Offset = 0
    y: Offset = 0
    fill: Literal[0, 255] = 0


class VariantPart(_Part):
    """One generated crop."""

    src: PartName
    seed: int


class RecipePart(_Part):
    """How a generated layer was made."""

    request: GenerationRequest
    box: tuple[Offset, Offset, int, int]
    variants: Annotated[tuple[VariantPart, ...], Field(min_length=1, max_length=1000)]
    chosen: int = 0


class LayerPart(_Part):
    """One layer with everything that is its own."""

    kind: Literal["raster", "group", "generative"]
    id: Annotated[str, Field(min_length=1, max_length=64)]
    name: str = ""
    opacity: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    is_visible: bool = True
    is_locked: bool = False
    blend: BlendMode = BlendMode.NORMAL
    mask: RasterPart | None = None
    pixels: RasterPart = RasterPart()
    recipe: RecipePart | None = None
    is_isolated: bool = True
    children: tuple[LayerPart, ...] = ()


class DocumentPart(_Part):
    """document.json. `standard` holds the sha256 of every standard part that it describes."""

    version: int
    width: int
    height: int
    active_id: str | None = None
    selection: RasterPart = RasterPart()
    layers: tuple[LayerPart, ...] = ()
    standard: dict[str, str] = {}


def layer_numbers(state: DocumentState) -> dict[str, int]:
    """Numbers for file names: layer id -> place in the walk from bottom to top."""
    return {layer.id: number for number, layer in enumerate(state.walk())}


class OwnWriter:
    """Builds our own part of one save.

    Attributes:
        parts: PNGs by their name in the ZIP; those under data/ are the same as the standard part's.
    """

    def __init__(self, state: DocumentState, active_id: str | None, encoder: Encoder) -> None:
        self._state = state
        self._active_id = active_id
        self._encoder = encoder
        self._numbers = layer_numbers(state)
        self.parts: dict[str, bytes] = {}

    def document(self, standard: dict[str, str]) -> DocumentPart:
        """Fills `parts` and returns the description."""
        return DocumentPart(
            version=VERSION,
            width=self._state.size.width,
            height=self._state.size.height,
            active_id=self._active_id,
            selection=self._raster("flowbrush/selection.png", self._state.selection),
            layers=tuple(self._layer(layer, is_flattened=False) for layer in self._state.layers),
            standard=standard,
        )

    def _layer(self, layer: Layer, *, is_flattened: bool) -> LayerPart:
        number = self._numbers[layer.id]
        part = LayerPart(
            kind="raster",
            id=layer.id,
            name=layer.name.encode("utf-8", "replace").decode(),
            opacity=layer.opacity,
            is_visible=layer.is_visible,
            is_locked=layer.is_locked,
            blend=layer.blend,
        )
        changes: dict[str, object] = {}
        if layer.mask is not None:
            changes["mask"] = self._raster(f"flowbrush/mask{number}.png", layer.mask)
        if isinstance(layer, GroupLayer):
            is_flattened = is_flattened or layer.mask is not None
            children = tuple(self._layer(child, is_flattened=is_flattened) for child in layer.children)
            changes |= {"kind": "group", "is_isolated": layer.is_isolated, "children": children}
        if isinstance(layer, RasterLayer):
            is_standard = layer.mask is None and not is_flattened
            name = f"data/layer{number}.png" if is_standard else f"flowbrush/layer{number}.png"
            changes["pixels"] = self._raster(name, layer.raster)
        if isinstance(layer, GenerativeLayer):
            changes |= {"kind": "generative", "recipe": self._recipe(number, layer.recipe)}
        return part.model_copy(update=changes)

    def _raster(self, name: str, raster: TileRaster) -> RasterPart:
        if not raster.tiles:
            return RasterPart(fill=0 if raster.fill == 0 else 255)
        if raster.channels == 4:
            encoded = encoded_raster(self._encoder, raster, self._state.canvas)
        else:
            encoded = self._grey(raster)
        self.parts[name] = encoded.png
        return RasterPart(src=name, x=encoded.rect.x, y=encoded.rect.y, fill=0 if raster.fill == 0 else 255)

    def _grey(self, raster: TileRaster) -> Encoded:
        def make() -> tuple[Pixels, Rect]:
            rect = rect_to_save(raster.content_bounds, self._state.canvas)
            return raster.read(rect), rect

        return self._encoder.encode("raster", (raster,), make)

    def _recipe(self, number: int, recipe: Recipe) -> RecipePart:
        variants: list[VariantPart] = []
        for index, variant in enumerate(recipe.variants):
            name = f"flowbrush/crop{number}-{index}.png"
            self.parts[name] = variant.png
            variants.append(VariantPart(src=name, seed=variant.seed))
        return RecipePart(
            request=recipe.request, box=recipe.box[:4], variants=tuple(variants), chosen=recipe.chosen
        )


def parse_document(data: bytes, title: str) -> DocumentPart:
    """Reads document.json.

    Raises:
        Corrupt: It is not what this version of Flowbrush writes.
    """
    try:
        document = DocumentPart.model_validate_json(data)
    except (ValidationError, RecursionError) as err:
        raise Corrupt(f"Flowbrush's own part of {title} is damaged.", HINT) from err
    if document.version > VERSION:
        raise Corrupt(
            f"{title} was written by a newer Flowbrush.", "Update Flowbrush to see masks and recipes."
        )
    return document


def read_own(document: DocumentPart, source: Source, title: str, budget: PixelBudget) -> DocumentState:
    """Builds the document that our own part describes.

    Raises:
        Corrupt: A part is missing, damaged or impossible.
    """
    return _OwnReader(source, title, budget).read(document)


class _OwnReader:
    def __init__(self, source: Source, title: str, budget: PixelBudget) -> None:
        self._source = source
        self._title = title
        self._budget = budget
        self._ids: set[str] = set()

    def read(self, document: DocumentPart) -> DocumentState:
        try:
            return DocumentState(
                size=Extent(*check_canvas_size(document.width, document.height)),
                layers=tuple(self._layer(part) for part in document.layers),
                selection=self._mask(document.selection),
            )
        except (RequestInvalid, ValueError) as err:
            raise Corrupt(f"Flowbrush's own part of {self._title} is damaged: {err}", HINT) from err

    def _layer(self, part: LayerPart) -> Layer:
        if part.id in self._ids:
            raise ValueError("two layers have the same id")
        self._ids.add(part.id)
        looks = {
            "id": part.id,
            "name": part.name,
            "opacity": part.opacity,
            "is_visible": part.is_visible,
            "is_locked": part.is_locked,
            "blend": part.blend,
            "mask": None if part.mask is None else self._mask(part.mask),
        }
        if part.kind == "group":
            children = tuple(self._layer(child) for child in part.children)
            return GroupLayer(**looks, children=children, is_isolated=part.is_isolated)
        raster = self._raster(part.pixels)
        if part.recipe is None:
            return RasterLayer(**looks, raster=raster)
        return GenerativeLayer(**looks, raster=raster, recipe=self._recipe(part.recipe))

    def _raster(self, part: RasterPart) -> TileRaster:
        if part.src is None:
            return TileRaster()
        raster, _ = self._budget.decode_raster(self._source.read(part.src), part.x, part.y, part.src)
        return raster

    def _mask(self, part: RasterPart) -> TileRaster:
        if part.src is None:
            return TileRaster(1, part.fill)
        data = self._source.read(part.src)
        return self._budget.decode_mask(data, part.x, part.y, part.fill, part.src)

    def _recipe(self, part: RecipePart) -> Recipe:
        variants = tuple(Variant(self._source.read(one.src), one.seed) for one in part.variants)
        return Recipe(part.request, Rect(*part.box), variants, part.chosen)
