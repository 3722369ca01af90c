"""Everything that has a menu entry, as one table: title, key, icon, and when it is possible.

Menus, tool tips and the list of keys are made from it, so they never disagree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QMenu, QMenuBar, QWidget

from desktop.i18n import mark, tr
from desktop.views.theme import Theme
from desktop.views.tool_bars import TOOLS


class Needs(Enum):
    """What must be there for an action to be possible."""

    NOTHING = 0
    DOCUMENT = 1
    LAYER = 2
    MASK = 3
    UNDO = 4
    REDO = 5
    JOB = 6


@dataclass(frozen=True, slots=True)
class Entry:
    """One action. `keys` are alternatives; the first one is shown."""

    name: str
    title: str
    keys: tuple[str, ...] = ()
    needs: Needs = Needs.DOCUMENT
    is_checkable: bool = False


SEPARATOR = Entry("", "")
MENUS: tuple[tuple[str, tuple[Entry, ...]], ...] = (
    (
        mark("&File"),
        (
            Entry("new", mark("New canvas…"), ("Ctrl+N",), Needs.NOTHING),
            Entry("open", mark("Open…"), ("Ctrl+O",), Needs.NOTHING),
            Entry("place", mark("Place as a layer…"), ("Ctrl+Shift+O",)),
            SEPARATOR,
            Entry("save", mark("Save"), ("Ctrl+S",)),
            Entry("save_as", mark("Save as…"), ("Ctrl+Shift+S",)),
            Entry("export", mark("Export a picture…"), ("Ctrl+Shift+E",)),
            SEPARATOR,
            Entry("close", mark("Close"), ("Ctrl+W",)),
            Entry("quit", mark("Quit"), ("Ctrl+Q",), Needs.NOTHING),
        ),
    ),
    (
        mark("&Edit"),
        (
            Entry("undo", mark("Undo"), ("Ctrl+Z",), Needs.UNDO),
            Entry("redo", mark("Redo"), ("Ctrl+Shift+Z", "Ctrl+Y"), Needs.REDO),
            SEPARATOR,
            Entry("copy", mark("Copy the picture"), ("Ctrl+C",)),
            Entry("paste", mark("Paste as a layer"), ("Ctrl+V",), Needs.NOTHING),
            SEPARATOR,
            Entry("swap_colors", mark("Swap colours"), ("X",), Needs.NOTHING),
            Entry("reset_colors", mark("Default colours"), ("D",), Needs.NOTHING),
            Entry("larger", mark("Larger brush"), ("]",), Needs.NOTHING),
            Entry("smaller", mark("Smaller brush"), ("[",), Needs.NOTHING),
        ),
    ),
    (
        mark("&Layer"),
        (
            Entry("add_layer", mark("New layer"), ("Ctrl+Shift+N",)),
            Entry("duplicate_layer", mark("Duplicate layer"), ("Ctrl+J",), Needs.LAYER),
            Entry("merge_down", mark("Merge down"), ("Ctrl+E",), Needs.LAYER),
            Entry("delete_layer", mark("Delete layer"), ("Delete",), Needs.LAYER),
            SEPARATOR,
            Entry("layer_up", mark("Move up"), ("Ctrl+]",), Needs.LAYER),
            Entry("layer_down", mark("Move down"), ("Ctrl+[",), Needs.LAYER),
            Entry("toggle_visible", mark("Show or hide"), ("Ctrl+H",), Needs.LAYER),
            Entry("toggle_locked", mark("Lock or unlock"), ("Ctrl+Shift+L",), Needs.LAYER),
            Entry("toggle_mask", mark("Add or remove a mask"), ("Ctrl+Shift+K",), Needs.LAYER),
        ),
    ),
    (
        mark("&Mask"),
        (
            Entry("mask_all", mark("Mask everything"), ("Ctrl+A",)),
            Entry("mask_clear", mark("Clear the mask"), ("Ctrl+D",), Needs.MASK),
            Entry("mask_invert", mark("Invert the mask"), ("Shift+V",)),
            Entry("mask_grow", mark("Grow by 8 px"), (), Needs.MASK),
            Entry("mask_shrink", mark("Shrink by 8 px"), (), Needs.MASK),
            SEPARATOR,
            Entry("mask_tint", mark("Show the mask as a colour"), ("Q",), Needs.DOCUMENT, True),
        ),
    ),
    (
        mark("&Create"),
        (
            Entry("generate", mark("Generate, refine or fill"), ("Ctrl+Return", "Shift+Return")),
            Entry("cancel_job", mark("Cancel the running job"), ("Shift+X",), Needs.JOB),
            Entry("prompt", mark("Go to the prompt"), ("Alt+A",), Needs.NOTHING),
            SEPARATOR,
            Entry("select_words", mark("Select by words"), ("Ctrl+Shift+F",)),
            Entry("map_layer", mark("Depth or edges as a layer")),
            Entry("describe", mark("Describe a picture")),
            Entry("score", mark("Score against the prompt")),
            Entry("similar", mark("Find results similar to the layer"), (), Needs.LAYER),
        ),
    ),
    (
        mark("&View"),
        (
            Entry("zoom_in", mark("Zoom in"), ("Ctrl++", "Ctrl+=")),
            Entry("zoom_out", mark("Zoom out"), ("Ctrl+-",)),
            Entry("zoom_fit", mark("Fit"), ("Ctrl+0",)),
            Entry("zoom_100", mark("100 %"), ("Ctrl+1",)),
            Entry("zoom_200", mark("200 %"), ("Ctrl+2",)),
            Entry("zoom_400", mark("400 %"), ("Ctrl+3",)),
            Entry("zoom_800", mark("800 %"), ("Ctrl+4",)),
        ),
    ),
    (
        mark("&Help"),
        (
            Entry("keys", mark("Keys"), ("F1",), Needs.NOTHING),
            Entry("about", mark("About Flowbrush"), (), Needs.NOTHING),
        ),
    ),
)


def make_actions(owner: QWidget, bar: QMenuBar, theme: Theme) -> tuple[dict[str, QAction], dict[str, QMenu]]:
    """Fills the menu bar; returns the actions by name and the menus by English title."""
    actions: dict[str, QAction] = {}
    menus: dict[str, QMenu] = {}
    for menu_title, entries in MENUS:
        menu = bar.addMenu(tr(menu_title))
        menus[menu_title] = menu
        for entry in entries:
            if entry is SEPARATOR:
                menu.addSeparator()
                continue
            action = QAction(tr(entry.title), owner)
            action.setShortcuts([QKeySequence(key) for key in entry.keys])
            action.setCheckable(entry.is_checkable)
            action.setData(entry.needs)
            menu.addAction(action)
            owner.addAction(action)
            actions[entry.name] = action
    return actions, menus


def key_groups() -> list[tuple[str, list[tuple[str, str]]]]:
    """(menu, [(title, key)]) of everything that has a key, in the language in use."""
    groups = [(tr("Tools"), [(tr(title), _shown(key)) for _, title, key, _ in TOOLS])]
    for menu, entries in MENUS:
        rows = [(tr(entry.title), _shown(entry.keys[0])) for entry in entries if entry.keys]
        groups.append((re.sub(r"\(&.\)|&", "", tr(menu)), rows))
    return groups


def _shown(key: str) -> str:
    return QKeySequence(key).toString(QKeySequence.SequenceFormat.NativeText)
