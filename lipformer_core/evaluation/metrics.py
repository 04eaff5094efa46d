"""Scores of pictures and of mouth movement, all in float64.

Every function refuses inputs that cannot be compared. Two mistakes seen in published evaluation scripts cannot
happen here: differences of uint8 pictures wrap around (so they are cast first), and float pictures of an unstated
range get a peak that nobody chose (so it has to be given).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipformer_core.errors import LipFormerError

MOUTH = slice(48, 68)  # of the 68 iBUG landmarks
BOX_WIDTH, BOX_HEIGHT = 0.44, 0.36  # mouth box in sides of the crop: an open mouth and a margin around it
SSIM_SIGMA, SSIM_RADIUS = 1.5, 5  # the 11x11 window of Wang et al. 2004
ROUNDING_PSNR = 10 * np.log10(255**2 * 12)  # dB of rounding to 8 bits alone: nothing better can be measured
CONSTANT = 1e-12  # a variance share below which a series is constant up to rounding


class MetricError(LipFormerError, ValueError):
    """Two inputs of a metric that cannot be compared; the message names both."""


# --- pictures -------------------------------------------------------------------------------------------------------


def _pictures(a: NDArray, b: NDArray, peak: float | None) -> tuple[NDArray, NDArray, float]:
    """Check two stacks of pictures (..., H, W, C) and cast them to float64."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        raise MetricError(f"pictures of different shapes: {a.shape} and {b.shape}")
    if a.dtype != b.dtype:
        raise MetricError(f"pictures of different types: {a.dtype} and {b.dtype}; convert one on purpose")
    if a.ndim < 3 or a.size == 0:
        raise MetricError(f"pictures have to be (..., height, width, channels) and not empty, not {a.shape}")
    if a.dtype == np.uint8:
        peak = 255.0 if peak is None else peak
    elif not np.issubdtype(a.dtype, np.floating):
        raise MetricError(f"pictures have to be uint8 or float, not {a.dtype}")
    elif peak is None:
        raise MetricError("float pictures need `peak`, the width of their range (2 for [-1, 1])")
    return a.astype(np.float64), b.astype(np.float64), float(peak)


