"""From picture and mask to the model's view and back: what must hold for every picture and every mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_core.errors import RequestInvalid
from flux_core.imaging import inpaint, masks
from flux_core.imaging.geometry import Box, resize
from flux_core.imaging.inpaint import InpaintSettings

TINY = InpaintSettings(feather_px=4, working_side_px=256, max_side_px=256)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def mask_with(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = 255
    return mask


@st.composite
def masked_pictures(draw):
    """A picture of any small size and a mask of a few rectangles of any grey, somewhere in it."""
    height, width = draw(st.integers(1, 400)), draw(st.integers(1, 400))
    mask = np.zeros((height, width), np.uint8)
    for _ in range(draw(st.integers(1, 3))):
        x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
        mask[y0:y1, x0:x1] = draw(st.sampled_from([255, 255, 128, masks.MASK_FLOOR]))
    channels = draw(st.sampled_from([3, 4]))
    return noise(height, width, channels, seed=draw(st.integers(0, 9))), mask


work_sides = st.sampled_from([(256, 256), (256, 512), (512, 768)])


@settings(max_examples=120, deadline=None)
@given(masked_pictures(), work_sides, st.integers(0, 20), st.integers(0, 24), st.floats(0, 2))
def test_a_plan_never_stretches_and_shows_the_model_all_that_may_change(pair, sides, grow, feather, context):
    picture, mask = pair
    height, width = mask.shape
    plan = inpaint.plan_inpaint(mask, InpaintSettings(grow, feather, context, *sides))
    box = plan.box
    assert plan.work_width_px * box.height == plan.work_height_px * box.width  # the same factor, exactly
    assert plan.work_width_px % 16 == plan.work_height_px % 16 == 0
    assert plan.scale <= 2.0
    assert plan.work_width_px * plan.work_height_px <= sides[0] ** 2
    assert sides[0] // 2 <= min(plan.work_width_px, plan.work_height_px)
    assert max(plan.work_width_px, plan.work_height_px) <= sides[1]
    assert box.contains(plan.core)
    assert Box(0, 0, width, height).contains(plan.core)
    assert box.width > width or (box.x0 >= 0 and box.x1 <= width)  # beyond the picture only if it must
    assert box.height > height or (box.y0 >= 0 and box.y1 <= height)
    image, work_mask = inpaint.extract(picture, plan)
    assert image.shape == (plan.work_height_px, plan.work_width_px, 3)
    assert work_mask.shape == image.shape[:2]
    assert set(np.unique(work_mask)) <= {0, 255}
    assert work_mask.max() == 255


@settings(max_examples=120, deadline=None)
@given(masked_pictures(), st.integers(0, 24), st.booleans())
def test_outside_the_mask_every_byte_stays_and_inside_something_changes(pair, feather, is_matched):
    picture, mask = pair
    before = picture.copy()
    plan = inpaint.plan_inpaint(
        mask,
        InpaintSettings(
            feather_px=feather, working_side_px=256, max_side_px=256, is_colour_matched=is_matched
        ),
    )
    generated = noise(plan.work_height_px, plan.work_width_px, 3, seed=99)
    patch = inpaint.place(picture, plan, generated)
    after = inpaint.apply(picture, patch)
    assert np.array_equal(picture, before)
    assert np.array_equal(after[mask == 0], picture[mask == 0])
    assert patch.alpha.max() > 0
    shown = np.zeros(mask.shape, np.uint8)
    shown[plan.core.y0 : plan.core.y1, plan.core.x0 : plan.core.x1] = patch.alpha
    assert (shown <= mask).all()
    assert np.array_equal(shown > 0, mask > 0)
    solid = shown == 255
    core = plan.core
    assert np.array_equal(
        after[core.y0 : core.y1, core.x0 : core.x1][patch.alpha == 255][:, :3],
        patch.pixels[patch.alpha == 255],
    )
    if picture.shape[2] == 4:
        assert (after[solid][:, 3] == 255).all()
        assert (after[..., 3] >= picture[..., 3]).all()


@settings(max_examples=60, deadline=None)
@given(masked_pictures(), st.integers(0, 12), st.integers(0, 12))
def test_growing_reaches_exactly_as_far_as_asked(pair, grow, feather):
    _, mask = pair
    plan = inpaint.plan_inpaint(mask, InpaintSettings(grow_px=grow, feather_px=feather))
    shown = np.zeros(mask.shape, np.uint8)
    shown[plan.core.y0 : plan.core.y1, plan.core.x0 : plan.core.x1] = plan.alpha
    y, x = np.nonzero(mask)
    reach = np.zeros(mask.shape, bool)
    for dy, dx in ((grow, 0), (-grow, 0), (0, grow), (0, -grow)):
        reach[np.clip(y + dy, 0, mask.shape[0] - 1), np.clip(x + dx, 0, mask.shape[1] - 1)] = True
    assert (shown[reach] > 0).all()
    near = masks.grown(np.where(mask > 0, np.uint8(255), np.uint8(0)), grow)
    assert (shown[near == 0] == 0).all()


@settings(max_examples=40, deadline=None)
@given(masked_pictures(), st.data())
def test_a_new_mask_after_the_job_stays_within_what_was_generated(pair, data):
    picture, mask = pair
    plan = inpaint.plan_inpaint(mask, TINY)
    other = np.roll(mask, data.draw(st.integers(-50, 50)), axis=data.draw(st.integers(0, 1)))
    again = inpaint.with_mask(plan, other, data.draw(st.integers(0, 9)), data.draw(st.integers(0, 9)))
    assert again.box == plan.box
    assert again.box.contains(again.core)
    patch = inpaint.place(picture, again, noise(plan.work_height_px, plan.work_width_px, 3))
    assert patch.pixels.shape[:2] == patch.alpha.shape == (again.core.height, again.core.width)


def test_the_same_mask_again_is_the_same_alpha():
    mask = mask_with(300, 400, (100, 50, 180, 120))
    plan = inpaint.plan_inpaint(mask, TINY)
    again = inpaint.with_mask(plan, mask, grow_px=0, feather_px=4)
    local = again.alpha[
        plan.core.y0 - again.core.y0 : plan.core.y1 - again.core.y0,
        plan.core.x0 - again.core.x0 : plan.core.x1 - again.core.x0,
    ]
    assert np.array_equal(local, plan.alpha)
    assert int(again.alpha.astype(int).sum()) == int(plan.alpha.astype(int).sum())


@pytest.mark.parametrize(
    ("size", "box", "sides"),
    [
        ((1024, 768), (400, 300, 600, 450), (256, 256)),
        ((1024, 768), (0, 0, 90, 40), (256, 256)),
        ((1024, 768), (0, 0, 1024, 768), (256, 256)),
        ((2000, 1500), (700, 600, 1100, 900), (1024, 2048)),
    ],
)
def test_there_and_back_a_checkerboard_moves_less_than_a_quarter_pixel(size, box, sides):
    assert_checkerboard_stays(size, box, sides)


@settings(max_examples=25, deadline=None)
@given(st.integers(100, 900), st.integers(100, 900), st.data())
def test_a_checkerboard_stays_in_its_place_in_any_picture_under_any_mask(width, height, data):
    x0, y0 = data.draw(st.integers(0, width - 64)), data.draw(st.integers(0, height - 64))
    x1, y1 = data.draw(st.integers(x0 + 64, width)), data.draw(st.integers(y0 + 64, height))
    assert_checkerboard_stays((width, height), (x0, y0, x1, y1), (256, 512))


def assert_checkerboard_stays(size, box, sides):
    """The whole piece, and each of its quarters alone, so that a wrong scale cannot cancel out."""
    width, height = size
    mask = mask_with(height, width, box)
    plan = inpaint.plan_inpaint(mask, InpaintSettings(0, 0, 0.5, *sides, is_colour_matched=False))
    field = max(16, round(8 / plan.scale))  # fields the model's size can resolve
    rows, columns = np.mgrid[0:height, 0:width] // field
    board = np.where((rows + columns) % 2 == 0, np.uint8(40), np.uint8(215))
    picture = np.dstack([board] * 3)
    image, _ = inpaint.extract(picture, plan)
    patch = inpaint.place(picture, plan, image)
    core = plan.core
    before = picture[core.y0 : core.y1, core.x0 : core.x1, 0].astype(float)
    after = patch.pixels[..., 0].astype(float)
    y, x = (side // 2 for side in before.shape)
    parts = [(slice(None), slice(None))]
    if min(y, x) >= 3 * field:
        parts += [(v, h) for v in (slice(0, y), slice(y, None)) for h in (slice(0, x), slice(x, None))]
    for part in parts:
        for axis in (0, 1):
            assert abs(shift_px(before[part], after[part], axis)) < 0.25


def shift_px(before: np.ndarray, after: np.ndarray, axis: int) -> float:
    """Least-squares shift along an axis: how much of the slope explains the difference."""
    inner = (slice(4, -4), slice(4, -4))
    slope = np.gradient(after, axis=axis)[inner]
    difference = (before - after)[inner]
    return float((slope * difference).sum() / (slope**2).sum())


def test_the_shift_measure_sees_half_a_pixel():
    ramp = np.sin(np.arange(200) / 9)[None, :].repeat(50, axis=0) * 100
    moved = np.sin((np.arange(200) + 0.5) / 9)[None, :].repeat(50, axis=0) * 100
    assert shift_px(moved, ramp, axis=1) == pytest.approx(0.5, abs=0.02)


def test_a_piece_scaled_alone_is_the_piece_of_the_whole():
    pixels = noise(64, 96, 3)
    whole = resize(pixels, 288, 192)
    piece = resize(pixels, 90, 60, (20.0, 10.0, 50.0, 30.0))
    assert np.array_equal(piece, whole[30:90, 60:150])


def test_a_small_target_is_painted_larger_and_never_more_than_twice():
    plan = inpaint.plan_inpaint(mask_with(768, 1024, (500, 400, 540, 440)), TINY)
    assert plan.scale == 2.0
    large = inpaint.plan_inpaint(mask_with(768, 1024, (100, 100, 800, 700)), TINY)
    assert large.scale < 0.5


def test_a_picture_smaller_than_the_model_is_padded_with_its_own_edge():
    picture = noise(20, 30, 3)
    plan = inpaint.plan_inpaint(mask_with(20, 30, (3, 3, 9, 9)), TINY)
    assert plan.box.x0 < 0
    image, work_mask = inpaint.extract(picture, plan)
    assert np.ptp(image[64, : int(-plan.box.x0 * plan.scale) - 8].astype(int), axis=0).max() <= 3
    assert work_mask[0].max() == 0


def test_transparency_is_laid_on_white_for_the_model():
    picture = np.zeros((200, 200, 4), np.uint8)
    image, _ = inpaint.extract(picture, inpaint.plan_inpaint(mask_with(200, 200, (50, 50, 90, 90)), TINY))
    assert image.min() == 255


def test_the_fade_is_smooth_inside_and_opaque_in_the_middle_and_at_the_border():
    mask = mask_with(200, 200, (100, 50, 200, 150))
    plan = inpaint.plan_inpaint(mask, InpaintSettings(feather_px=16))
    row = plan.alpha[plan.alpha.shape[0] // 2].astype(int)
    assert row[0] == 0
    assert (np.diff(row) >= 0).all()  # rises from the left edge, no fade at the picture's border
    assert row[-1] == 255
    assert np.abs(np.diff(row)).max() < 40


def shaded(size: int) -> np.ndarray:
    """A soft picture, so that a colour shift is the only difference."""
    y, x = np.mgrid[0:size, 0:size] / size
    return np.dstack([90 + 80 * x, 120 + 60 * y, 140 - 50 * x * y]).astype(np.uint8)


def test_colour_match_takes_a_shift_that_varies_out_of_the_seam():
    picture = shaded(512)
    mask = mask_with(512, 512, (180, 180, 330, 330))
    plan = inpaint.plan_inpaint(mask, InpaintSettings(0, 0, 0.5, 256, 256))
    image, _ = inpaint.extract(picture, plan)
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]] / image.shape[0]
    drift = np.dstack([14 * x - 4, -10 * y, 6 + 8 * x * y])
    rng = np.random.default_rng(1)
    shifted = np.clip(np.rint(image + drift + rng.normal(0, 2, image.shape)), 0, 255).astype(np.uint8)
    core, solid = plan.core, plan.alpha == 255
    there = picture[core.y0 : core.y1, core.x0 : core.x1].astype(float)

    def error(is_matched: bool) -> float:
        chosen = InpaintSettings(0, 0, 0.5, 256, 256, is_colour_matched=is_matched)
        patch = inpaint.place(picture, inpaint.plan_inpaint(mask, chosen), shifted)
        return float(np.abs(patch.pixels - there)[solid].mean())

    assert error(is_matched=False) > 5
    assert error(is_matched=True) < 2.2


def test_colour_match_keeps_its_hands_off_when_there_is_nothing_to_measure():
    picture = shaded(256)
    plan = inpaint.plan_inpaint(np.full((256, 256), 255, np.uint8), TINY)
    generated = np.full((plan.work_height_px, plan.work_width_px, 3), 7, np.uint8)
    assert (inpaint.place(picture, plan, generated).pixels == 7).all()


def test_colour_match_leaves_what_already_matches_alone():
    picture = shaded(512)
    plan = inpaint.plan_inpaint(mask_with(512, 512, (200, 200, 300, 300)), TINY)
    image, work_mask = inpaint.extract(picture, plan)
    answer = image.copy()
    answer[work_mask > 0] = (200, 30, 30)  # a new object: not a colour shift
    patch = inpaint.place(picture, plan, answer)
    middle = patch.pixels[patch.pixels.shape[0] // 2, patch.pixels.shape[1] // 2]
    assert np.abs(middle.astype(int) - (200, 30, 30)).max() <= 1


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((9, 9), np.uint8),
        np.full((9, 9), masks.MASK_FLOOR - 1, np.uint8),
        np.zeros((9, 9, 3), np.uint8),
        np.zeros((0, 9), np.uint8),
        np.ones((9, 9), np.float32),
        np.zeros(9, np.uint8),
    ],
)
def test_an_empty_or_strange_mask_is_refused_with_a_sentence(mask):
    with pytest.raises(RequestInvalid) as caught:
        inpaint.plan_inpaint(mask, TINY)
    assert caught.value.hint


def test_pictures_of_another_size_are_refused_with_both_sizes():
    plan = inpaint.plan_inpaint(mask_with(100, 100, (10, 10, 20, 20)), TINY)
    with pytest.raises(RequestInvalid, match="90 x 100 pixels, but 100 x 100"):
        inpaint.extract(noise(100, 90, 3), plan)
    with pytest.raises(RequestInvalid, match="generated picture"):
        inpaint.place(noise(100, 100, 3), plan, noise(5, 5, 3))
    with pytest.raises(RequestInvalid, match="mask is 9 x 9"):
        inpaint.with_mask(plan, np.zeros((9, 9), np.uint8), 0, 0)


@pytest.mark.parametrize("field", [{"grow_px": -1}, {"feather_px": 1000}, {"context": float("nan")}])
def test_impossible_settings_are_refused(field):
    with pytest.raises(RequestInvalid):
        InpaintSettings(**field)


def test_suggested_settings_fade_wide_masks_and_leave_a_pixel_alone():
    assert inpaint.suggest_settings(mask_with(50, 50, (7, 7, 8, 8)), 256, 256).feather_px == 0
    wide = inpaint.suggest_settings(mask_with(900, 900, (100, 100, 800, 800)), 256, 256)
    assert wide.feather_px == 32
    assert wide.grow_px == 0


def test_outpainting_keeps_the_picture_and_masks_only_what_is_new():
    picture = noise(40, 60, 4)
    canvas, mask = inpaint.extend(picture, 10, 0, 20, 30)
    assert canvas.shape == (70, 90, 4)
    assert np.array_equal(canvas[:40, 10:70], picture)
    assert (mask[:40, 10:70] == 0).all()
    assert np.count_nonzero(mask) == 70 * 90 - 40 * 60
    assert np.array_equal(canvas[:40, 0], picture[:, 0])
    for sides in ((0, 0, 0, 0), (-1, 0, 0, 5), (20000, 0, 0, 0)):
        with pytest.raises(RequestInvalid):
            inpaint.extend(picture, *sides)
