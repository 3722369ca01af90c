"""A seed means the same noise everywhere, for ever."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_core.sampling.noise import seeded_noise

GOLDEN = (-0.502373576, 0.506845355, 2.01934862, 0.851495743)


def test_the_first_values_of_a_seed_never_change() -> None:
    """Pictures are remade from their seeds, so this is part of the file format."""
    assert seeded_noise(7, 4, 6, 16)[0, 0, 0, :4] == pytest.approx(GOLDEN, abs=1e-7)


@given(seed=st.integers(0, 2**63 - 1))
def test_a_seed_repeats_and_its_neighbour_differs(seed: int) -> None:
    once = seeded_noise(seed, 4, 4, 16)
    assert np.array_equal(once, seeded_noise(seed, 4, 4, 16))
    assert not np.array_equal(once, seeded_noise(seed + 1, 4, 4, 16))


def test_is_standard_normal_in_latent_layout() -> None:
    noise = seeded_noise(0, 64, 96, 16)
    assert noise.shape == (1, 64, 96, 16)
    assert noise.dtype == np.float32
    assert abs(float(noise.mean())) < 0.02
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
