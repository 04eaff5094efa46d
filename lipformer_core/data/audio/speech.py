"""The sound as a model hears it, in rows of 10 ms: log-mel and, where asked for, a pretrained encoder's features.

The encoder is Moonshine tiny's (Useful Sensors, MIT; Jeffries et al., arXiv 2410.15608), trained to transcribe English.
It is ours, not the paper's, and off by default. It runs in onnxruntime from a file that `weights` finds.
"""

import importlib
import os
from functools import lru_cache
from types import ModuleType

import numpy as np

from ... import weights
from ...errors import WeightsMissing
from ...timing import HOP, N_MELS
from .mel import SILENCE, log_mel

FILE = "moonshine_tiny_en_encoder.ort"
FEATURES = 288  # of one step
STRIDE = 384  # samples between steps: 24 ms
FIRST = 447  # sample that the first step is centred on: half of what its three convolutions see
LOUDNESS = 0.07  # root mean square that a piece is brought to: behind the encoder's first layer is a tanh
QUIETEST = 1e-3  # quieter pieces are not made louder than this asks for
PIECE = 1_600  # rows encoded at once: 16 s; attention sees all of a piece
MARGIN = 1_600  # samples of silence on either side of a piece: 0.1 s
FADE = 50  # rows on either side of a border over which one piece fades into the next: 0.5 s
CONTEXT = 200  # rows on either side that a piece's ends hear of: 2 s


def sound_width(encoder: str) -> int:
    """Columns of `sound_rows`: 80, and the encoder's features. `encoder`: `audio.speech_encoder`."""
    return N_MELS if encoder == "none" else N_MELS + FEATURES


def sound_rows(samples: np.ndarray, encoder: str = "none", needed: bool = True) -> np.ndarray:
    """Turn sound into what a model with this `audio.speech_encoder` hears.

    Args:
        samples: `(n,)` float, mono at 16 kHz, in [-1, 1].
        encoder: "none", or "moonshine".
        needed: fail without the encoder's file; else the features are 0, which models know from training.

    Returns:
        `(1 + n // 160, sound_width(encoder))` float32: `log_mel`, and in the columns after it the features, of about
        [-8, 8], interpolated to its frames; they are 0 in digital silence.

    Raises:
        ValueError: `samples` is not one-dimensional.
        WeightsMissing, WeightsCorrupt: the encoder's file, or onnxruntime, is not here, and is `needed`.
    """
    mel = log_mel(samples)
    if encoder == "none":
        return mel
    samples = np.nan_to_num(np.asarray(samples, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    rows = np.zeros((len(mel), N_MELS + FEATURES), np.float32)
    rows[:, :N_MELS] = mel
    if not needed and why_absent() is not None:
        return rows
    for first in range(0, len(mel), PIECE):
        begin, end = max(first - FADE, 0), min(first + PIECE + FADE, len(mel))
        place = np.arange(begin, end, dtype=np.float32) + 0.5
        share = np.ones_like(place) if first == 0 else ((place - first) / (2 * FADE) + 0.5).clip(0, 1)
        share -= ((place - first - PIECE) / (2 * FADE) + 0.5).clip(0, 1)  # what the next piece has
        rows[begin:end, N_MELS:] += share[:, None] * _features(samples, begin, end)
    rows[mel.max(axis=1) == SILENCE, N_MELS:] = 0.0
    return rows


def why_absent() -> str | None:
    """Why the encoder cannot be used here; None where it can."""
    try:
        _session()
    except WeightsMissing as error:
        return str(error)
    return None


def _features(samples: np.ndarray, first: int, last: int) -> np.ndarray:
    """Features at rows [first, last): (last - first, FEATURES)."""
    begin, end = max((first - CONTEXT) * HOP, 0), (last + CONTEXT) * HOP
    loud = np.flatnonzero(samples[begin:end])
    if not len(loud):
        return np.zeros((last - first, FEATURES), np.float32)
    begin, end = begin + loud[0], begin + loud[-1] + 1  # silence around it would count in the encoder's normalisation
    piece = samples[begin:end]
    loudness = float(np.sqrt(np.mean(np.square(piece, dtype=np.float64))))
    steps = _encode(np.pad(piece * np.float32(LOUDNESS / max(loudness, QUIETEST)), MARGIN))
    position = (np.arange(first, last) * HOP - begin + MARGIN - FIRST) / STRIDE
    position = position.clip(0, len(steps) - 1)
    before = np.floor(position).astype(int).clip(max=len(steps) - 2)
    share = (position - before).astype(np.float32)[:, None]
    return steps[before] * (1 - share) + steps[before + 1] * share


def _encode(samples: np.ndarray) -> np.ndarray:
    """Steps of a piece of sound (n,): float32 (k, FEATURES), step i centred on sample FIRST + STRIDE i."""
    given = {"input_values": samples[None], "attention_mask": np.ones((1, len(samples)), np.int64)}
    return _session().run(None, given)[0][0]


@lru_cache(maxsize=1)
def _session() -> object:
    path = weights.find(FILE)
    try:
        onnxruntime = onnx_runtime()
    except ImportError as error:
        raise WeightsMissing("speech_encoder needs onnxruntime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the same sums in the same order, whatever the machine
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def onnx_runtime() -> ModuleType:
    """The package onnxruntime, which then reports to nobody. ImportError where it is not installed."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")
