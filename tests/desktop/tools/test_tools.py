from __future__ import annotations

import numpy as np
import pytest

from desktop.document import commands, mask
from desktop.document.compositor import render
from desktop.document.document import Document
from desktop.document.geometry import Rect
from desktop.tools.bench import Bench
from desktop.tools.click_mask import Clicks, Mark
from desktop.tools.pointer import Pointer
from desktop.tools.settings import ToolName, ToolSettings
from desktop.tools.tools import ToolBox
from flux_core.errors import RequestInvalid


class View:
    """Remembers how far it was dragged, and which masks were asked for."""

    def __init__(self) -> None:
        self.moved = (0.0, 0.0)
        self.asked: list[Clicks] = []

    def pan(self, dx: float, dy: float) -> None:
        self.moved = (self.moved[0] + dx, self.moved[1] + dy)

    def ask_mask(self, clicks: Clicks) -> None:
        self.asked.append(clicks)

    def show_clicks(self) -> None:
        """Nothing is seen here."""


@pytest.fixture
def settings() -> ToolSettings:
    settings = ToolSettings()
    settings.set_front((200, 10, 20))
    return settings


@pytest.fixture
def view() -> View:
    return View()


@pytest.fixture
def box(photo, settings, view) -> ToolBox:
    return ToolBox(Bench(photo, settings, view))


def drag(box: ToolBox, *points: tuple[float, float], **keys: bool) -> None:
    box.press(Pointer(*points[0], *points[0], **keys))
    for point in points[1:]:
        box.drag(Pointer(*point, *point, **keys))
    box.release(Pointer(*points[-1], *points[-1], **keys))


def color_at(document: Document, x: int, y: int) -> tuple[int, ...]:
    return tuple(render(document.state, Rect(x, y, 1, 1))[0, 0].tolist())


def test_the_brush_paints_one_undo_step(box, photo):
    before = color_at(photo, 60, 50)
    drag(box, (40, 50), (60, 50), (90, 50))
    assert color_at(photo, 60, 50) == (200, 10, 20, 255)
    assert photo.undo() == "Paint"
    assert color_at(photo, 60, 50) == before


def test_the_eraser_takes_away_and_the_pens_other_end_does_too(box, photo, settings):
    settings.tool = ToolName.ERASER
    drag(box, (40, 50), (60, 50))
    assert color_at(photo, 50, 50)[3] == 0
    settings.tool = ToolName.BRUSH
    drag(box, (140, 150), (160, 150), is_eraser_end=True)
    assert color_at(photo, 150, 150)[3] == 0


def test_the_mask_brush_marks_the_selection_and_leaves_the_picture_alone(box, photo, settings):
    settings.tool = ToolName.MASK_BRUSH
    before = render(photo.state)
    drag(box, (40, 50), (60, 50))
    assert photo.state.selection.read(Rect(50, 50, 1, 1))[0, 0] == mask.REPAINT
    assert np.array_equal(render(photo.state), before)
    settings.tool = ToolName.MASK_ERASER
    drag(box, (40, 50), (60, 50))
    assert photo.state.selection.read(Rect(50, 50, 1, 1))[0, 0] == mask.KEEP


def test_brush_and_mask_brush_keep_their_own_sizes(settings):
    settings.set_brush(size_px=11.0)
    settings.tool = ToolName.MASK_BRUSH
    settings.set_brush(size_px=222.0)
    settings.tool = ToolName.ERASER
    assert settings.brush().size_px == 11.0
    assert settings.brush(ToolName.MASK_ERASER).size_px == 222.0


def test_brackets_step_through_sensible_sizes_up_to_the_ends(settings):
    settings.set_brush(size_px=1.0)
    settings.step_size(-1)
    assert settings.brush().size_px == 1.0
    sizes = []
    for _ in range(60):
        settings.step_size(1)
        sizes.append(settings.brush().size_px)
    assert sizes == sorted(sizes)
    assert sizes[-1] == 1000.0


