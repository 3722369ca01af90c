"""OpenCV, imported when first needed: it takes a tenth of a second that starting should not pay."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray


def opencv() -> Any:
    """The cv2 module; its annotations are incomplete, so it is handed on without them."""
    import cv2

    return cast(Any, cv2)


def grey(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W], [H, W, 3] or [H, W, 4] RGB -> [H, W] brightness (BT.601); alpha is ignored."""
    if picture.ndim == 2:
        return picture
    return opencv().cvtColor(np.ascontiguousarray(picture[..., :3]), opencv().COLOR_RGB2GRAY)
