"""Aligned face crops: a similarity from the face's still parts, smoothed over time, and resampling without aliasing.

Points and pixels: the centre of pixel (row 0, column 0) is the point (x 0, y 0), as OpenCV has it. Landmarks are the
68 iBUG points in `(x, y)` pixels.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ...errors import NoFaceFound

EYE_DISTANCE = 0.31  # of the crop's side, between the centres of the eyes
EYE_LINE = 0.31  # of the crop's height: upper lips of the widest mouths just stay below its middle
TRANSFORM_SIGMA = 1.5  # frames of 1/25 s; smoothing of the crop over time
BLOCK = 2_000  # frames that are fitted at once, so that an hour needs little memory
STILL_POINTS = np.arange(27, 48)  # nose and eyes: neither mouth nor jaw, which speech moves

# Nose (27-35) and eyes (36-47) of the mean frontal face, relative to the centre between the eyes, in units of the
# distance of the eye centres; mirror-symmetric.
MEAN_FACE = np.array(
    [
        *[(0.000, -0.056), (0.000, 0.162), (0.000, 0.345), (0.000, 0.463)],
        *[(-0.257, 0.664), (-0.125, 0.678), (0.000, 0.681), (0.125, 0.678), (0.257, 0.664)],
        *[(-0.695, 0.006), (-0.596, -0.061), (-0.442, -0.071), (-0.270, 0.026), (-0.422, 0.047), (-0.575, 0.053)],
        *[(0.270, 0.026), (0.442, -0.071), (0.596, -0.061), (0.695, 0.006), (0.575, 0.053), (0.422, 0.047)],
    ]
)


def eye_distance(landmarks: np.ndarray) -> np.ndarray:
    """Distance of the eye centres of `(..., 68, 2)` landmarks, in their pixels: `(...)`."""
    left, right = landmarks[..., 36:42, :].mean(-2), landmarks[..., 42:48, :].mean(-2)
    return np.linalg.norm(left - right, axis=-1)


def mouth_opening(landmarks: np.ndarray) -> np.ndarray:
    """Inner-lip gap over eye distance, `(...)` from `(..., 68, 2)`; 0 is closed, above 0.3 is wide open."""
    gap = np.linalg.norm(landmarks[..., [61, 62, 63], :] - landmarks[..., [67, 66, 65], :], axis=-1).mean(-1)
    return gap / eye_distance(landmarks)


def mouth_width(landmarks: np.ndarray) -> np.ndarray:
    """Distance of the mouth corners over eye distance, `(...)` from `(..., 68, 2)`."""
    return np.linalg.norm(landmarks[..., 48, :] - landmarks[..., 54, :], axis=-1) / eye_distance(landmarks)


def mouth_shape(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`mouth_opening` and `mouth_width` of `(..., 68, 2)`, `(...)` each; 0 where there are no landmarks (all zero)."""
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(mouth_opening(landmarks)), np.nan_to_num(mouth_width(landmarks))


def valid_runs(valid: np.ndarray, shot: np.ndarray | None = None) -> list[tuple[int, int]]:
    """Stretches `[first, last)` of consecutive true values in `(n,)`; none reaches into another `shot` `(n,)`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(valid, dtype=np.int8), [0]])))
    runs = [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]
    if shot is None:
        return runs
    cuts = (np.flatnonzero(np.diff(shot)) + 1).tolist()
    bounds = ([first, *[c for c in cuts if first < c < last], last] for first, last in runs)
    return [pair for run in bounds for pair in pairwise(run)]


def fit_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares similarities that take `source` to `target` (Umeyama 1991, without reflections).

    Args:
        source: `(n, k, 2)` points.
        target: `(k, 2)` points.

    Returns:
        `(n, 2, 3)` float64: `target ~ M[:, :2] @ source + M[:, 2]`.
    """
    source, target = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    mean_s, mean_t = source.mean(1), target.mean(0)
    # In the plane a similarity is multiplication by a complex number, whose least-squares value is this quotient.
    s = (source - mean_s[:, None]) @ [1, 1j]
    t = (target - mean_t) @ [1, 1j]
    factor = (s.conj() * t).sum(1) / (np.abs(s) ** 2).sum(1)
    linear = np.stack([np.stack([factor.real, -factor.imag], -1), np.stack([factor.imag, factor.real], -1)], -2)
    shift = mean_t - np.einsum("nij,nj->ni", linear, mean_s)
    return np.concatenate([linear, shift[..., None]], axis=-1)