def test_a_layer_mask_is_painted_on_when_it_is_chosen(box, photo, settings):
    commands.add_mask(photo, photo.layers[0].id)
    settings.edits_layer_mask = True
    settings.tool = ToolName.ERASER
    drag(box, (40, 50), (60, 50))
    assert color_at(photo, 50, 50)[3] == 0
    assert photo.undo() == "Erase layer mask"


def test_painting_without_any_layer_makes_one(settings, view):
    document = Document.blank(100, 100)
    drag(ToolBox(Bench(document, settings, view, "New one")), (20, 20), (30, 20))
    assert [layer.name for layer in document.layers] == ["New one"]
    assert color_at(document, 25, 20) == (200, 10, 20, 255)


def test_a_locked_layer_refuses_with_a_sentence_and_the_box_stays_free(box, photo):
    commands.set_locked(photo, photo.layers[0].id, True)
    with pytest.raises(RequestInvalid, match="locked"):
        box.press(Pointer(5, 5))
    assert not box.is_busy


def test_shift_joins_strokes_by_a_straight_line(box, photo):
    drag(box, (20, 20), (22, 20))
    box.press(Pointer(200, 20, has_shift=True))
    box.release(Pointer(200, 20, has_shift=True))
    assert color_at(photo, 110, 20) == (200, 10, 20, 255)


def test_escape_takes_a_stroke_back_without_a_trace(box, photo):
    before = render(photo.state)
    box.press(Pointer(40, 50))
    box.drag(Pointer(80, 50))
    box.cancel()
    assert np.array_equal(render(photo.state), before)
    assert not photo.can_undo
    assert not box.is_busy


def test_moving_a_layer_is_one_step_however_many_events(box, photo, settings):
    settings.tool = ToolName.MOVE
    source = color_at(photo, 10, 10)
    drag(box, (10, 10), (14, 11), (25.4, 13.2))
    assert color_at(photo, 25, 13) == source
    photo.undo()
    assert color_at(photo, 10, 10) == source
    assert not photo.can_undo


def test_moving_with_shift_keeps_to_one_axis(box, photo, settings):
    settings.tool = ToolName.MOVE
    source = color_at(photo, 10, 10)
    drag(box, (10, 10), (40, 17), has_shift=True)
    assert color_at(photo, 40, 10) == source


def test_a_cancelled_move_is_gone(box, photo, settings):
    settings.tool = ToolName.MOVE
    source = color_at(photo, 10, 10)
    box.press(Pointer(10, 10))
    box.drag(Pointer(60, 60))
    box.cancel()
    assert color_at(photo, 10, 10) == source


def test_the_picker_takes_the_colour_that_is_seen_and_ignores_what_lies_outside(box, photo, settings):
    settings.tool = ToolName.PICKER
    drag(box, (30.7, 40.2))
    assert settings.front == (30, 40, 70)
    drag(box, (-5, 40))
    assert settings.front == (30, 40, 70)


def test_space_is_the_hand_and_alt_the_picker_for_as_long_as_they_are_held(box, view, settings):
    box.is_space_held = True
    drag(box, (10, 10), (35, 5))
    assert view.moved == (25.0, -5.0)
    box.is_space_held = False
    drag(box, (50, 60), has_alt=True)
    assert settings.front == (50, 60, 110)


def test_pressure_reaches_the_stroke(box, photo, settings):
    settings.set_brush(size_px=40.0, is_size_by_pressure=True)
    before = color_at(photo, 100, 112)
    box.press(Pointer(100, 100, pressure=0.2))
    box.release(Pointer(100, 100, pressure=0.2))
    assert color_at(photo, 100, 100) == (200, 10, 20, 255)
    assert color_at(photo, 100, 112) == before


def click(box: ToolBox, x: float, y: float, **keys: bool) -> None:
    drag(box, (x, y), **keys)


def found(photo: Document, *columns: int) -> np.ndarray:
    """A mask of these columns of the photo."""
    grey = np.zeros((photo.size.height, photo.size.width), np.uint8)
    grey[:, list(columns)] = 255
    return grey


def masked_columns(photo: Document) -> list[int]:
    return np.flatnonzero(photo.state.selection.read(photo.state.canvas).any(axis=0)).tolist()


