"""Rank 0's evaluations on all ranks: every follower is told, and computes, records or replays the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

from torch import Tensor

from backends.torch_cuda.backend import TorchBackend
from backends.torch_cuda.devices import is_out_of_memory
from backends.torch_cuda.graphs import MAX_GRAPHS
from backends.torch_cuda.recording import Recording, Tape, shape_of
from backends.torch_cuda.split.caches import Deciding
from backends.torch_cuda.split.crew import Crew
from backends.torch_cuda.split.evaluation import evaluated, recorded
from backends.torch_cuda.split.inputs import Inputs, described
from backends.torch_cuda.split.links import Links
from backends.torch_cuda.split.messages import CacheOrder, EvaluateOrder
from flux_core.errors import EngineDied
from flux_core.models.transformer import Transformer
from flux_core.sampling.step_cache import BlockCache


@dataclass(frozen=True, slots=True)
class _Kind:
    """Evaluations with arrays of the same shapes.

    Attributes:
        number: By which followers know them.
        recording: None where they cannot be recorded.
    """

    number: int
    recording: Recording | None


class Leading:
    """Evaluations with one crew.

    Args:
        backend: Of rank 0.
        crew: That follows.
    """

    def __init__(self, backend: TorchBackend, crew: Crew) -> None:
        self._backend = backend
        self._crew = crew
        self._kinds: WeakKeyDictionary[Transformer, OrderedDict[Hashable, _Kind]] = WeakKeyDictionary()
        self._told: set[int] = set()  # numbers that followers may still have a recording of
        self._number = 0
        self._tape = Tape(backend.device)
        self._caches: WeakKeyDictionary[BlockCache, int] = WeakKeyDictionary()
        self._num_caches = 0

    def evaluate(
        self,
        model: Transformer,
        inputs: Inputs,
        cache: BlockCache | None = None,
        heard: Hashable = None,
    ) -> Tensor:
        """The velocity [1, L_img, C].

        Args:
            model: Of rank 0.
            inputs: Whole.
            cache: As for Transformer.modulated.
            heard: As for Transformer.modulated.

        Raises:
            FluxError: A follower has failed, and so has the job.
        """
        links = self._crew.links
        if links is None:
            failure = self._crew.reason()
            raise failure if failure is not None else EngineDied("The other devices have gone.")
        try:
            inputs = inputs.of([values.contiguous() for values in inputs.arrays])
            if cache is not None:
                return self._decided(model, links, inputs, cache, heard)
            return self._carried_out(model, links, inputs)
        except BaseException as err:
            is_ours = not isinstance(err, RuntimeError) or is_out_of_memory(err)
            failure = None if is_ours else self._crew.reason()
            self.end()  # they are in the middle of an evaluation that will not go on
            if failure is None:
                raise
            raise failure from err

    def end(self) -> None:
        """Ends the crew, and what was recorded with it."""
        self._kinds.clear()
        self._crew.end()

    def _carried_out(self, model: Transformer, links: Links, inputs: Inputs) -> Tensor:
        arrays: list[Tensor] = []
        shape = shape_of(inputs, arrays)
        kinds = self._kinds.setdefault(model, OrderedDict())
        key = self._backend.graphs.era, shape
        kind = kinds.get(key)
        if kind is None:
            self._number += 1
            how = "record" if self._backend.graphs.is_able and links.is_recordable else "compute"
            self._order(self._number, inputs, how)
            out = evaluated(model, links, inputs)
            kinds[key] = _Kind(
                self._number, self._recorded(model, links, inputs) if how == "record" else None
            )
            if len(kinds) > MAX_GRAPHS:
                kinds.popitem(last=False)
            return out
        kinds.move_to_end(key)
        if kind.recording is None:
            self._order(kind.number, inputs, "compute")
            return evaluated(model, links, inputs)
        self._order(kind.number, inputs, "replay")
        return kind.recording.replay(arrays)

    def _decided(
        self, model: Transformer, links: Links, inputs: Inputs, cache: BlockCache, heard: Hashable
    ) -> Tensor:
        """With a step cache, which decides on the way."""
        if cache not in self._caches:
            self._num_caches += 1
            self._caches[cache] = self._num_caches
        self._order(0, inputs, "compute", self._caches[cache])

        def announce(is_taken_over: bool) -> None:
            self._crew.send(CacheOrder(is_taken_over=is_taken_over))

        return evaluated(model, links, inputs, Deciding(cache, links.size, announce), heard)

    def _recorded(self, model: Transformer, links: Links, inputs: Inputs) -> Recording | None:
        """A recording where every rank has one."""
        found = recorded(model, links, inputs.of([values.clone() for values in inputs.arrays]), self._tape)
        return found if self._crew.all_recorded() else None

    def _order(
        self,
        number: int,
        inputs: Inputs,
        how: Literal["compute", "record", "replay"],
        cache: int | None = None,
    ) -> None:
        kept = {kind.number for kinds in self._kinds.values() for kind in kinds.values() if kind.recording}
        gone = self._told - kept
        self._told = kept | {number}
        self._crew.send(
            EvaluateOrder(
                kind=number,
                inputs=described(inputs),
                how=how,
                forgotten=tuple(gone - {number}),
                cache=cache,
                caches=tuple(self._caches.values()),
            )
        )
