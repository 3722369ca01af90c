"""Windows cover a picture without a gap, and all of them together count one everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_core.pipeline.windows import windows_of

EVEN = st.integers(1, 40).map(lambda half: 2 * half)


@settings(max_examples=60, deadline=None)
@given(EVEN, EVEN, st.integers(2, 12).map(lambda half: 2 * half))
def test_windows_are_of_one_size_and_their_shares_add_up_to_one(height: int, width: int, side: int) -> None:
    windows = windows_of(height, width, side)
    assert {window.size for window in windows} == {(min(height, side), min(width, side))}
    total = np.zeros((1, height // 2, width // 2, 1), np.float32)
    for window in windows:
        assert (window.weight > 0).all()
        window.add(total, np.ones((1, window.place.height * window.place.width, 1), np.float32))
    np.testing.assert_allclose(total, 1.0, atol=1e-6)


@pytest.mark.parametrize(("height", "width", "side"), [(20, 28, 8), (8, 40, 8), (64, 66, 16)])
def test_neighbours_share_a_quarter_at_least(height: int, width: int, side: int) -> None:
    windows = windows_of(height, width, side)
    for starts in ({window.place.y0 for window in windows}, {window.place.x0 for window in windows}):
        ordered = sorted(starts)
        steps = [after - before for before, after in zip(ordered, ordered[1:], strict=False)]
        assert all(step <= side // 2 - side // 8 for step in steps)


def test_a_window_cuts_the_same_place_out_of_tokens_and_of_pixels() -> None:
    rows, columns = 10, 14
    tokens = np.arange(rows * columns, dtype=np.float32)
    pixels = tokens.reshape(rows, columns).repeat(16, axis=0).repeat(16, axis=1)[None, ..., None]
    for window in windows_of(2 * rows, 2 * columns, 8):
        of_tokens = window.of_tokens(tokens.reshape(1, -1, 1)).reshape(
            window.place.height, window.place.width
        )
        of_pixels = window.of_pixels(pixels)[0, ::16, ::16, 0]
        assert np.array_equal(of_tokens, of_pixels)
        assert of_tokens[0, 0] == window.place.y0 * columns + window.place.x0


def test_what_windows_agree_on_is_what_comes_out() -> None:
    """A velocity that depends on the place alone passes through the blend unchanged."""
    rows, columns = 9, 12
    field = np.random.default_rng(0).standard_normal((1, rows * columns, 5)).astype(np.float32)
    total = np.zeros((1, rows, columns, 5), np.float32)
    for window in windows_of(2 * rows, 2 * columns, 8):
        window.add(total, window.of_tokens(field))
    np.testing.assert_allclose(total.reshape(field.shape), field, atol=1e-6)
