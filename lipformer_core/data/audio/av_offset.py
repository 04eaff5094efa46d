"""Constant offset between picture and sound, from lip opening and log-mel alone.

A ridge regression reads from the sound the opening that belongs to it; where the measured opening, moved in time,
follows it best, there lies the offset. Both are taken without their slow changes, which a turning head or a louder
sentence brings. `papermill_runs/shipped.py` fitted the coefficients that ship.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ...timing import MEL_PER_FRAME, N_MELS, exact_div
from .mel import SILENCE

COEFFICIENTS = Path(__file__).with_name("av_offset.safetensors")
REACH = 15  # frames; the largest offset that is looked for
CONTEXT = 5  # frames of sound before and after a moment that the regression reads
BANDS = 20  # of the mel, each the mean of four
STEP = exact_div(MEL_PER_FRAME, 2)  # mel frames that are averaged: half a picture
SLOW = 12.0  # frames; sigma of the Gaussian that tells slow changes from speech
SHORTEST = 25  # frames, at least, that are compared at each offset
PEAK = 2  # frames around the best offset that belong to it
CONFIDENT = 3.5  # standard deviations; below, another offset may be the right one
LEAST_SOUND = 0.01  # mean deviation of the bands over time; below there is nothing to go by
LEAST_MOTION = 0.003  # deviation of the opening, in eye distances; below the mouth rests


@dataclass(frozen=True)
class Offset:
    """Estimated offset: `frames` of 1/25 s by which the picture is late relative to the sound (negative: early).

    `confidence`: by how many standard deviations that stands above the other offsets, 0 where nothing can be said
    (silence, a resting mouth, no face, a clip of less than two seconds). `correlation`: of the two openings there.
    """

    frames: int
    confidence: float
    correlation: float

    @property
    def confident(self) -> bool:
        """Whether the estimate is to be relied upon."""
        return self.confidence >= CONFIDENT


UNKNOWN = Offset(0, 0.0, 0.0)


def estimate_offset(opening: np.ndarray, mel: np.ndarray, weights: np.ndarray | None = None) -> Offset:
    """Estimate the offset of a clip; a minute of it is enough.

    Args:
        opening: `(n,)` by `alignment.mouth_opening`; NaN where there is no face.
        mel: `(T, 80)` from `log_mel`; frame 4 i belongs to picture i.
        weights: the shipped ones by default.
    """
    scores = offset_scores(opening, mel, load_weights() if weights is None else weights)
    if not np.isfinite(scores).all():
        return UNKNOWN
    best = int(np.argmax(scores))
    rest = np.delete(scores, slice(max(0, best - PEAK), best + PEAK + 1))
    confidence = (scores[best] - rest.mean()) / max(float(rest.std()), 1e-6)
    return Offset(best - REACH, float(confidence), float(scores[best]))


def offset_scores(opening: np.ndarray, mel: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Correlation `(2 REACH + 1,)` of measured and expected opening at offsets -REACH to REACH; NaN without motion."""
    opening, mel = np.asarray(opening, np.float64), np.asarray(mel, np.float32)
    scores = np.full(2 * REACH + 1, np.nan)
    known = np.isfinite(opening)
    if known.sum() < SHORTEST or opening[known].std() < LEAST_MOTION:
        return scores
    sound = sound_features(mel, len(opening))
    if sound.std(0).mean() < LEAST_SOUND:
        return scores
    measured, expected = lively(opening), lively(sound @ weights)
    for lag in range(-REACH, REACH + 1):
        a = measured[max(lag, 0) : len(measured) + min(lag, 0)]
        b = expected[max(-lag, 0) : len(expected) - max(lag, 0)]
        known = np.isfinite(a)
        if known.sum() >= SHORTEST:
            scores[lag + REACH] = np.corrcoef(a[known], b[known])[0, 1]
    return scores


@lru_cache(maxsize=1)
def load_weights() -> np.ndarray:
    """The weights that ship with the package."""
    from safetensors.numpy import load_file

    return load_file(COEFFICIENTS)["weights"]


def sound_features(mel: np.ndarray, n: int) -> np.ndarray:
    """Sound around each of n pictures, `(n, F)` float32: bands over half pictures."""
    around = CONTEXT * MEL_PER_FRAME
    padded = np.full((MEL_PER_FRAME * n + 2 * around, BANDS), SILENCE, np.float32)
    part = mel[: MEL_PER_FRAME * n + around].reshape(-1, BANDS, exact_div(N_MELS, BANDS)).mean(2)
    padded[around : around + len(part)] = part
    halves = padded.reshape(-1, STEP, BANDS).mean(1)
    index = 2 * np.arange(n)[:, None] + np.arange(4 * CONTEXT)
    return halves[index].reshape(n, -1)


def lively(series: np.ndarray) -> np.ndarray:
    """A series `(n,)` without its slow changes; NaN stays NaN and counts for nothing."""
    from scipy.ndimage import gaussian_filter1d

    known = np.isfinite(series)
    share = gaussian_filter1d(known.astype(np.float64), SLOW, mode="nearest")
    slow = gaussian_filter1d(np.where(known, series, 0.0), SLOW, mode="nearest") / np.maximum(share, 1e-9)
    return np.where(known, series - slow, np.nan)