def psnr(a: NDArray, b: NDArray, *, peak: float | None = None) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio in dB of each picture.

    a, b: (..., H, W, C), both uint8 or both float (then with `peak`) -> (...) float64, infinite where identical.
    Raises MetricError on different shapes or types.
    """
    a, b, peak = _pictures(a, b, peak)
    error = np.mean((a - b) ** 2, axis=(-3, -2, -1))
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(peak**2 / error)


def ssim_map(a: NDArray, b: NDArray, *, peak: float | None = None) -> NDArray[np.float64]:
    """Structural similarity, scikit-image's, at every position whose 11x11 window is inside, mean over channels.

    (..., H, W, C) twice -> (..., H-10, W-10). Entry (y, x) is centred on pixel (y+5, x+5). The mean over a part of
    the map equals the SSIM of the pictures cut to that part plus 5 pixels all round.
    """
    from skimage.metrics import structural_similarity

    a, b, peak = _pictures(a, b, peak)
    height, width, _ = a.shape[-3:]
    if min(height, width) <= 2 * SSIM_RADIUS:
        raise MetricError(f"SSIM needs pictures of at least 11x11 pixels, not {height}x{width}")
    options = {"gaussian_weights": True, "sigma": SSIM_SIGMA, "use_sample_covariance": False, "data_range": peak}
    inside = slice(SSIM_RADIUS, -SSIM_RADIUS)
    out = np.empty((*a.shape[:-3], height - 2 * SSIM_RADIUS, width - 2 * SSIM_RADIUS))
    for at in np.ndindex(a.shape[:-3]):
        full = structural_similarity(a[at], b[at], channel_axis=-1, full=True, **options)[1]
        out[at] = full[inside, inside].mean(axis=-1)
    return out


def mouth_boxes(landmarks: NDArray, size: int) -> NDArray[np.int64]:
    """Boxes of one size around each frame's mouth, inside the bottom half.

    landmarks (n, 68, 2) in crop pixels, size = side of the crop -> (n, 4): top, bottom, left, right (exclusive ends).
    They come from the true landmarks, so every row of a table is scored on the same pixels.
    """
    landmarks = np.asarray(landmarks, dtype=np.float64)
    if landmarks.ndim != 3 or landmarks.shape[1:] != (68, 2):
        raise MetricError(f"landmarks have to be (n, 68, 2), not {landmarks.shape}")
    height, width, half = round(BOX_HEIGHT * size), round(BOX_WIDTH * size), size // 2
    mouth = landmarks[:, MOUTH]
    centre = (mouth.min(axis=1) + mouth.max(axis=1)) / 2
    left = np.clip(np.rint(centre[:, 0] - width / 2), 0, size - width)
    top = np.clip(np.rint(centre[:, 1] - height / 2), half, size - height)
    return np.stack([top, top + height, left, left + width], axis=1).astype(np.int64)


def picture_scores(generated: NDArray, truth: NDArray, boxes: NDArray) -> dict[str, NDArray[np.float64]]:
    """PSNR and SSIM of the whole crop, its bottom half and the mouth box: uint8 (n, S, S, 3) twice -> (n,) each.

    PSNR ends at 58.9 dB, so that a single frame identical to the truth cannot make a clip's mean infinite.
    """
    half = truth.shape[1] // 2
    structure = ssim_map(generated, truth)
    scores = {
        "psnr": psnr(generated, truth),
        "bottom_psnr": psnr(generated[:, half:], truth[:, half:]),
        "ssim": structure.mean(axis=(1, 2)),
        "bottom_ssim": structure[:, half:].mean(axis=(1, 2)),
    }
    inner = 2 * SSIM_RADIUS
    mouth = [(slice(t, b), slice(le, r), slice(t, b - inner), slice(le, r - inner)) for t, b, le, r in boxes]
    stacks = zip(generated, truth, mouth, strict=True)
    scores["mouth_psnr"] = np.array([psnr(g[y, x], t[y, x]) for g, t, (y, x, *_) in stacks])
    scores["mouth_ssim"] = np.array([s[y, x].mean() for s, (*_, y, x) in zip(structure, mouth, strict=True)])
    return {name: np.minimum(values, ROUNDING_PSNR) for name, values in scores.items()}


def border_step(images: NDArray) -> NDArray[np.float64]:
    """Mean absolute step over the border between the halves: (n, S, S, 3) of any type -> (n,) in its units."""
    row = images.shape[-3] // 2
    pair = np.asarray(images[..., row - 1 : row + 1, :, :], dtype=np.float64)
    return np.abs(pair[..., 1, :, :] - pair[..., 0, :, :]).mean(axis=(-2, -1))


def gradient_energy(images: NDArray) -> NDArray[np.float64]:
    """How sharp the bottom halves are: mean squared step between neighbours, across plus down.

    (n, S, S, 3) of any type -> (n,) in its units squared. The ratio to the truth's is the column `sharpness`: below 1
    where a generator blurs, above where it invents edges.
    """
    bottom = np.asarray(images[..., images.shape[-3] // 2 :, :, :], dtype=np.float64)
    steps = np.diff(bottom, axis=-2), np.diff(bottom, axis=-3)
    return sum(np.square(step).mean(axis=(-3, -2, -1)) for step in steps)


# --- movement -------------------------------------------------------------------------------------------------------


def lmd(generated: NDArray, truth: NDArray) -> float:
    """Landmark distance: mean distance of corresponding points in pixels.

    (n, k, 2) twice. Each frame's mean point is taken out first, so the shape is compared, not the place.
    """
    generated, truth = np.asarray(generated, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if generated.shape != truth.shape or generated.ndim != 3 or generated.shape[-1] != 2:
        raise MetricError(f"landmarks have to be two (n, k, 2), not {generated.shape} and {truth.shape}")
    apart = generated - truth
    return float(np.linalg.norm(apart - apart.mean(axis=1, keepdims=True), axis=-1).mean())


def _series(*series: ArrayLike) -> list[NDArray[np.float64]]:
    """Check series of one length >= 3 and take their means out."""
    arrays = [np.asarray(s, dtype=np.float64) for s in series]
    if any(a.ndim != 1 for a in arrays) or len({a.shape for a in arrays}) != 1:
        raise MetricError(f"series have to be one-dimensional and equally long, not {[a.shape for a in arrays]}")
    if len(arrays[0]) < 3:
        raise MetricError(f"a correlation needs at least 3 frames, not {len(arrays[0])}")
    return [a - a.mean() for a in arrays]


def _is_constant(centred: NDArray, scale: NDArray) -> bool:
    return float(centred @ centred) <= CONSTANT * max(float(scale @ scale), CONSTANT)


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Correlation of two series (n,); nan where one of them is constant and there is nothing to correlate."""
    dx, dy = _series(x, y)
    if _is_constant(dx, np.asarray(x, np.float64)) or _is_constant(dy, np.asarray(y, np.float64)):
        return float("nan")
    return float(np.clip(dx @ dy / np.sqrt((dx @ dx) * (dy @ dy)), -1.0, 1.0))