def crop_transforms(
    landmarks: np.ndarray, valid: np.ndarray, size: int, sigma: float = TRANSFORM_SIGMA, shot: np.ndarray | None = None
) -> np.ndarray:
    """Find the similarity from each source frame to its aligned crop, smooth in time.

    The eyes come to lie at 0.31 of the crop's height, 0.31 of its side apart, centred; mouth and chin then lie in the
    bottom half. What is smoothed is the crop's centre, the logarithm of its scale and its angle, never the pixels.

    Args:
        landmarks: `(n, 68, 2)` source pixels; ignored where not valid.
        valid: `(n,)` bool. Each run of valid frames is smoothed by itself.
        size: side of the crop in pixels.
        sigma: of the Gaussian, in frames; the default is meant for 25 frames/s. 0 leaves the transforms as they are.
        shot: `(n,)` number of each frame's shot; nothing is smoothed across a cut.

    Returns:
        `(n, 2, 3)` float64, source pixels to crop pixels. Invalid frames repeat the nearest valid one.

    Raises:
        NoFaceFound: no frame is valid.
    """
    from scipy.ndimage import gaussian_filter1d

    valid = np.asarray(valid, dtype=bool)
    if not valid.any():
        raise NoFaceFound("no frame shows a usable face; give a video in which one face is seen from the front")
    # `size * fraction` is a position on the crop's edges 0..size; pixel centres lie half a pixel in.
    target = MEAN_FACE * EYE_DISTANCE * size + [0.5 * size - 0.5, EYE_LINE * size - 0.5]
    found = np.flatnonzero(valid)
    still = (np.asarray(landmarks)[part][:, STILL_POINTS] for part in np.split(found, range(BLOCK, len(found), BLOCK)))
    fitted = np.concatenate([fit_similarity(points, target) for points in still])
    middle = (size - 1) / 2
    back = invert(fitted)
    parameters = np.full((len(valid), 4), np.nan)
    parameters[found, :2] = back[:, :, 0] * middle + back[:, :, 1] * middle + back[:, :, 2]
    parameters[found, 2] = 0.5 * np.log(np.linalg.det(fitted[:, :, :2]))
    parameters[found, 3] = np.arctan2(fitted[:, 1, 0], fitted[:, 0, 0])
    for first, last in valid_runs(valid, shot):
        run = parameters[first:last]
        run[:, 3] = np.unwrap(run[:, 3])
        reach = min(int(np.ceil(4 * sigma)), last - first - 1)
        if sigma > 0 and reach > 0:
            # The odd reflection continues a steady motion straight on, where any other edge would hold it back.
            padded = np.pad(run, ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")
            run[:] = gaussian_filter1d(padded, sigma, axis=0, mode="nearest")[reach:-reach]
    after = np.minimum(np.searchsorted(found, np.arange(len(valid))), len(found) - 1)
    before = np.maximum(after - 1, 0)
    closer_before = np.abs(found[before] - np.arange(len(valid))) < np.abs(found[after] - np.arange(len(valid)))
    nearest = found[np.where(closer_before, before, after)]
    centre, scale, angle = parameters[nearest, :2], np.exp(parameters[nearest, 2]), parameters[nearest, 3]
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    return np.concatenate([linear, (middle - np.einsum("nij,nj->ni", linear, centre))[..., None]], axis=-1)


def transform_points(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply `(..., 2, 3)` to `(..., k, 2)` points; float32."""
    transform = np.asarray(transform, dtype=np.float64)
    return (points @ np.swapaxes(transform[..., :2], -1, -2) + transform[..., None, :, 2]).astype(np.float32)


def invert(transform: np.ndarray) -> np.ndarray:
    """Invert one `(2, 3)` affine transform, or `(n, 2, 3)`."""
    transform = np.asarray(transform, dtype=np.float64)
    linear = np.linalg.inv(transform[..., :2])
    return np.concatenate([linear, -linear @ transform[..., 2:]], axis=-1)


def warp_crop(rgb: np.ndarray, transform: np.ndarray, size: int) -> np.ndarray:
    """Cut the aligned crop out of a picture.

    OpenCV's `warpAffine` reads single pixels however far apart they lie, so where the picture shrinks it is averaged
    over areas first, by the whole factor, and blurred for the rest. What lies outside repeats the picture's edge.

    Args:
        rgb: `(H, W, 3)` uint8.
        transform: `(2, 3)`, source pixels to crop pixels.
        size: side of the crop in pixels.

    Returns:
        `(size, size, 3)` uint8.
    """
    import cv2

    shrink = 1 / np.sqrt(abs(np.linalg.det(transform[:, :2])))
    corners = np.array([[0, 0], [size - 1, 0], [0, size - 1], [size - 1, size - 1]], dtype=np.float64)
    source = transform_points(invert(transform), corners)
    margin = 2 + int(2 * shrink)
    limit = np.array([rgb.shape[1], rgb.shape[0]])
    low = np.clip(np.floor(source.min(0)).astype(int) - margin, 0, limit - 1)
    high = np.clip(np.ceil(source.max(0)).astype(int) + margin + 1, low + 1, limit)
    part = rgb[low[1] : high[1], low[0] : high[0]]
    to_part = np.eye(3)
    to_part[:2, 2] = -low
    factor = int(min(shrink, *part.shape[:2]))
    if factor >= 2:
        height, width = part.shape[0] // factor * factor, part.shape[1] // factor * factor
        part = cv2.resize(part[:height, :width], (width // factor, height // factor), interpolation=cv2.INTER_AREA)
        to_part[:2] /= factor
        to_part[:2, 2] += 0.5 / factor - 0.5  # pixel centres, not edges, are whole numbers
        shrink /= factor
    if shrink > 1.05:
        part = cv2.GaussianBlur(part, (0, 0), 0.6 * np.sqrt(shrink**2 - 1), borderType=cv2.BORDER_REPLICATE)
    matrix = np.asarray(transform, dtype=np.float64) @ np.linalg.inv(to_part)
    mode = cv2.INTER_LINEAR if shrink > 1.05 else cv2.INTER_CUBIC
    return cv2.warpAffine(np.ascontiguousarray(part), matrix, (size, size), flags=mode, borderMode=cv2.BORDER_REPLICATE)
