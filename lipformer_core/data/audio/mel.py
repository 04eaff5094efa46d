"""Sound as the model hears it: 80 log-mel bands, one frame every 10 ms."""

from __future__ import annotations

from functools import cache

import numpy as np

from ...timing import F_MAX, F_MIN, HOP, MEL_RATE, N_FFT, N_MELS, SAMPLE_RATE, WINDOW

SILENCE = -1.0  # what digital silence, and everything outside a recording, looks like
MEL_FLOOR = 1e-5  # power below which nothing is told apart from silence
DECADES = 7.0  # powers of ten between the floor (-1) and a full-scale voice (about +1)
TYPICAL = -0.5  # what a band of a recording of speech is on the average
BLOCK = 6_000  # mel frames computed at once: one minute, so that an hour needs no giant spectrogram
# Slaney's mel: linear up to a frequency, logarithmic above
LINEAR_TO, LINEAR_STEP, LOG_STEP = 1_000.0, 200 / 3, np.log(6.4) / 27


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Turn sound into log-mel frames.

    Args:
        samples: `(n,)` float, mono at 16 kHz, in [-1, 1]. NaN and infinities count as silence.

    Returns:
        `(1 + n // 160, 80)` float32 in about [-1, 1]; exactly -1 for digital silence. Frame i is centred on
        sample `160 * i`, with zeros before the beginning and after the end.

    Raises:
        ValueError: `samples` is not one-dimensional.
    """
    from scipy.fft import rfft

    samples = np.asarray(samples, dtype=np.float32)
    if samples.ndim != 1:
        raise ValueError(f"log_mel takes mono samples of shape (n,), got {samples.shape}")
    samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
    n_frames = 1 + len(samples) // HOP
    padded = np.pad(samples, N_FFT // 2)
    mel = np.empty((n_frames, N_MELS), dtype=np.float32)
    stretches = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]  # a view: (n_frames, 512)
    for first in range(0, n_frames, BLOCK):
        spectrum = rfft(stretches[first : first + BLOCK] * _hann())
        mel[first : first + BLOCK] = np.abs(spectrum) ** 2.0 @ _bands().T
    # The division comes before the logarithm so that the floor gives log10(1) = 0 and hence exactly -1.
    return (2.0 / DECADES * np.log10(np.maximum(mel / MEL_FLOOR, 1.0)) + SILENCE).astype(np.float32)


@cache
def _hann() -> np.ndarray:
    """The analysis window in the middle of a stretch, (512,) float32."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    return np.pad(window, (N_FFT - WINDOW) // 2).astype(np.float32)


@cache
def _bands() -> np.ndarray:
    """The bands' triangles over the spectrum, each of area 1, (80, 257) float32.

    As `librosa.filters.mel` has them, which takes seconds to import, for numba.
    """
    linear = LINEAR_TO / LINEAR_STEP  # mels
    ends = F_MIN / LINEAR_STEP, linear + np.log(F_MAX / LINEAR_TO) / LOG_STEP
    mels = np.linspace(*ends, N_MELS + 2)[:, None]
    hertz = np.where(mels < linear, mels * LINEAR_STEP, LINEAR_TO * np.exp((mels - linear) * LOG_STEP))
    low, middle, high = hertz[:-2], hertz[1:-1], hertz[2:]
    at = np.arange(1 + N_FFT // 2) * SAMPLE_RATE / N_FFT
    triangles = np.minimum((at - low) / (middle - low), (high - at) / (high - middle))
    return (np.maximum(triangles, 0) * 2 / (high - low)).astype(np.float32)


def silent_rows(count: int, width: int = N_MELS) -> np.ndarray:
    """Digital silence: `(count, width)` float32, `SILENCE` in 80 mel bands and 0 in the speech features after them."""
    rows = np.zeros((count, width), dtype=np.float32)
    rows[:, :N_MELS] = SILENCE
    return rows


def band_means(mel: np.ndarray) -> np.ndarray:
    """A recording's average spectrum, what mean normalisation takes away: microphone, room and the voice's own colour.

    Args:
        mel: `(T, 80)` from `log_mel`, or `(T, 80 + features)` from `speech.sound_rows`.

    Returns:
        `(80,)` or `(80 + features,)` float32; `TYPICAL` in all bands where there is nothing but digital silence, and 0
        for the features, which keep their mean.
    """
    means = np.zeros(mel.shape[1], dtype=np.float32)
    bands = mel[:, :N_MELS]
    silent = not len(bands) or bands.max() == SILENCE
    means[:N_MELS] = TYPICAL if silent else bands.mean(axis=0, dtype=np.float64)
    return means


def mel_windows(mel: np.ndarray, times_s: np.ndarray, window: int) -> np.ndarray:
    """Cut the stretch of sound around each of several moments.

    Args:
        mel: `(T, 80)` from `log_mel`, or `(T, 80 + features)` from `speech.sound_rows`.
        times_s: `(n,)` seconds, in any order; may lie outside the recording.
        window: mel frames in a stretch, of 10 ms each. Frame `window // 2` is the one at the moment itself.

    Returns:
        `(n, window, 80)` float32, or as many columns as `mel` has; what lies outside the recording is silence.
    """
    centre = np.round(np.asarray(times_s, dtype=np.float64) * MEL_RATE).astype(np.int64)
    index = centre[:, None] + np.arange(window) - window // 2  # (n, window)
    inside = (index >= 0) & (index < len(mel))
    out = silent_rows(index.size, mel.shape[1]).reshape(*index.shape, -1)
    out[inside] = mel[index[inside]]
    return out