@pytest.fixture
def clicker(box, settings) -> ToolBox:
    settings.tool = ToolName.CLICK_MASK
    return box


def test_a_click_asks_for_a_mask_and_the_answer_is_one_undo_step(clicker, photo, view):
    click(clicker, 40.7, 50.2)
    (clicks,) = view.asked
    assert clicks.marks == (Mark(40, 50),)
    assert masked_columns(photo) == [], "the mask is as it was until there is an answer"
    clicker.click_mask.take(clicks, found(photo, 40, 41))
    assert masked_columns(photo) == [40, 41]
    assert photo.undo() == "Select by clicks"
    assert masked_columns(photo) == []


def test_clicks_add_up_and_alt_or_the_right_button_exclude(clicker, view):
    click(clicker, 40, 50)
    click(clicker, 80, 50, has_alt=True)
    click(clicker, 90, 50, is_right_button=True)
    assert view.asked[-1].marks == (Mark(40, 50), Mark(80, 50, False), Mark(90, 50, False))


def test_an_answer_to_clicks_that_went_on_is_passed_over(clicker, photo, view):
    click(clicker, 40, 50)
    click(clicker, 80, 50)
    clicker.click_mask.take(view.asked[0], found(photo, 40))
    assert masked_columns(photo) == []
    clicker.click_mask.take(view.asked[1], found(photo, 40, 80))
    assert masked_columns(photo) == [40, 80]


def test_after_an_undo_the_next_click_goes_on_from_the_mask_that_is_there(clicker, photo, view):
    for x in (40, 80):
        click(clicker, x, 50)
        clicker.click_mask.take(view.asked[-1], found(photo, x))
    photo.undo()
    click(clicker, 120, 50)
    assert view.asked[-1].marks == (Mark(40, 50), Mark(120, 50))


def test_a_mask_made_otherwise_is_replaced_or_with_shift_added_to(clicker, photo, view):
    commands.set_selection(photo, mask.select_rect(Rect(10, 0, 2, 240)))
    click(clicker, 40, 50)
    clicker.click_mask.take(view.asked[-1], found(photo, 40))
    assert masked_columns(photo) == [40]
    commands.set_selection(photo, mask.select_rect(Rect(10, 0, 2, 240)))
    click(clicker, 80, 50, has_shift=True)
    clicker.click_mask.take(view.asked[-1], found(photo, 80))
    assert masked_columns(photo) == [10, 11, 80]
    click(clicker, 90, 50, has_alt=True)
    clicker.click_mask.take(view.asked[-1], found(photo, 79))
    assert masked_columns(photo) == [10, 11, 79], "what was there before stays"


def test_a_drag_draws_a_box_on_the_canvas_and_escape_takes_it_back(clicker, photo, view):
    clicker.press(Pointer(300, 200, 300, 200))
    clicker.drag(Pointer(400, 260, 400, 260))
    assert clicker.click_mask.dragged == Rect(300, 200, 20, 40)
    clicker.cancel()
    assert clicker.click_mask.dragged is None
    drag(clicker, (20, 30), (60, 90))
    (clicks,) = view.asked
    assert (clicks.box, clicks.marks) == (Rect(20, 30, 41, 61), ())


def test_excluding_before_anything_is_included_says_what_to_do(clicker, view):
    with pytest.raises(RequestInvalid, match="belongs to it first"):
        click(clicker, 40, 50, has_alt=True)
    with pytest.raises(RequestInvalid, match="no picture there"):
        click(clicker, -1, 50)
    assert view.asked == []


def test_clicks_that_get_no_answer_are_forgotten(clicker, photo, view):
    click(clicker, 40, 50)
    clicker.click_mask.give_up(view.asked[-1])
    click(clicker, 80, 50)
    assert view.asked[-1].marks == (Mark(80, 50),)


def test_an_answer_for_a_canvas_of_another_size_is_refused(clicker, photo, view):
    click(clicker, 40, 50)
    with pytest.raises(RequestInvalid, match="changed its size"):
        clicker.click_mask.take(view.asked[-1], np.zeros((5, 5), np.uint8))
