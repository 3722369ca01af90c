from __future__ import annotations

import sys

import PySide6
from PySide6.QtCore import QPointF


def test_calling_qt_does_not_use_up_none():
    """PySide6 6.12.0 does, and Python 3.11 ends a process whose None is used up: 5000 calls are enough."""
    point = QPointF()
    before = sys.getrefcount(None)
    for _ in range(500):
        point.setX(1.0)
    lost = before - sys.getrefcount(None)
    assert lost < 250, f"PySide6 {PySide6.__version__} cannot be used here; pyproject.toml says which can"
