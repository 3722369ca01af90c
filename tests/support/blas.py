"""Gives MLX on Linux's processors quick matrix products.

MLX's wheel for them brings the reference BLAS, which multiplies at about one GFLOP/s, so a tiny picture
takes seconds. OpenCV's wheel, which is here anyway, brings OpenBLAS, some thirty times as quick; where it is
among the global symbols before MLX is loaded, MLX binds to it. torch must be loaded first: it is bound as
a whole when it is loaded, and keeps the products that it ships with.
"""

from __future__ import annotations

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path


def lend_to_mlx() -> None:
    """Does nothing where there is no such library, or MLX is loaded already."""
    found = find_spec("cv2")
    if sys.platform != "linux" or "mlx.core" in sys.modules or found is None or found.origin is None:
        return
    folder = Path(found.origin).parents[1] / "opencv_python_headless.libs"
    for library in folder.glob("libopenblas*.so*"):
        import cv2  # noqa: F401 # loads what OpenBLAS needs, from the same folder
        import torch  # noqa: F401 # before, or it would bind to OpenBLAS, too

        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
