from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from desktop.views.viewport import MAX_ZOOM, MIN_ZOOM, Viewport

zooms = st.floats(MIN_ZOOM, MAX_ZOOM)
places = st.floats(-5000, 5000)


@given(zooms, places, places, places, places)
def test_a_point_goes_to_the_view_and_back(zoom, left, top, x, y):
    view = Viewport(zoom, left, top)
    there = view.to_view(x, y)
    assert view.to_canvas(*there) == pytest.approx((x, y), abs=1e-6 / zoom + 1e-6)


@given(zooms, zooms, places, places)
def test_zooming_keeps_the_point_under_the_cursor(before, after, x, y):
    view = Viewport(before, 12.0, -7.0)
    point = view.to_canvas(x, y)
    assert view.zoomed(after, x, y).to_view(*point) == pytest.approx((x, y), abs=1e-6 * (1 + after / before))


@given(st.integers(1, 9000), st.integers(1, 9000))
def test_fitting_shows_the_whole_canvas(width, height):
    view = Viewport.fitting((width, height), (1000, 700), margin_px=20)
    left, top = view.to_view(0, 0)
    right, bottom = view.to_view(width, height)
    slack = 1.0 if view.zoom > MIN_ZOOM else 1e9
    assert left >= -slack
    assert top >= -slack
    assert right <= 1000 + slack
    assert bottom <= 700 + slack


def test_a_small_picture_is_enlarged_by_whole_factors_only():
    assert Viewport.fitting((300, 200), (1000, 700)).zoom == 3.0


def test_steps_visit_the_same_stops_in_and_out():
    view = Viewport(1.0)
    up = view.stepped(1, 0, 0).zoom
    assert up == 1.5
    assert view.stepped(1, 0, 0).stepped(-1, 0, 0).zoom == 1.0


def test_zoom_stays_within_its_limits():
    assert Viewport().zoomed(1e9, 0, 0).zoom == MAX_ZOOM
    assert Viewport().zoomed(0, 0, 0).zoom == MIN_ZOOM
    assert Viewport(MAX_ZOOM).stepped(1, 0, 0).zoom == MAX_ZOOM


def test_the_picture_cannot_be_dragged_out_of_sight():
    view = Viewport(1.0, 5000.0, -5000.0).kept_in_sight((400, 300), (800, 600), keep_px=64)
    assert (view.left, view.top) == (800 - 64, 64 - 300)
