"""What noise levels do to the model, made before the walk, is what each evaluation would have made itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flux_core.models.transformer import Transformer
from flux_core.pipeline import FluxEngine
from flux_core.request import Solver
from tests.support import family_random as family
from tests.support.engine_runs import run


@pytest.mark.parametrize("solver", Solver)
def test_every_solver_finds_the_modulations_of_each_level_it_asks_for(
    any_engine: FluxEngine, monkeypatch: pytest.MonkeyPatch, solver: Solver
) -> None:
    made: list[tuple[Any, Any, Any]] = []
    used: list[np.ndarray] = []
    backend = any_engine._backend  # pyright: ignore[reportPrivateUsage]
    make, call = Transformer.modulations, Transformer.modulated

    def spy_make(self: Transformer, vec: Any, sigma: Any, guidance: Any) -> Any:
        made.append((vec, backend.to_numpy(sigma), guidance))
        return make(self, vec, sigma, guidance)

    def spy(self: Transformer, img: Any, txt: Any, rows: Any, *args: Any, **kwargs: Any) -> Any:
        used.append(backend.to_numpy(rows))
        return call(self, img, txt, rows, *args, **kwargs)

    monkeypatch.setattr(Transformer, "modulations", spy_make)
    monkeypatch.setattr(Transformer, "modulated", spy)
    run(any_engine, model=family.DEV.model, num_steps=3, solver=solver)
    ((_, levels, _),) = made
    assert levels[0] == 1.0
    assert len(levels) == 3
    assert len({rows.tobytes() for rows in used}) == 3
    assert all(rows.shape == used[0].shape and rows.shape[0] == 1 for rows in used)


def test_the_modulations_of_all_levels_at_once_are_those_of_each_level(any_engine: FluxEngine) -> None:
    backend = any_engine._backend  # pyright: ignore[reportPrivateUsage]
    run(any_engine, model=family.DEV.model, num_steps=1)
    from flux_core.plan import Component, PartKey

    model = any_engine._bench.parts.get(PartKey(Component.TRANSFORMER))  # pyright: ignore[reportPrivateUsage]
    width = family.DEV.transformer.vec_in_dim
    vec = backend.from_numpy(np.random.default_rng(0).normal(size=(1, width)).astype(np.float32))
    levels = np.array([1.0, 0.7, 0.3], np.float32)
    guidance = backend.from_numpy(np.full(1, 3.5, np.float32))
    with backend.session():
        together = backend.to_numpy(model.modulations(vec, backend.from_numpy(levels), guidance))
        for row, level in enumerate(levels):
            alone = model.modulations(vec, backend.from_numpy(level[None]), guidance)
            np.testing.assert_allclose(together[row], backend.to_numpy(alone)[0], rtol=1e-4, atol=1e-5)
