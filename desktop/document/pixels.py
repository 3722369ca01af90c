"""The raster engine: QImage and QPainter, and NumPy where QPainter has no mode.

This is the one module of the document that knows Qt, and only its raster paint engine: no widget and no
QApplication is needed, and any thread may use it. Screen tiles are premultiplied ARGB32, which QPainter
blends fastest; pictures to keep are blended with 16 bits a channel so that rounding never adds up.
"""

from __future__ import annotations

from PySide6.QtGui import QImage

Surface = QImage  # premultiplied; ARGB32 for the screen, RGBA64 for pictures to keep
