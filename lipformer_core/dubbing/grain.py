"""Grain for a generated patch that is smoother than the skin around it: a patch without any is seen at once.

Two bands of fine texture are compared on the skin beside the mouth and on the chin, as the frame has them and as the
generated picture has; what is missing is added as noise of the same bands (the matching of Heeger and Bergen 1995,
once and by deviation alone). The noise moves with the face, as pores and stubble do. Nothing is ever smoothed.
"""

from functools import lru_cache

import numpy as np

from ..data.faces.alignment import transform_points

SIGMAS = (1.0, 2.0)  # pixels of the frame: a band lies between the Gaussians of one and the one before
PATCHES = np.array([(0.29, 0.65), (0.71, 0.65), (0.5, 0.83)])  # of skin, in units of the crop's side
REACH = 0.05  # from a patch's middle to its edges
FEWEST = 100  # pixels in all; smaller faces show no grain
SEEN = 0.3  # grey levels; less cannot be seen
TILE = 512  # pixels of noise before it repeats
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # of BT.709


def patches(back: np.ndarray, size: int, shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """Where the frame shows the `PATCHES`: rows and columns, inside the frame.

    back : (2, 3), crop pixels to frame pixels; size : the crop's side; shape : the frame's
    """
    reach = REACH * size * np.sqrt(abs(np.linalg.det(back[:, :2])))
    limit, found = np.array([shape[1], shape[0]]), []
    for middle in transform_points(back, PATCHES * size - 0.5):
        low = np.clip(np.rint(middle - reach), 0, limit).astype(int)
        high = np.clip(np.rint(middle + reach), 0, limit).astype(int)
        found.append(np.s_[low[1] : high[1], low[0] : high[0]])
    return found


def missing(real: list[np.ndarray], generated: list[np.ndarray]) -> np.ndarray:
    """Deviation in grey levels that each band of the generated patches lacks, (bands,): 0 where it lacks nothing.

    real, generated : the same patches (h, w, 3), 0 to 255
    """
    there, made = (np.array([*map(_deviation, _joined(pictures))]) for pictures in (real, generated))
    return np.sqrt(np.maximum(there**2 - made**2, 0))


def noise(lacking: np.ndarray, rows: slice, columns: slice) -> np.ndarray | None:
    """Noise (h, w) float32 of these deviations for some rows and columns, counted from where the face is.

    None where it could not be seen.
    """
    if np.hypot(*lacking) < SEEN:
        return None
    at = np.ix_(*(np.arange(part.start, part.stop) % TILE for part in (rows, columns)))
    return sum(amount * band[at] for amount, band in zip(lacking, _tile(), strict=True)).astype(np.float32)


def _bands(luma: np.ndarray) -> list[np.ndarray]:
    import cv2

    blurred = [cv2.GaussianBlur(luma, (0, 0), sigma) for sigma in SIGMAS]
    return [finer - coarser for finer, coarser in zip([luma, *blurred], blurred, strict=False)]


def _joined(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """Each band's values in all pictures, (n,)."""
    split = [_bands(picture.astype(np.float32) @ LUMA) for picture in pictures if min(picture.shape[:2]) > 1]
    joined = [np.concatenate([band.ravel() for band in bands]) for bands in zip(*split, strict=True)]
    return joined if joined and len(joined[0]) >= FEWEST else [np.zeros(1)] * len(SIGMAS)


def _deviation(values: np.ndarray) -> float:
    """Standard deviation from the median absolute one: an edge within a patch counts little."""
    return float(np.median(np.abs(values - np.median(values)))) / 0.6745


@lru_cache(1)
def _tile() -> list[np.ndarray]:
    """White noise's bands, of deviation 1, that go on where they begin: (TILE, TILE) each."""
    white = np.random.default_rng(0).standard_normal((TILE, TILE)).astype(np.float32)
    bands = _bands(np.tile(white, (3, 3)))
    return [band[TILE : 2 * TILE, TILE : 2 * TILE] / band.std() for band in bands]
