"""What an undo step is called in the menu: the document keeps short English keys."""

from __future__ import annotations

from desktop.i18n import mark

UNDO_TITLES = {
    "Paint": mark("Paint"),
    "Erase": mark("Erase"),
    "Paint layer mask": mark("Paint layer mask"),
    "Erase layer mask": mark("Erase layer mask"),
    "Paint selection": mark("Paint the mask"),
    "Erase selection": mark("Erase from the mask"),
    "Add layer": mark("Add layer"),
    "Delete layer": mark("Delete layer"),
    "Move layer": mark("Move layer"),
    "Duplicate layer": mark("Duplicate layer"),
    "Group layers": mark("Group layers"),
    "Merge down": mark("Merge down"),
    "Rename layer": mark("Rename layer"),
    "Show layer": mark("Show layer"),
    "Hide layer": mark("Hide layer"),
    "Lock layer": mark("Lock layer"),
    "Unlock layer": mark("Unlock layer"),
    "Layer opacity": mark("Layer opacity"),
    "Blend mode": mark("Blend mode"),
    "Group isolation": mark("Group isolation"),
    "Add mask": mark("Add layer mask"),
    "Remove mask": mark("Remove layer mask"),
    "Invert mask": mark("Invert layer mask"),
    "Change pixels": mark("Change pixels"),
    "Move pixels": mark("Move pixels"),
    "Insert result": mark("Insert result"),
    "Enlarge picture": mark("Enlarge picture"),
    "Choose variant": mark("Choose variant"),
    "Add variants": mark("Add variants"),
    "Resize canvas": mark("Resize canvas"),
    "Select": mark("Change the mask"),
    "Select all": mark("Mask everything"),
    "Clear selection": mark("Clear the mask"),
    "Invert selection": mark("Invert the mask"),
    "Grow selection": mark("Grow the mask"),
    "Shrink selection": mark("Shrink the mask"),
}
