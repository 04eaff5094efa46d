"""The sound of a media file, on the clock of its pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import NoAudioStream, UnreadableMedia
from ..timing import SAMPLE_RATE
from .demux import audio_stream, is_image, opened, video_stream

if TYPE_CHECKING:
    import av

LONGEST_GAP_S = 10.0  # a hole in the sound up to this long is filled with silence; beyond, the clock is broken
AUDIO_BLOCK = 1_024  # samples in a block of sound: what the AAC encoder takes


def iter_audio(path: str | os.PathLike, rate: int | None = SAMPLE_RATE, mono: bool = True) -> Iterator[np.ndarray]:
    """Yield a file's sound in blocks `(channels, <= 1024)` float32 in [-1, 1], from time zero on.

    Args:
        path: any file with a sound track.
        rate: samples a second of the result; None keeps the file's own.
        mono: average the channels; otherwise the result has one channel or two, more than two become two.

    Raises:
        NoAudioStream: the file has no sound.
        UnreadableMedia: the file cannot be opened or decoded.
    """
    import av

    path = Path(path)
    with opened(path) as container:
        stream = audio_stream(container)
        if stream is None:
            raise NoAudioStream(f"{path}: no sound inside; give a file with an audio track")
        rate = rate or stream.codec_context.sample_rate
        own = "mono" if stream.codec_context.channels == 1 else "stereo"
        resampler = av.AudioResampler(format="fltp", layout=own, rate=rate, frame_size=AUDIO_BLOCK)
        video = video_stream(container)
        origin = 0.0
        if video is not None and not is_image(container) and video.start_time is not None:
            origin = float(video.start_time * video.time_base)
        end = math.inf
        if "mp4" in container.format.name and stream.duration:  # AAC fills its last block up: that is no sound
            end = float((stream.start_time + stream.duration) * stream.time_base) - origin
        heard = 0.0  # seconds on the picture's clock up to which sound has come
        try:
            for frame in container.decode(stream):
                start = heard if frame.time is None else frame.time - origin
                for filler in _silence_between(heard, start, frame):
                    yield from _finite(resampler.resample(filler), mono)
                head = -start if start < -1e-3 and heard == 0.0 else 0.0
                tail = heard + frame.samples / frame.sample_rate - head - end
                if head or tail > 0.5 / frame.sample_rate:
                    frame = _trimmed(frame, head, max(tail, 0.0))
                    if frame is None:
                        continue
                heard += frame.samples / frame.sample_rate
                frame.pts = None  # the clock is ours from here on
                yield from _finite(resampler.resample(frame), mono)
            yield from _finite(resampler.resample(None), mono)
        except av.error.FFmpegError as error:
            raise UnreadableMedia(f"{path}: sound cannot be decoded after {heard:.2f} s: {error}") from error


def read_audio(path: str | os.PathLike, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Read a file's whole sound as `(n,)` float32 mono in [-1, 1]: 64 KB a second at 16 kHz.

    Raises:
        NoAudioStream, UnreadableMedia: as `iter_audio`.
    """
    blocks = [block[0] for block in iter_audio(path, rate)]
    if not blocks:
        raise UnreadableMedia(f"{path}: the audio track holds no samples")
    return np.concatenate(blocks)


def _finite(blocks: list[av.AudioFrame], mono: bool) -> Iterator[np.ndarray]:
    """Samples of each block, with silence for NaN and infinity, which a float WAV can hold and no encoder takes."""
    for block in blocks:
        samples = np.nan_to_num(block.to_ndarray(), nan=0.0, posinf=0.0, neginf=0.0)
        # The library's own mixing of two float channels is 3 dB too loud for a voice that is on both.
        yield samples.mean(axis=0, keepdims=True) if mono else samples


def _silence_between(heard: float, start: float, like: av.AudioFrame) -> Iterator[av.AudioFrame]:
    """Yield silence for a late beginning or a hole in the sound (above 30 ms: less is rounding of timestamps)."""
    import av

    if not 0.03 < start - heard <= LONGEST_GAP_S:
        return
    missing = int(round((start - heard) * like.sample_rate))
    planes = like.to_ndarray()
    middle = 128 if like.format.name.startswith("u8") else 0
    silent = np.full((planes.shape[0], missing * planes.shape[1] // like.samples), middle)
    filler = av.AudioFrame.from_ndarray(silent.astype(planes.dtype), format=like.format.name, layout=like.layout.name)
    filler.sample_rate = like.sample_rate
    yield filler


def _trimmed(frame: av.AudioFrame, head: float, tail: float) -> av.AudioFrame | None:
    """Drop the first `head` and the last `tail` seconds of a block of sound; None if nothing is left."""
    import av

    first, last = round(head * frame.sample_rate), frame.samples - round(tail * frame.sample_rate)
    if first >= last:
        return None
    planes = frame.to_ndarray()
    packed = planes.shape[1] // frame.samples  # interleaved formats have all channels in one plane
    rest = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(planes[:, first * packed : last * packed]),
        format=frame.format.name,
        layout=frame.layout.name,
    )
    rest.sample_rate = frame.sample_rate
    return rest
