"""Constant offset between picture and sound, from lip opening and log-mel alone.

A ridge regression reads the opening that belongs to the sound; where the measured opening, moved in time, follows it
best lies the offset. The coefficients that ship were fitted by `fit` on the synthetic corpus and on GRID's speaker 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..timing import MEL_PER_FRAME, N_MELS, SAMPLES_PER_FRAME
from .audio import SILENCE

COEFFICIENTS = Path(__file__).with_name("av_offset.safetensors")
REACH = 15  # frames; the largest offset that is looked for
CONTEXT = 5  # frames of sound before and after a moment that the regression reads
BANDS = 20  # of the mel, each the mean of four
RIDGE = 30.0
SHORTEST = 25  # frames, at least, that are compared at each offset
ALONE = 2  # frames around the peak that are part of it
MIN_SPREAD = 0.02  # of the sound's features; below there is nothing to go by


@dataclass(frozen=True)
class Offset:
    """Estimated offset: `frames` of 1/25 s by which the picture is late relative to the sound (negative: early).

    `correlation`: of measured and expected opening there, -1 to 1. `confidence`: how many standard deviations that
    stands above the other offsets; 0 where nothing can be said (silence, no face).
    """

    frames: int
    confidence: float
    correlation: float


def estimate_offset(opening: np.ndarray, mel: np.ndarray, weights: np.ndarray | None = None) -> Offset:
    """Estimate the offset of a clip; a minute of it is enough.

    Args:
        opening: `(n,)` by `alignment.mouth_opening`; NaN where there is no face.
        mel: `(T, 80)` from `log_mel`; frame 4 i belongs to picture i.
        weights: from `fit`; the shipped ones by default.
    """
    expected = _features(mel, len(opening)) @ (load_weights() if weights is None else weights)
    measured, expected = _normalised(opening), _normalised(expected)
    scores = np.full(2 * REACH + 1, np.nan)
    for lag in range(-REACH, REACH + 1):
        a, b = measured[max(lag, 0) : len(measured) + min(lag, 0)], expected[max(-lag, 0) : len(expected) - max(lag, 0)]
        known = np.isfinite(a) & np.isfinite(b)
        if known.sum() >= SHORTEST and a[known].std() > 0 and b[known].std() > 0:
            scores[lag + REACH] = np.corrcoef(a[known], b[known])[0, 1]
    if not np.isfinite(scores).any() or _features(mel, len(opening)).std(0).mean() < MIN_SPREAD:
        return Offset(0, 0.0, 0.0)
    best = int(np.nanargmax(scores))
    rest = np.delete(scores, range(max(0, best - ALONE), min(len(scores), best + ALONE + 1)))
    confidence = (scores[best] - np.nanmean(rest)) / max(float(np.nanstd(rest)), 1e-6)
    return Offset(best - REACH, float(confidence), float(scores[best]))


def shift_audio(samples: np.ndarray, frames: int) -> np.ndarray:
    """Move sound `(k,)` at 16 kHz later by so many frames (negative: earlier); the length stays, silence fills up.

    A clip whose picture is late by `Offset.frames` is in step after `shift_audio(samples, offset.frames)`.
    """
    moved = np.zeros_like(samples)
    step = min(abs(frames) * SAMPLES_PER_FRAME, len(samples))
    if frames >= 0:
        moved[step:] = samples[: len(samples) - step]
    else:
        moved[: len(samples) - step] = samples[step:]
    return moved


def fit(clips: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Fit the regression on clips in step: `(opening (n,), mel (T, 80))` each. Returns weights `(F,)` float32."""
    rows, targets = [], []
    for opening, mel in clips:
        x, y = _features(mel, len(opening)), _normalised(opening)
        known = np.isfinite(y)
        rows.append((x - x.mean(0))[known])
        targets.append(y[known])
    x, y = np.concatenate(rows).astype(np.float64), np.concatenate(targets)
    return np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y).astype(np.float32)


@lru_cache(maxsize=1)
def load_weights() -> np.ndarray:
    """The weights that ship with the package."""
    from safetensors.numpy import load_file

    return load_file(COEFFICIENTS)["weights"]


def save_weights(weights: np.ndarray, path: Path | str = COEFFICIENTS) -> None:
    """Write weights from `fit`."""
    from safetensors.numpy import save_file

    save_file({"weights": weights}, path)


def _features(mel: np.ndarray, n: int) -> np.ndarray:
    """Sound around each of n pictures, `(n, F)`: bands over half frames, relative to the clip's mean."""
    bands = np.asarray(mel, np.float32).reshape(len(mel), BANDS, N_MELS // BANDS).mean(2)
    half = MEL_PER_FRAME // 2
    length = MEL_PER_FRAME * n
    padded = np.full((length + 2 * CONTEXT * MEL_PER_FRAME, BANDS), SILENCE, np.float32)
    part = bands[: length + CONTEXT * MEL_PER_FRAME]
    padded[CONTEXT * MEL_PER_FRAME :][: len(part)] = part
    halves = padded.reshape(-1, half, BANDS).mean(1)  # (2 n + 4 CONTEXT, BANDS)
    steps = 4 * CONTEXT
    index = 2 * np.arange(n)[:, None] + np.arange(steps)
    return halves[index].reshape(n, steps * BANDS)


def _normalised(series: np.ndarray) -> np.ndarray:
    series = np.asarray(series, np.float64)
    return (series - np.nanmean(series)) / max(float(np.nanstd(series)), 1e-9)
