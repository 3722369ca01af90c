"""The part of a project that every OpenRaster program understands: stack.xml and the layers' PNGs.

OpenRaster has groups, opacity, visibility and blend modes, but no masks, so a mask is applied to the
pixels that others see, and a group with a mask becomes one flat layer for them. Reading accepts what
Krita, GIMP and others write; what it does not know becomes a warning, never a failure.

Source: freedesktop.org OpenRaster, draft 0.0.5 (baseline, layers stack).
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from desktop.document import compositor, mask
from desktop.document.blend import BlendMode
from desktop.document.geometry import Extent, Rect, check_canvas_size
from desktop.document.layers import GroupLayer, Layer, RasterLayer
from desktop.document.state import DocumentState
from desktop.document.tiles import Pixels, TileRaster
from desktop.files.archive import HINT, Source
from desktop.files.own_part import layer_numbers
from desktop.files.png_cache import Encoded, Encoder
from desktop.files.rasters import PixelBudget, encoded_raster, rect_to_save
from flux_core.errors import Corrupt, RequestInvalid

MAX_DEPTH = 64
MAX_LAYERS = 5_000
MAX_OFFSET_PX = 65_536
_FORBIDDEN_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class StandardWriter:
    """Builds the standard part of one save.

    Attributes:
        parts: PNGs by their name in the ZIP.
        warnings: What other programs will not see as it is.
    """

    def __init__(self, state: DocumentState, active_id: str | None, encoder: Encoder) -> None:
        self._state = state
        self._active_id = active_id
        self._encoder = encoder
        self._numbers = layer_numbers(state)
        self.parts: dict[str, Encoded] = {}
        self.warnings: list[str] = []

    def stack_xml(self) -> bytes:
        """Fills `parts` and returns stack.xml."""
        size = self._state.size
        image = ET.Element("image", version="0.0.5", w=str(size.width), h=str(size.height))
        stack = ET.SubElement(image, "stack", isolation="isolate")
        for layer in reversed(self._state.layers):
            self._add(stack, layer)
        ET.indent(image)
        return ET.tostring(image, encoding="UTF-8", xml_declaration=True)

    def _add(self, stack: ET.Element, layer: Layer) -> None:
        if isinstance(layer, GroupLayer) and layer.mask is None:
            inner = ET.SubElement(stack, "stack", self._attributes(layer))
            inner.set("isolation", "isolate" if layer.is_isolated else "auto")
            for child in reversed(layer.children):
                self._add(inner, child)
            return
        encoded = self._visible_pixels(layer)
        name = f"data/layer{self._numbers[layer.id]}.png"
        self.parts[name] = encoded
        attributes = {"src": name, "x": str(encoded.rect.x), "y": str(encoded.rect.y)}
        ET.SubElement(stack, "layer", attributes | self._attributes(layer))

    def _attributes(self, layer: Layer) -> dict[str, str]:
        attributes = {
            "name": _FORBIDDEN_IN_XML.sub("\ufffd", layer.name),
            "opacity": repr(float(layer.opacity)),
            "visibility": "visible" if layer.is_visible else "hidden",
            "composite-op": layer.blend.value,
        }
        if layer.is_locked:
            attributes["edit-locked"] = "true"
        if layer.id == self._active_id:
            attributes["selected"] = "true"
        return attributes

    def _visible_pixels(self, layer: Layer) -> Encoded:
        """The layer's own pixels with its mask applied; its opacity and mode are attributes."""
        canvas = self._state.canvas
        if isinstance(layer, RasterLayer) and layer.mask is None:
            return encoded_raster(self._encoder, layer.raster, canvas)
        plain = replace(layer, opacity=1.0, blend=BlendMode.NORMAL, is_visible=True)
        if isinstance(layer, GroupLayer):
            self.warnings.append(
                f'Other programs see the group "{layer.name}" as one flat layer, because it has a mask.'
            )
            key: tuple[object, ...] = (layer.children, layer.mask)
            bounds = layer.bounds
        else:
            assert isinstance(layer, RasterLayer)
            key = (layer.raster, layer.mask)
            bounds = layer.raster.content_bounds
        if layer.mask is not None and layer.mask.fill == mask.HIDE:
            bounds = bounds.intersection(layer.mask.content_bounds)

        def make() -> tuple[Pixels, Rect]:
            rect = rect_to_save(bounds, canvas)
            return compositor.render_layers((plain,), rect), rect

        return self._encoder.encode("visible", key, make)


def merged_picture(state: DocumentState, encoder: Encoder) -> Encoded:
    """The whole picture as it looks, encoded."""
    return encoder.encode(
        "merged", (state.layers, state.size), lambda: (compositor.render(state), state.canvas)
    )


