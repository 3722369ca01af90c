"""Encoded layers, remembered by the pixels they came from.

Rasters are immutable, so a raster that was encoded once gives the same PNG at every later save; only
layers that changed cost time. Entries live as long as their raster does.
"""

from __future__ import annotations


class PngCache:
    """PNG bytes of rasters; may be shared by threads."""
