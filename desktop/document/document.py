"""A document that can be edited: the current state, its history and those who watch it.

`state` is immutable and may be handed to any thread; the Document itself belongs to one thread. Edits
are functions in commands.py and strokes in stroke.py; all of them end in `commit`, which is the only way
to change what is saved and which makes exactly one undo step.
"""

from __future__ import annotations

from collections.abc import Hashable

from desktop.document import transition
from desktop.document.events import DocumentEvents
from desktop.document.geometry import Extent, check_canvas_size
from desktop.document.history import DEFAULT_LIMIT_BYTES, History, Step
from desktop.document.layers import Layer
from desktop.document.state import DocumentState


class Document:
    """A picture being edited.

    Args:
        state: Where it starts.
        active_id: The active layer; by default the top-most of the root.
        history_bytes: Limit of the undo history.

    Attributes:
        events: Signals, see DocumentEvents.
        history: Labels and bytes of undo and redo.
    """

    def __init__(
        self,
        state: DocumentState,
        *,
        active_id: str | None = None,
        history_bytes: int = DEFAULT_LIMIT_BYTES,
    ) -> None:
        self.events = DocumentEvents()
        self.history = History(history_bytes)
        self._state = state
        self._committed = state
        self._saved: DocumentState | None = state
        if state.find(active_id) is None:
            active_id = state.layers[-1].id if state.layers else None
        self._active_id = active_id

    @classmethod
    def blank(cls, width: int, height: int) -> Document:
        """An empty document of this size; raises RequestInvalid for an impossible one."""
        return cls(DocumentState(size=check_canvas_size(width, height)))

    @property
    def state(self) -> DocumentState:
        """What is shown now, including a stroke that is still being painted."""
        return self._state

    @property
    def committed_state(self) -> DocumentState:
        """The state after the last whole edit: what to save and to generate from."""
        return self._committed

    @property
    def size(self) -> Extent:
        return self._state.size

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The root's layers, bottom to top."""
        return self._state.layers

    @property
    def active_id(self) -> str | None:
        """Id of the active layer; None only if there is no layer. Setting it is not an edit."""
        return self._active_id

    @active_id.setter
    def active_id(self, layer_id: str | None) -> None:
        if layer_id is not None:
            self._state.layer(layer_id)
        if layer_id != self._active_id:
            self._active_id = layer_id
            self.events.active_changed.emit(layer_id)

    @property
    def active_layer(self) -> Layer | None:
        return self._state.find(self._active_id)

    @property
    def is_modified(self) -> bool:
        """Whether anything differs from what was last saved; undoing back to it makes it False again."""
        return self._committed is not self._saved

    @property
    def can_undo(self) -> bool:
        return self.history.undo_label is not None

    @property
    def can_redo(self) -> bool:
        return self.history.redo_label is not None

    def commit(
        self,
        label: str,
        state: DocumentState,
        *,
        active_id: str | None = None,
        merge_key: Hashable = None,
    ) -> None:
        """Makes `state` the document's and adds one undo step; does nothing if it is no change.

        Args:
            label: What was done, in English, for the undo menu ("Hide layer").
            state: Derived from `committed_state`.
            active_id: The layer to make active; by default the active one stays.
            merge_key: Edits in a row with the same key become one step, until `seal`.
        """
        was_modified = self.is_modified
        before, active_before = self._committed, self._active_id
        if state is before and self._state is before:
            return
        if state is not before:
            active = self._still_there(state, active_id or active_before)
            self.history.push(Step(label, before, state, active_before, active, merge_key))
            self._committed = state
        else:
            active = active_before
        self._show(state, active)
        self._announce(was_modified)

    def preview(self, state: DocumentState) -> None:
        """Shows `state` without a step, for an edit still going on; end with commit or discard_preview."""
        self._show(state, self._still_there(state, self._active_id))

    def discard_preview(self) -> None:
        """Shows the last committed state again."""
        self._show(self._committed, self._still_there(self._committed, self._active_id))

    def seal(self) -> None:
        """Ends a gesture, such as a slider drag: the next edit is a step of its own."""
        self.history.seal()

    def undo(self) -> str | None:
        """Takes the last step back; returns its label, or None if there was nothing to undo."""
        was_modified = self.is_modified
        step = self.history.undo()
        if step is None:
            return None
        self._committed = step.before
        self._show(step.before, self._still_there(step.before, step.active_before))
        self._announce(was_modified)
        return step.label

    def redo(self) -> str | None:
        """Does the next step again; returns its label, or None if there was nothing to redo."""
        was_modified = self.is_modified
        step = self.history.redo()
        if step is None:
            return None
        self._committed = step.after
        self._show(step.after, self._still_there(step.after, step.active_after))
        self._announce(was_modified)
        return step.label

    def mark_saved(self, state: DocumentState | None) -> None:
        """Remembers which state is on disk; None means none is, as after a recovery."""
        was_modified = self.is_modified
        self._saved = state
        if self.is_modified != was_modified:
            self.events.modified_changed.emit(self.is_modified)

    def _still_there(self, state: DocumentState, layer_id: str | None) -> str | None:
        if state.find(layer_id) is not None:
            return layer_id
        return state.layers[-1].id if state.layers else None

    def _show(self, state: DocumentState, active_id: str | None) -> None:
        transition.run(self._state, state, self._set_state, self.events)
        if active_id != self._active_id:
            self._active_id = active_id
            self.events.active_changed.emit(active_id)

    def _set_state(self, state: DocumentState) -> None:
        self._state = state

    def _announce(self, was_modified: bool) -> None:
        self.events.history_changed.emit()
        if self.is_modified != was_modified:
            self.events.modified_changed.emit(self.is_modified)
