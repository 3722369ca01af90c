"""Strokes look like one stroke, stay on the canvas, and survive any pen."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desktop.document import commands, mask
from desktop.document.dabs import Sample, path
from desktop.document.document import Document
from desktop.document.geometry import Rect
from desktop.document.layers import RasterLayer
from desktop.document.stroke import Brush, Stroke, Target
from flux_core.errors import RequestInvalid
from tests.support.documents import noise, raster_layer

CANVAS = Rect(0, 0, 400, 300)


def painted(brush: Brush, *samples: Sample, target: Target = Target.PIXELS) -> Document:
    document = Document.blank(400, 300)
    commands.add_layer(document, RasterLayer(name="paint"))
    stroke = Stroke(document, brush, target)
    for sample in samples:
        stroke.add([sample])
    stroke.finish()
    return document


def pixels_of(document: Document) -> np.ndarray:
    layer = document.layers[0]
    assert isinstance(layer, RasterLayer)
    return layer.raster.read(document.state.canvas)


def test_a_stroke_that_crosses_itself_gets_no_darker_than_its_opacity() -> None:
    brush = Brush(size_px=40, opacity=0.5, color=(200, 10, 30))
    back_and_forth = [Sample(x, 150) for x in (50, 350, 50, 350)]
    pixels = pixels_of(painted(brush, *back_and_forth))
    assert pixels[..., 3].max() == 128
    assert (pixels[150, 60:340] == [200, 10, 30, 128]).all()


def test_two_strokes_do_build_up() -> None:
    document = painted(Brush(size_px=40, opacity=0.5), Sample(100, 100))
    again = Stroke(document, Brush(size_px=40, opacity=0.5), Target.PIXELS)
    again.add([Sample(100, 100)])
    again.finish()
    assert pixels_of(document)[100, 100, 3] == 192


def test_flow_builds_up_within_a_stroke_towards_the_opacity() -> None:
    brush = Brush(size_px=60, flow=0.2, opacity=0.6, spacing=0.02)
    once = pixels_of(painted(brush, Sample(200, 150)))[150, 200, 3]
    often = pixels_of(painted(brush, *[Sample(200 + i % 2 * 2, 150) for i in range(80)]))[150, 200, 3]
    assert once == round(255 * 0.12)
    assert 150 <= often <= 153


def test_the_sample_rate_of_the_pen_does_not_change_the_stroke() -> None:
    brush = Brush(size_px=20, is_size_by_pressure=True)
    coarse = painted(brush, Sample(20, 20, 0.2), Sample(320, 220, 1.0))
    steps = [Sample(20 + 300 * t, 20 + 200 * t, 0.2 + 0.8 * t) for t in np.linspace(0, 1, 101)]
    fine = painted(brush, *steps)
    assert np.abs(pixels_of(coarse).astype(int) - pixels_of(fine)).max() <= 1


def test_dabs_are_as_large_and_as_hard_as_the_brush_says() -> None:
    for size in (10, 50, 121):
        hard = pixels_of(painted(Brush(size_px=size, hardness=1.0), Sample(200.5, 150.5)))[..., 3]
        area = hard.sum() / 255
        assert area == pytest.approx(math.pi * size**2 / 4, rel=0.05)
        soft = pixels_of(painted(Brush(size_px=size, hardness=0.0), Sample(200.5, 150.5)))[..., 3]
        assert soft.max() >= 250
        assert soft.sum() < 0.6 * hard.sum()


def test_pressure_changes_size_or_opacity_as_the_brush_says() -> None:
    full = pixels_of(painted(Brush(size_px=60), Sample(200, 150, 1.0)))[..., 3]
    light = pixels_of(painted(Brush(size_px=60), Sample(200, 150, 0.5)))[..., 3]
    assert (light > 0).sum() < 0.35 * (full > 0).sum()
    faint_brush = Brush(size_px=60, is_size_by_pressure=False, is_opacity_by_pressure=True)
    faint = pixels_of(painted(faint_brush, Sample(200, 150, 0.5)))[..., 3]
    assert faint.max() == 128
    assert (faint > 0).sum() == pytest.approx((full > 0).sum(), rel=0.02)


def test_the_eraser_lowers_alpha_and_keeps_colour() -> None:
    document = Document.blank(400, 300)
    before = noise(1, 400, 300)
    before[..., 3] = 255
    commands.add_layer(document, raster_layer("photo", before))
    stroke = Stroke(document, Brush(size_px=80, hardness=1.0, is_eraser=True), Target.PIXELS)
    stroke.add([Sample(100, 100)])
    stroke.finish()
    after = pixels_of(document)
    assert after[100, 100, 3] == 0
    assert np.array_equal(after[..., :3], before[..., :3])
    assert np.array_equal(after[200:], before[200:])


def test_masks_and_selection_are_painted_towards_255_and_erased_towards_0() -> None:
    document = painted(Brush(size_px=50, opacity=0.5), Sample(100, 100), target=Target.SELECTION)
    assert document.state.selection.read(CANVAS)[100, 100] == 128
    assert mask.is_empty(document.state.selection, Rect(200, 200, 50, 50))
    commands.add_mask(document, document.layers[0].id)
    hide = Stroke(document, Brush(size_px=50, is_eraser=True), Target.LAYER_MASK)
    hide.add([Sample(100, 100)])
    hide.finish()
    layer_mask = document.layers[0].mask
    assert layer_mask is not None
    assert layer_mask.read(CANVAS)[100, 100] == mask.HIDE
    assert layer_mask.read(CANVAS)[200, 200] == mask.SHOW


def test_painting_is_seen_at_once_and_is_one_step_at_the_end() -> None:
    document = Document.blank(400, 300)
    commands.add_layer(document, RasterLayer(name="paint"))
    seen: list[Rect] = []
    document.events.pixels_changed.connect(seen.append)
    stroke = Stroke(document, Brush(size_px=30), Target.PIXELS)
    dirty = stroke.add([Sample(100, 100)])
    assert dirty.intersection(seen[-1]) == dirty
    assert document.state is not document.committed_state
    stroke.add([Sample(200, 200), Sample(300, 100)])
    stroke.finish()
    assert document.state is document.committed_state
    assert document.undo() == "Paint"
    assert not pixels_of(document).any()


def test_a_cancelled_stroke_leaves_nothing() -> None:
    document = Document.blank(400, 300)
    commands.add_layer(document, RasterLayer(name="paint"))
    state = document.state
    stroke = Stroke(document, Brush(), Target.PIXELS)
    stroke.add([Sample(100, 100)])
    stroke.cancel()
    assert document.state is state


def test_only_tiles_that_differ_are_kept_for_undo() -> None:
    document = Document.blank(4096, 4096)
    commands.add_layer(document, raster_layer("photo", noise(1, 1024, 1024)))
    document.history = type(document.history)()
    stroke = Stroke(document, Brush(size_px=20), Target.PIXELS)
    stroke.add([Sample(100, 100), Sample(110, 110)])
    stroke.finish()
    assert document.history.used_bytes == 256 * 256 * 4


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.builds(
            Sample,
            st.floats() | st.floats(-1e4, 1e4),
            st.floats() | st.floats(-1e4, 1e4),
            st.floats() | st.floats(0, 1),
        ),
        max_size=6,
    ),
    st.floats(1, 700),
)
def test_no_pen_can_break_a_stroke_or_leave_the_canvas(samples: list[Sample], size: float) -> None:
    document = Document.blank(400, 300)
    commands.add_layer(document, RasterLayer(name="paint"))
    stroke = Stroke(document, Brush(size_px=size, spacing=0.1), Target.PIXELS)
    dirty = stroke.add(samples)
    assert dirty.intersection(CANVAS) == dirty
    stroke.finish()
    layer = document.layers[0]
    assert isinstance(layer, RasterLayer)
    assert layer.raster.content_bounds.intersection(CANVAS) == layer.raster.content_bounds


def test_a_way_across_the_world_sets_dabs_near_the_canvas_only() -> None:
    points, left = path(Sample(-1e9, 150), Sample(1e9, 150), 1.0, 4.0, CANVAS)
    assert 100 < len(points) < 2000
    assert any(0 <= point.x <= 400 for point in points)
    assert 0 <= left <= 4.0


def test_impossible_brushes_are_refused_with_a_sentence() -> None:
    for field, value in (("size_px", 0), ("hardness", math.nan), ("opacity", 1.5), ("spacing", 0)):
        with pytest.raises(RequestInvalid, match=field):
            replace(Brush(), **{field: value})
