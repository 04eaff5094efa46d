"""Sound as the model hears it: 80 log-mel bands, one frame every 10 ms."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import numpy as np

from ...timing import F_MAX, F_MIN, HOP, MEL_RATE, N_FFT, N_MELS, SAMPLE_RATE, WINDOW

SILENCE = -1.0  # what digital silence, and everything outside a recording, looks like
MEL_FLOOR = 1e-5  # power below which nothing is told apart from silence
DECADES = 7.0  # powers of ten between the floor (-1) and a full-scale voice (about +1)
TYPICAL = -0.5  # what a band of a recording of speech is on the average
BLOCK = 6_000  # mel frames computed at once: one minute, so that an hour needs no giant spectrogram


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
    librosa = _librosa()
    samples = np.asarray(samples, dtype=np.float32)
    if samples.ndim != 1:
        raise ValueError(f"log_mel takes mono samples of shape (n,), got {samples.shape}")
    samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
    n_frames = 1 + len(samples) // HOP
    padded = np.pad(samples, N_FFT // 2)
    mel = np.empty((n_frames, N_MELS), dtype=np.float32)
    # As librosa.feature.melspectrogram does it, whose import takes a second longer.
    bands = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=N_MELS, fmin=F_MIN, fmax=F_MAX)
    for first in range(0, n_frames, BLOCK):
        last = min(first + BLOCK, n_frames)
        piece = padded[first * HOP : (last - 1) * HOP + N_FFT]
        spectrum = librosa.stft(piece, n_fft=N_FFT, hop_length=HOP, win_length=WINDOW, center=False)
        mel[first:last] = np.einsum("ft,mf->tm", np.abs(spectrum) ** 2.0, bands, optimize=True)
    # The division comes before the logarithm so that the floor gives log10(1) = 0 and hence exactly -1.
    return (2.0 / DECADES * np.log10(np.maximum(mel / MEL_FLOOR, 1.0)) + SILENCE).astype(np.float32)


@cache
def _librosa() -> ModuleType:
    """librosa, which cannot be imported where numba finds no folder to keep compiled functions in: it gets one."""
    import numba

    def compiled() -> None:
        """Stands in librosa's folder, as far as numba can see."""

    compiled.__code__ = compiled.__code__.replace(co_filename=find_spec("librosa").origin)
    try:
        numba.njit(cache=True)(compiled)
    except RuntimeError:  # neither librosa's folder nor the user's cache can be written to
        numba.config.CACHE_DIR = tempfile.mkdtemp(prefix="lipformer-numba-")
        atexit.register(shutil.rmtree, numba.config.CACHE_DIR, ignore_errors=True)
    import librosa

    return librosa


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
