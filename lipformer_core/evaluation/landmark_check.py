"""Lip opening of generated crops by a landmark network: a second opinion beside the mouth meter."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

SCALE = 3  # landmark networks are made for larger faces than a crop of 96 pixels
MARGIN = 0.25  # of the side, grey, all round: detectors want to see where a face ends


class LandmarkReader:
    """Landmarks of aligned crops. tracker: from `data.faces.open_tracker`."""

    def __init__(self, tracker: Any) -> None:
        self.tracker = tracker

    def read(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(n, S, S, 3) uint8 -> (n, 68, 2) in crop pixels; nan where no face is found."""
        import cv2

        found = np.full((len(images), 68, 2), np.nan)
        for row, image in zip(found, images, strict=True):
            border = round(MARGIN * image.shape[0])
            framed = cv2.copyMakeBorder(image, *[border] * 4, cv2.BORDER_CONSTANT, value=(128, 128, 128))
            framed = cv2.resize(framed, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC)
            faces = self.tracker.detect(framed)
            if faces:  # of several, the one nearest to filling the crop
                points = max((points for points, _ in faces), key=lambda p: np.ptp(p[:, 0]))
                row[:] = (points + 0.5) / SCALE - 0.5 - border  # pixel centres, before and after the resize
        return found
