"""What an undo step is called in the menu; the document keeps English keys, this is the list of them."""

from __future__ import annotations

from desktop.i18n import mark

UNDO_TITLES = (
    mark("Add layer"),
    mark("Delete layer"),
    mark("Move layer"),
    mark("Duplicate layer"),
    mark("Group layers"),
    mark("Merge down"),
    mark("Rename layer"),
    mark("Show layer"),
    mark("Hide layer"),
    mark("Lock layer"),
    mark("Unlock layer"),
    mark("Layer opacity"),
    mark("Blend mode"),
    mark("Group isolation"),
    mark("Add mask"),
    mark("Remove mask"),
    mark("Invert mask"),
    mark("Change pixels"),
    mark("Move pixels"),
    mark("Insert result"),
    mark("Choose variant"),
    mark("Add variants"),
    mark("Resize canvas"),
    mark("Select"),
    mark("Select all"),
    mark("Clear selection"),
    mark("Invert selection"),
    mark("Grow selection"),
    mark("Shrink selection"),
)
