"""What a Fill model sees beside its noisy latents: the picture without what is masked, and the mask itself.

Source: black-forest-labs/flux sampling.py (prepare_fill); diffusers FluxFillPipeline rounds masks as we do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flux_core.models.autoencoder import SCALE_FACTOR

Floats = NDArray[np.float32]


def without_masked(image: Floats, mask: Floats) -> Floats:
    """The picture with mid grey where the mask is 1; image: [1, H, W, 3] in [-1, 1], mask: [1, H, W, 1]."""
    return (image * (1.0 - mask)).astype(np.float32)


def mask_tokens(mask: Floats) -> Floats:
    """Every pixel of the mask as channels of its token: [1, H, W, 1] -> [1, (H/16)(W/16), 256].

    The 8x8 pixels of a latent are its 64 channels, rows first; then 2x2 latents are packed as always.
    """
    _, height, width, _ = mask.shape
    rows, columns = height // SCALE_FACTOR, width // SCALE_FACTOR
    grid = mask.reshape(rows // 2, 2, SCALE_FACTOR, columns // 2, 2, SCALE_FACTOR)
    tokens = grid.transpose(0, 3, 2, 5, 1, 4)  # [h/2, w/2, y % 8, x % 8, ph, pw]
    return np.ascontiguousarray(tokens.reshape(1, (rows // 2) * (columns // 2), 4 * SCALE_FACTOR**2))
