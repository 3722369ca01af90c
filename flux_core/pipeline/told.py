"""What the noise levels of a walk do to the model, computed for all its steps at once before the first.

It depends on the level, the guidance and the prompt's pooled state alone, so every picture and window of a
job shares it, and the weights that make it need not be there while the job walks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flux_core.ops import Backend
from flux_core.pipeline.conditions import Branch, Conditions
from flux_core.pipeline.job import Job


class Told:
    """Modulations of a walk.

    Args:
        backend: Where they are computed.
        job: What is painted.
        conditions: Its words.
        modulate: The model's `Transformer.modulations`.

    Attributes:
        guidance: [1] on the device, as the model was taught to hear it.
    """

    def __init__(
        self, backend: Backend, job: Job, conditions: Conditions, modulate: Callable[..., Any]
    ) -> None:
        self._backend = backend
        self._modulate = modulate
        value = job.guidance if job.spec.is_guidance_distilled else 1.0
        self.guidance = backend.from_numpy(np.full(1, value, np.float32))
        self._has_guidance = job.spec.transformer.has_guidance
        levels = job.levels[job.first_step : -1]
        self._row = {level: row for row, level in enumerate(levels)}
        branches = [branch for branch in (conditions.words, conditions.no_words) if branch is not None]
        self._rows = {id(branch): self._made(branch, levels) for branch in branches}
        backend.evaluate(*self._rows.values())

    def at(self, branch: Branch, sigma: float) -> Any:
        """[1, M, D] for `Transformer.modulated`, with a branch's words at a level of the walk."""
        row = self._row[sigma]
        return self._rows[id(branch)][row : row + 1]

    def _made(self, branch: Branch, levels: list[float]) -> Any:
        sigma = self._backend.from_numpy(np.array(levels, np.float32))
        guidance = self.guidance if self._has_guidance else None
        return self._modulate(branch.vec, sigma, guidance)  # [steps, M, D]
