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
    Action.SCORE: mark("Score"),
    Action.DESCRIBE: mark("Describe"),
    Action.SELECT: mark("Select"),
    Action.MAP: mark("Make the map"),
    Action.SIMILAR: mark("Find similar"),
}
EXPLAIN = {
    Action.GENERATE: mark("Makes a new picture on the whole canvas"),
    Action.REFINE: mark("Reworks the whole picture, keeping what the strength leaves"),
    Action.FILL: mark("Repaints where the mask is, nothing else"),
    Action.EDIT: mark("Changes the picture as you say and keeps the rest to the byte; a mask limits it"),
    Action.CONTROL: mark("Makes a new picture along the edges or the depth of another"),
    Action.VARY: mark("Makes a new picture like others"),
    Action.UPSCALE: mark("Enlarges the canvas and all layers, and paints new detail on top"),
    Action.SCORE: mark("Says how well each picture shows your words, and ranks the pictures"),
    Action.DESCRIBE: mark("Says in words what a picture shows, or answers a question"),
    Action.SELECT: mark("Finds what you name in the picture and makes it the mask"),
    Action.MAP: mark("Makes a map of a picture as a new layer, for a result to follow"),
    Action.SIMILAR: mark("Looks through earlier results for those most like a picture"),
}
PLACEHOLDER = {
    Action.GENERATE: mark("What should the picture show?"),
    Action.REFINE: mark("What should the picture show?"),
    Action.FILL: mark("What should be there?"),
    Action.EDIT: mark("What should change? For example: make it night"),
    Action.CONTROL: mark("What should the picture show?"),
    Action.VARY: mark("Words are optional here"),
    Action.UPSCALE: mark("What the picture shows; helps with fine detail"),
    Action.SCORE: mark("What should the pictures show? Parts with commas are scored one by one"),
    Action.DESCRIBE: mark("The description can be put here"),
    Action.SELECT: mark("What should be masked? For example: the red cup"),
    Action.MAP: mark("Words are not needed here"),
    Action.SIMILAR: mark("Words are not needed here"),
}
NEEDS_WORDS = {
    Action.SCORE: mark("Write down what the pictures should show"),
    Action.SELECT: mark("Write down what should be masked"),
}
"""Why a task cannot begin without a prompt."""
