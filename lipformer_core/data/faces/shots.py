"""Cuts between shots, found while the pictures go by."""

from __future__ import annotations

import numpy as np

SIDE = 24  # of the thumbnails that are compared
DIFFERENCE = 10.0  # grey levels between two thumbnails, on average, that a cut needs
LIKENESS = 0.95  # correlation of two thumbnails that a cut stays below; light alone does not change it
STANDS_OUT = 8.0  # times the usual difference in this shot, so that a moving head or camera is no cut
MEMORY = 12  # frames that "usual" is taken from
FEW = 3  # frames of a new shot; before, nothing is known as usual, and only
UNLIKE = 0.7  # a correlation below this is a cut


class CutDetector:
    """Says of each picture in turn whether a new shot begins with it."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._differences: list[float] = []

    def __call__(self, rgb: np.ndarray) -> bool:
        """Compare a picture `(H, W, 3)` uint8 with the one before. The first picture is no cut."""
        now, before = _thumbnail(rgb), self._last
        self._last = now
        if before is None:
            return False
        difference = float(np.abs(now - before).mean())
        known = len(self._differences) >= FEW
        usual = float(np.median(self._differences)) if known else 0.0
        alike = _likeness(now, before)
        if difference > max(DIFFERENCE, STANDS_OUT * usual) and alike < (LIKENESS if known else UNLIKE):
            self._differences = []
            return True
        self._differences = [*self._differences[1 - MEMORY :], difference]
        return False


def _thumbnail(rgb: np.ndarray) -> np.ndarray:
    """`(SIDE, SIDE, 3)` float32; every n-th pixel is enough, since it is averaged over areas of many."""
    import cv2

    step = max(1, min(rgb.shape[:2]) // (8 * SIDE))
    part = np.ascontiguousarray(rgb[::step, ::step])
    return cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)


def _likeness(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two thumbnails; two plain ones are alike, a plain one and a structured one are not."""
    a, b = a - a.mean((0, 1)), b - b.mean((0, 1))
    product = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / product if product > 0 else float(not (a.any() or b.any()))