def read_standard(
    source: Source, title: str, budget: PixelBudget
) -> tuple[DocumentState, str | None, list[str]]:
    """Reads stack.xml and its layers.

    Returns:
        The document, the id of the layer marked as selected, and warnings.

    Raises:
        Corrupt: stack.xml is missing, no XML, or describes no picture.
    """
    return _Reader(source, title, budget).read()


class _Reader:
    def __init__(self, source: Source, title: str, budget: PixelBudget) -> None:
        self._source = source
        self._title = title
        self._budget = budget
        self._warnings: list[str] = []
        self._selected: str | None = None
        self._num_layers = 0
        self._num_pictures = 0
        self._num_damaged = 0

    def read(self) -> tuple[DocumentState, str | None, list[str]]:
        image = self._parse()
        size = self._size(image)
        stack = image.find("stack")
        if image.tag != "image" or stack is None:
            raise Corrupt(f"{self._title} has a stack.xml that describes no picture.", HINT)
        layers = self._layers(stack, 0)
        if self._num_damaged and self._num_damaged == self._num_pictures:
            raise Corrupt(f"None of the layers of {self._title} can be read.", HINT)
        return DocumentState(size=size, layers=layers), self._selected, self._warnings

    def _parse(self) -> ET.Element:
        data = self._source.read("stack.xml")
        try:
            return fromstring(data, forbid_dtd=True)
        except (DefusedXmlException, ET.ParseError, ValueError, LookupError, RecursionError) as err:
            raise Corrupt(f"{self._title} has a stack.xml that cannot be read.", HINT) from err

    def _size(self, image: ET.Element) -> Extent:
        try:
            return check_canvas_size(int(image.get("w", "")), int(image.get("h", "")))
        except (ValueError, RequestInvalid) as err:
            raise Corrupt(f"{self._title} does not have a size that a picture can have.", HINT) from err

    def _layers(self, stack: ET.Element, depth: int) -> tuple[Layer, ...]:
        if depth > MAX_DEPTH:
            raise Corrupt(f"{self._title} has groups inside groups, more than {MAX_DEPTH} deep.", HINT)
        found: list[Layer] = []
        for element in reversed(stack):
            if element.tag == "stack":
                found.append(self._group(element, depth))
            elif element.tag == "layer":
                found.append(self._layer(element))
            else:
                self._warnings.append(
                    f'"{_short(str(element.tag))}" elements are not known and were left out.'
                )
        return tuple(found)

    def _group(self, element: ET.Element, depth: int) -> Layer:
        is_isolated = element.get("isolation", "auto") != "auto"
        children = self._layers(element, depth + 1)
        return self._noted(
            element, GroupLayer(**self._looks(element), children=children, is_isolated=is_isolated)
        )

    def _layer(self, element: ET.Element) -> Layer:
        looks = self._looks(element)
        source, x, y = element.get("src", ""), self._offset(element, "x"), self._offset(element, "y")
        title = f'The layer "{_short(looks["name"])}"'
        try:
            raster, notes = self._budget.decode_raster(self._source.read(source), x, y, title)
            self._warnings.extend(notes)
        except (Corrupt, RequestInvalid) as err:
            self._num_damaged += 1
            self._warnings.append(f"{title} is empty because {_short(source)} cannot be read: {err.message}")
            raster = TileRaster()
        self._num_pictures += 1
        return self._noted(element, RasterLayer(**looks, raster=raster))

    def _noted(self, element: ET.Element, layer: Layer) -> Layer:
        if element.get("selected") == "true":
            self._selected = layer.id
        return layer

    def _looks(self, element: ET.Element) -> dict[str, Any]:
        self._num_layers += 1
        if self._num_layers > MAX_LAYERS:
            raise Corrupt(f"{self._title} has more than {MAX_LAYERS} layers.", HINT)
        name = element.get("name", "")
        return {
            "name": name,
            "opacity": self._opacity(element, name),
            "is_visible": element.get("visibility", "visible") != "hidden",
            "is_locked": element.get("edit-locked", "false") == "true",
            "blend": self._blend(element, name),
        }

    def _opacity(self, element: ET.Element, name: str) -> float:
        text = element.get("opacity", "1.0")
        value = _number(text)
        if value is None or not 0.0 <= value <= 1.0:
            self._warnings.append(f'The layer "{_short(name)}" has the opacity {_short(text)}; 1 is used.')
            return 1.0
        return value

    def _blend(self, element: ET.Element, name: str) -> BlendMode:
        text = element.get("composite-op", BlendMode.NORMAL.value)
        try:
            return BlendMode(text)
        except ValueError:
            self._warnings.append(
                f'The layer "{_short(name)}" has the unknown blend mode {_short(text)}; normal is used.'
            )
            return BlendMode.NORMAL

    def _offset(self, element: ET.Element, axis: str) -> int:
        value = _number(element.get(axis, "0"))
        if value is None or abs(value) > MAX_OFFSET_PX:
            raise Corrupt(f"{self._title} has a layer that lies nowhere near the picture.", HINT)
        return round(value)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