def partial_correlation(generated: ArrayLike, original: ArrayLike, given: ArrayLike) -> float:
    """Correlation of `generated` with `original` after what `given` explains of both is taken out.

    Three series (n,). 0 where `generated` is constant or is a linear function of `given`: nothing of it is left
    that could have come from elsewhere. nan where `original` says nothing that `given` does not.
    """
    x, y, z = _series(generated, original, given)
    constant_given = _is_constant(z, np.asarray(given, np.float64))
    rest_x = x if constant_given else x - z * (x @ z) / (z @ z)
    rest_y = y if constant_given else y - z * (y @ z) / (z @ z)
    if _is_constant(rest_y, np.asarray(original, np.float64)):
        return float("nan")
    if _is_constant(rest_x, np.asarray(generated, np.float64)):
        return 0.0
    return float(np.clip(rest_x @ rest_y / np.sqrt((rest_x @ rest_x) * (rest_y @ rest_y)), -1.0, 1.0))


def jitter(series: ArrayLike) -> float:
    """Mean absolute second difference over time of (n, ...), in its own units per frame squared."""
    series = np.asarray(series, dtype=np.float64)
    if len(series) < 3:
        raise MetricError(f"jitter needs at least 3 frames, not {len(series)}")
    return float(np.abs(np.diff(series, n=2, axis=0)).mean())


# --- intervals ------------------------------------------------------------------------------------------------------


def bootstrap_interval(
    values: Sequence[float] | NDArray,
    denominators: Sequence[float] | NDArray | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean over clips with its 95 % percentile bootstrap interval: (mean, low, high); the interval is nan for one clip.

    values (n,), one number a clip. With `denominators` (n,) the statistic is mean(values) / mean(denominators).
    The same values and seed give the same interval.
    """
    values = np.asarray(values, dtype=np.float64)
    below = np.ones_like(values) if denominators is None else np.asarray(denominators, dtype=np.float64)
    if values.ndim != 1 or values.shape != below.shape or not len(values):
        raise MetricError(f"one number a clip is needed, not {values.shape} and {below.shape}")
    if not (np.isfinite(values).all() and np.isfinite(below).all()):
        raise MetricError("an interval over clips needs finite numbers; leave out the clips that have none")
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = float(values.sum() / below.sum())
        if len(values) == 1:
            return mean, float("nan"), float("nan")
        drawn = np.random.default_rng(seed).integers(0, len(values), size=(draws, len(values)))
        statistics = values[drawn].sum(axis=1) / below[drawn].sum(axis=1)
    low, high = np.quantile(statistics, (0.025, 0.975))
    return mean, float(low), float(high)
