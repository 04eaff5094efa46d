"""Putting a generated crop back into its frame: only the lower face changes, and nobody sees where.

The mask follows the jaw in crop coordinates, the colours are brought to the frame's around its border, and texture
finer than the crop can hold is the frame's own wherever the generated crop agrees with the original one; where
it does not, grain makes up for what the generated one lacks (`grain`).

Laplacian pyramids were tried in its place and are no better: on filmed faces at 256 the mean step along the mask's
border was 0.80 to 0.94 of the frame's own here and 0.76 to 0.92 there, where 1 is a border that nobody sees, and what
the frame shows beside a jaw that has moved bled into the face (`pytest -s tests/test_compositing.py -k filmed`).
"""

from __future__ import annotations

import numpy as np

from ..data.faces.alignment import invert, transform_points, warp_crop
from ..data.media.tone import strips
from . import grain

# All in units of the crop's side.
TOP = 0.50  # the upper half is the model's input and is never touched,
TOP_FULL = 0.555  # the lower one is the model's from here on
WIDTH = 0.88  # of the jaw: cheeks do not speak, and beside the jaw of another pose lies another background
BELOW_CHIN = 0.035  # and beyond the lowest chin
FEATHER = 0.018  # sigma of the soft border
BORDER = 0.045  # the crop's own edge fades over this far
COLOUR_SIGMA = 0.12  # how far the colours at the border act inwards
SWAY_ZOOM = 1.05  # so that no border comes into view
SWAY = ((0.006, 5.3), (0.004, 7.1), (0.8, 6.1))  # shares of the shorter side and degrees, and seconds of a period
COLOUR_SIDE = 48  # pixels: such smooth a field needs no more
GREY = 2.0  # grey levels by which the channels of a black-and-white picture differ at most, on average
AGREEMENT = 5.0  # grey levels of difference at which the frame's own fine texture has faded to one half
MARK = "AI-generated"

JAW = slice(1, 16)
# Jaw of the mean face in units of the crop's side, for crops whose landmarks are not known.
MEAN_JAW = np.array(
    [
        *[(0.155, 0.43), (0.17, 0.53), (0.19, 0.62), (0.225, 0.70), (0.285, 0.78), (0.355, 0.84), (0.43, 0.875)],
        *[(0.50, 0.88), (0.57, 0.875), (0.645, 0.84), (0.715, 0.78), (0.775, 0.70), (0.81, 0.62), (0.83, 0.53)],
        (0.845, 0.43),
    ]
)


def lower_face_mask(size: int, landmarks: np.ndarray | None = None, lowest_chin: float | None = None) -> np.ndarray:
    """Draw the soft mask of what is replaced.

    Args:
        size: side of the crop in pixels.
        landmarks: `(68, 2)` crop pixels; a mean jaw without them.
        lowest_chin: row in crop pixels that the chin reaches anywhere in the clip; the mask reaches below it even
            where this frame's mouth is closed, for the generated one may be open.

    Returns:
        `(size, size)` float32 in [0, 1]; exactly 0 in the upper half and on the crop's edge.
    """
    import cv2

    jaw = MEAN_JAW * size - 0.5 if landmarks is None else np.asarray(landmarks, dtype=np.float64)[JAW]
    middle = (jaw[0, 0] + jaw[-1, 0]) / 2
    jaw = np.stack([middle + (jaw[:, 0] - middle) * WIDTH, jaw[:, 1]], axis=1)
    line = TOP * size
    bottom = max(jaw[:, 1].max(), lowest_chin or 0.0) + BELOW_CHIN * size
    below = jaw[:, 1] > line
    # Stretched from the middle line downwards, so that the sides stay and the chin reaches the wanted row.
    jaw[below, 1] = line + (jaw[below, 1] - line) * (bottom - line) / max(jaw[:, 1].max() - line, 1.0)
    top = np.array([[jaw[-1, 0], 0.0], [jaw[0, 0], 0.0]])
    shift = 4  # bits of subpixel precision
    polygon = np.round(np.concatenate([jaw, top]) * 2**shift).astype(np.int32)
    mask = np.zeros((size, size), np.float32)
    cv2.fillPoly(mask, [polygon], 1.0, lineType=cv2.LINE_8, shift=shift)
    mask = cv2.GaussianBlur(mask, (0, 0), FEATHER * size, borderType=cv2.BORDER_REPLICATE)
    centre = (np.arange(size) + 0.5) / size
    rows = _smooth_step((centre - TOP) / (TOP_FULL - TOP)) * _smooth_step((1 - centre - 0.5 / size) / BORDER)
    columns = _smooth_step((np.minimum(centre, 1 - centre) - 0.5 / size) / BORDER)
    mask *= (rows[:, None] * columns[None]).astype(np.float32)
    mask[mask < 1 / 512] = 0.0  # less than half a grey level
    return mask


