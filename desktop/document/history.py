"""Undo and redo as a bounded list of states.

A step keeps the state before and after an edit. States share tiles, so a step costs what the edit
replaced: its bytes are counted, and the oldest steps go when the limit is passed.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from desktop.document.layers import GenerativeLayer, RasterLayer, Recipe
from desktop.document.state import DocumentState
from desktop.document.tiles import TileRaster

DEFAULT_LIMIT_BYTES = 512 * 1024 * 1024


@dataclass(slots=True)
class Step:
    """One undoable edit. Labels are English keys; the window translates them."""

    label: str
    before: DocumentState
    after: DocumentState
    active_before: str | None
    active_after: str | None
    merge_key: Hashable = None

    @property
    def undo_bytes(self) -> int:
        """What only the state before needs."""
        return exclusive_bytes(self.before, self.after)

    @property
    def redo_bytes(self) -> int:
        """What only the state after needs."""
        return exclusive_bytes(self.after, self.before)


class History:
    """The steps that can be undone and redone.

    Args:
        limit_bytes: Pixels and crops kept for undo and redo, beyond those of the current state.
    """

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._undo: list[tuple[Step, int]] = []  # oldest first, with bytes
        self._redo: list[tuple[Step, int]] = []  # next one last
        self._is_open = False  # whether the last step may take more edits of its merge key

    @property
    def undo_label(self) -> str | None:
        """Label of what undo would take back; None if there is nothing."""
        return self._undo[-1][0].label if self._undo else None

    @property
    def redo_label(self) -> str | None:
        """Label of what redo would do again; None if there is nothing."""
        return self._redo[-1][0].label if self._redo else None

    @property
    def used_bytes(self) -> int:
        """Bytes kept alive for undo and redo."""
        return sum(cost for _, cost in self._undo) + sum(cost for _, cost in self._redo)

    def push(self, step: Step) -> None:
        """Adds a step, joined to the last one if both carry the same merge key and no seal lies between."""
        self._redo.clear()
        last = self._undo[-1][0] if self._undo else None
        if last and self._is_open and step.merge_key is not None and last.merge_key == step.merge_key:
            self._undo.pop()
            step = Step(
                step.label,
                last.before,
                step.after,
                last.active_before,
                step.active_after,
                step.merge_key,
            )
        self._undo.append((step, step.undo_bytes))
        self._is_open = True
        used = self.used_bytes
        while used > self._limit_bytes and len(self._undo) > 1:
            used -= self._undo.pop(0)[1]

    def seal(self) -> None:
        """Ends a gesture: the next edit is a step of its own."""
        self._is_open = False

    def undo(self) -> Step | None:
        """Takes the last step back and returns it; None if there is nothing."""
        if not self._undo:
            return None
        step, _ = self._undo.pop()
        self._redo.append((step, step.redo_bytes))
        self._is_open = False
        return step

    def redo(self) -> Step | None:
        """Does the next step again and returns it; None if there is nothing."""
        if not self._redo:
            return None
        step, _ = self._redo.pop()
        self._undo.append((step, step.undo_bytes))
        self._is_open = False
        return step


def exclusive_bytes(state: DocumentState, other: DocumentState) -> int:
    """Bytes of tiles and crops that `state` holds and `other` does not, by identity."""
    mine, theirs = _holders(state), _holders(other)
    changed = [mine[key] for key in mine.keys() - theirs.keys()]  # most rasters are whole the same
    sizes = {id(part): size for holder in changed for part, size in _parts(holder)}
    for holder in theirs.values() if sizes else ():
        for part, _ in _parts(holder):
            sizes.pop(id(part), None)
    return sum(sizes.values())


def _holders(state: DocumentState) -> dict[int, TileRaster | Recipe]:
    found: list[TileRaster | Recipe] = [state.selection]
    for layer in state.walk():
        if layer.mask is not None:
            found.append(layer.mask)
        if isinstance(layer, RasterLayer):
            found.append(layer.raster)
        if isinstance(layer, GenerativeLayer):
            found.append(layer.recipe)
    return {id(holder): holder for holder in found}


def _parts(holder: TileRaster | Recipe) -> Iterator[tuple[object, int]]:
    if isinstance(holder, TileRaster):
        for tile in holder.tiles.values():
            yield tile, tile.nbytes
    else:
        for variant in holder.variants:
            yield variant.png, len(variant.png)
