"""Who listens to which words, as the shares of attention that the bias gives to equal keys."""

from __future__ import annotations

import numpy as np
import pytest

from flux_core.conditioning.regions import Segment, attention_bias, token_cover

WHOLE, LIKE, CAT = slice(0, 4), slice(4, 7), slice(7, 11)
LEFT = np.array([1, 1, 0, 0], np.float32)
IMAGE, OTHERS = slice(11, 15), slice(15, 17)


def shares(base: float = 0.5, strength: float = 1.0, like: float = 1.0) -> np.ndarray:
    """[L, L]: softmax of the bias alone, rows are who listens."""
    segments = [Segment(4), Segment(3, like), Segment(4, strength, LEFT)]
    bias = attention_bias(segments, 4, 2, base)
    assert bias is not None
    assert bias.shape == (1, 1, 17, 17)
    weights = np.exp(bias[0, 0].astype(np.float64))
    return weights / weights.sum(axis=1, keepdims=True)


def test_a_regions_words_are_heard_inside_it_alone() -> None:
    heard = shares()[IMAGE, CAT]
    assert (heard[:2] > 0.05).all()
    assert (heard[2:] == 0).all()
    assert (shares()[OTHERS, CAT] == 0).all()
    assert (shares()[WHOLE, CAT] == 0).all()


def test_a_regions_words_hear_themselves_and_their_place_alone() -> None:
    listening = shares()[CAT]
    assert (listening[:, CAT] > 0).all()
    assert (listening[:, IMAGE] > 0).tolist() == [[True, True, False, False]] * 4
    assert listening[:, WHOLE].sum() == listening[:, LIKE].sum() == listening[:, OTHERS].sum() == 0


@pytest.mark.parametrize("base", [0.0, 0.3, 1.0])
def test_inside_a_region_the_whole_counts_as_much_as_the_base(base: float) -> None:
    inside, outside = shares(base)[IMAGE][0], shares(base)[IMAGE][3]
    assert inside[0] / inside[11] == pytest.approx(base, abs=1e-6)  # against what image tokens count
    assert outside[0] / outside[11] == pytest.approx(1.0)


@pytest.mark.parametrize("strength", [0.25, 2.0])
def test_strength_multiplies_the_weight_of_words(strength: float) -> None:
    inside = shares(strength=strength)[IMAGE][0]
    assert inside[7] / inside[11] == pytest.approx(strength)
    outside = shares(like=strength)[IMAGE][3]
    assert outside[4] / outside[11] == pytest.approx(strength)
    assert shares(like=strength)[WHOLE][0, 4] / shares(like=strength)[WHOLE][0, 0] == pytest.approx(strength)


def test_nothing_is_added_where_nothing_differs() -> None:
    assert attention_bias([Segment(4), Segment(3)], 4, 2, 0.3) is None
    assert attention_bias([Segment(4), Segment(3, 0.9)], 4, 2, 0.3) is not None


def test_the_image_hears_itself_wholly() -> None:
    image = shares()[IMAGE][:, IMAGE]
    assert np.allclose(image, image[:, :1])


def test_a_mask_covers_a_token_as_far_as_its_pixels_do() -> None:
    grid = np.zeros((32, 48), np.float32)
    grid[:8, 16:32] = 1.0
    grid[16:, 32:] = 0.5
    assert token_cover(grid).tolist() == [0.0, 0.5, 0.0, 0.0, 0.0, 0.5]