def match_colours(crop: np.ndarray, original: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Bring a crop's colours to the original's around the mask's border, by a smooth field that reaches inwards.

    Where the original is black and white, so is the result. The upper half of the crop has no say.

    Args:
        crop, original: `(S, S, 3)` uint8 or float32, 0-255.
        mask: `(S, S)` from `lower_face_mask`.

    Returns:
        `(S, S, 3)` float32, not clipped.
    """
    import cv2

    crop, original = crop.astype(np.float32), original.astype(np.float32)
    if (_over_channels(np.maximum, original) - _over_channels(np.minimum, original)).mean() < GREY:
        crop = np.repeat((crop @ grain.LUMA)[..., None], 3, axis=2)
    side = min(COLOUR_SIDE, len(mask))
    difference = cv2.resize(original - crop, (side, side), interpolation=cv2.INTER_AREA)
    small = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA)
    # The border is what lies near both inside and outside; a structure that differs there (a moved jaw, hair) counts
    # little, for it is no difference of colour.
    near = cv2.GaussianBlur(small, (0, 0), 0.05 * side)
    weight = near * (1 - small) + 1e-6
    weight[: int(TOP * side)] = 1e-6  # not generated
    typical = np.median(difference[weight > 0.1], axis=0) if (weight > 0.1).any() else np.zeros(3, np.float32)
    weight = weight / (1 + (np.abs(difference - typical).max(2) / 12.0) ** 2)
    sigma = COLOUR_SIGMA * side
    total = cv2.GaussianBlur(weight, (0, 0), sigma)
    field = cv2.GaussianBlur(difference * weight[..., None], (0, 0), sigma) / total[..., None]
    return crop + cv2.resize(field, mask.shape[::-1], interpolation=cv2.INTER_CUBIC)


def paste(
    frame: np.ndarray,
    crop: np.ndarray,
    transform: np.ndarray,
    mask: np.ndarray | None = None,
    original: np.ndarray | None = None,
) -> np.ndarray:
    """Put a generated crop into its frame.

    Args:
        frame: `(H, W, 3)` uint8.
        crop: `(S, S, 3)` uint8, its lower half generated.
        transform: `(2, 3)`, frame pixels to crop pixels.
        mask: `(S, S)` from `lower_face_mask`; the mean face's by default.
        original: `(S, S, 3)` uint8, what `warp_crop` cuts out of the frame there; cut here by default.

    Returns:
        A new `(H, W, 3)` uint8; pixels outside the mask are the frame's, bit for bit.
    """
    import cv2

    size = len(crop)
    mask = lower_face_mask(size) if mask is None else mask
    original = warp_crop(frame, transform, size) if original is None else original
    result = frame.copy()
    low, high = _region(mask, transform, frame.shape)
    if (high <= low).any():
        return result
    matched = match_colours(crop, original, mask)
    agreement = _agreement(matched, original)
    back = invert(transform)
    grow = np.sqrt(abs(np.linalg.det(back[:, :2])))
    layers = np.dstack([matched - agreement[..., None] * original, agreement])
    if grow < 0.95:  # the crop shrinks on its way back: without a blur it would alias
        layers = cv2.GaussianBlur(layers, (0, 0), 0.5 * np.sqrt(grow**-2 - 1), borderType=cv2.BORDER_REPLICATE)
    lacking = _lacking_grain(frame, matched, back)
    origin = np.rint(back[:, 2]).astype(int)  # of the face, which takes its grain along
    back[:, 2] -= low
    region = result[low[1] : high[1], low[0] : high[0]]
    for rows in strips(region.shape):
        part = region[rows]
        shape = part.shape[1::-1]
        warped = cv2.warpAffine(layers, back, shape, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        alpha = cv2.warpAffine(mask, back, shape, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)[..., None]
        change, agreement = warped[..., :3], warped[..., 3:]
        top, left = low[1] + (rows.start or 0) - origin[1], low[0] - origin[0]
        speckle = grain.noise(lacking, slice(top, top + shape[1]), slice(left, left + shape[0]))
        if speckle is not None:
            change = change + (1 - np.clip(agreement, 0, 1)) * speckle[..., None]
        part[:] = blend(part, change, agreement, alpha)
        back[1, 2] -= len(part)
    return result


def blend(frame: np.ndarray, change: np.ndarray, agreement: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Lay a generated crop over a frame, both in the frame's place.

    Args:
        frame: `(h, w, 3)` uint8.
        change: `(h, w, 3)` float, the crop less `agreement` times the original one.
        agreement: `(h, w, 1)` float, 1 where the two crops are alike.
        mask: `(h, w, 1)` float in [0, 1].

    Returns:
        `(h, w, 3)` uint8; where the crops are alike, the frame itself with its fine texture.
    """
    new = change + np.clip(agreement, 0, 1) * frame
    return np.clip(np.rint(frame + mask * (new - frame)), 0, 255).astype(np.uint8)


def _lacking_grain(frame: np.ndarray, matched: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Deviation of the grain that the generated crop lacks on its way back, `(bands,)`."""
    import cv2

    real, made = [], []
    for rows, columns in grain.patches(back, len(matched), frame.shape):
        real.append(frame[rows, columns])
        there = back.copy()
        there[:, 2] -= columns.start, rows.start
        shape = real[-1].shape[1::-1]
        if min(shape):
            made.append(cv2.warpAffine(matched, there, shape, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))
        else:
            real.pop()
    return grain.missing(real, made)


def visible_mark(frame: np.ndarray) -> np.ndarray:
    """A copy of a frame `(H, W, 3)` uint8 with `MARK` in its lower left corner, white with a dark border."""
    import cv2

    scale = max(frame.shape[0] / 900, 0.3)
    place, marked = (round(12 * scale), frame.shape[0] - round(14 * scale)), frame.copy()
    for colour, width in (((20, 20, 20), 4), ((255, 255, 255), 1)):
        thickness = max(1, round(width * scale)) + (width > 1)
        cv2.putText(marked, MARK, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thickness, cv2.LINE_AA)
    return marked


def swayed(frame: np.ndarray, seconds: float) -> np.ndarray:
    """A still `(H, W, 3)` uint8 as a camera sees it that is held by hand: a little nearer, and gently on the move."""
    import cv2

    height, width = frame.shape[:2]
    across, down, turn = (reach * np.sin(2 * np.pi * seconds / period) for reach, period in SWAY)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), turn, SWAY_ZOOM)
    matrix[:, 2] += np.multiply((across, down), min(height, width))
    return cv2.warpAffine(frame, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def _agreement(crop: np.ndarray, original: np.ndarray) -> np.ndarray:
    """`(S, S)` float32 in (0, 1]: 1 where the two crops are alike, near 0 where a mouth or a jaw has moved."""
    import cv2

    difference = _over_channels(np.maximum, np.abs(crop - original))
    difference = cv2.GaussianBlur(cv2.dilate(difference, np.ones((3, 3))), (0, 0), 0.015 * len(crop))
    return 1 / (1 + (difference / AGREEMENT) ** 4)


def _over_channels(pick: np.ufunc, picture: np.ndarray) -> np.ndarray:
    """`pick.reduce` over the channels of `(h, w, 3)`, which numpy is much slower at, pixel by pixel."""
    red, green, blue = np.moveaxis(picture, 2, 0)
    return pick(pick(red, green), blue)


def _region(mask: np.ndarray, transform: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Corners `low <= (x, y) < high` of the frame's part that the mask can reach."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    limit = np.array([shape[1], shape[0]])
    if not len(rows):
        return limit * 0, limit * 0
    x, y = [columns[0] - 1, columns[-1] + 1], [rows[0] - 1, rows[-1] + 1]
    corners = transform_points(invert(transform), np.array([[a, b] for a in x for b in y], dtype=np.float64))
    return (
        np.clip(np.floor(corners.min(0)).astype(int), 0, limit),
        np.clip(np.ceil(corners.max(0)).astype(int) + 1, 0, limit),
    )


def _smooth_step(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
