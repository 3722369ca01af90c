"""What each act of the one button is called, and what it does, in a few words."""

from __future__ import annotations

from desktop.i18n import mark
from desktop.jobs.wish import Action

BUTTON_TEXT = {
    Action.GENERATE: mark("Generate"),
    Action.REFINE: mark("Refine"),
    Action.FILL: mark("Fill"),
    Action.EDIT: mark("Edit"),
    Action.CONTROL: mark("Follow"),
    Action.VARY: mark("Vary"),
    Action.UPSCALE: mark("Enlarge"),
}
EXPLAIN = {
    Action.GENERATE: mark("Makes a new picture on the whole canvas"),
    Action.REFINE: mark("Reworks the whole picture, keeping what the strength leaves"),
    Action.FILL: mark("Repaints where the mask is, nothing else"),
    Action.EDIT: mark("Changes the picture as you say and keeps the rest to the byte; a mask limits it"),
    Action.CONTROL: mark("Makes a new picture along the edges or the depth of another"),
    Action.VARY: mark("Makes a new picture like others"),
    Action.UPSCALE: mark("Enlarges the canvas and all layers, and paints new detail on top"),
}
PLACEHOLDER = {
    Action.GENERATE: mark("What should the picture show?"),
    Action.REFINE: mark("What should the picture show?"),
    Action.FILL: mark("What should be there?"),
    Action.EDIT: mark("What should change? For example: make it night"),
    Action.CONTROL: mark("What should the picture show?"),
    Action.VARY: mark("Words are optional here"),
    Action.UPSCALE: mark("What the picture shows; helps with fine detail"),
}
