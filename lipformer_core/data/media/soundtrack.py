"""The sound of a media file, on the clock of its pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import NoAudioStream, UnreadableMedia
from ...timing import SAMPLE_RATE
from .demux import audio_stream, first_picture_time, opened
from .packets import LEAP_S, LONGEST_HOLE_S, Damage, decoded

if TYPE_CHECKING:
    import av

SHORTEST_HOLE_S = 0.03  # less is rounding of timestamps
OWN_ZERO = ("mpegts", "mpeg")  # formats whose clock begins anywhere
AUDIO_BLOCK = 1_024  # samples in a block of sound: what the AAC encoder takes


def iter_audio(
    path: str | os.PathLike, rate: int | None = SAMPLE_RATE, mono: bool = True, damage: Damage | None = None
) -> Iterator[np.ndarray]:
    """Yield a file's sound in blocks `(channels, <= 1024)` float32 in [-1, 1], from time zero on.

    Time zero is that of the first picture that can be decoded; in a file without pictures the beginning of its clock.
    Silence stands where the sound begins later, has a hole, or cannot be decoded.

    Args:
        path: any file with a sound track.
        rate: samples a second of the result; None keeps the file's own.
        mono: average the channels; otherwise the result has one channel or two, more than two become two.
        damage: where to count what cannot be decoded.

    Raises:
        NoAudioStream: the file has no sound.
        UnreadableMedia: the file cannot be opened, or none of its sound can be decoded.
    """
    path, damage = Path(path), Damage() if damage is None else damage
    with opened(path) as container:
        stream = audio_stream(container)
        if stream is None:
            raise NoAudioStream(f"{path}: no sound inside; give a file with an audio track")
        layout = "mono" if stream.codec_context.channels == 1 else "stereo"
        converted = _Converter(layout, rate or stream.codec_context.sample_rate, mono)
        for frame in _on_the_clock(container, stream, path, damage):
            yield from converted(frame)
        yield from converted(None)


def _on_the_clock(
    container: av.container.InputContainer, stream: av.AudioStream, path: Path, damage: Damage
) -> Iterator[av.AudioFrame]:
    """Blocks of sound without a gap from time zero on, silence among them."""
    zero, end = first_picture_time(path), math.inf
    has_pictures = zero is not None
    if not has_pictures and container.format.name not in OWN_ZERO:
        zero = 0.0
    if "mp4" in container.format.name and stream.duration:  # AAC fills its last block up: that is no sound
        end = float(((stream.start_time or 0) + stream.duration) * stream.time_base) - zero
    limit = LONGEST_HOLE_S if has_pictures else LEAP_S
    heard, lag = 0.0, 0.0  # seconds since time zero up to which sound has come, and by which its clock was ahead
    sounds, first = 0, True
    for frame in decoded(container, stream, damage):
        if zero is None or (first and frame.time is not None and abs(frame.time - zero) > limit):
            end -= (frame.time or 0.0) - (zero or 0.0)  # a clock with a beginning of its own
            zero = frame.time or 0.0
        first = False
        start = heard if frame.time is None else frame.time - zero
        # Behind what could not be decoded a hole is believed to the sample.
        hole = start - heard - (lag if damage.sounds > sounds else 0.0)
        if hole > (SHORTEST_HOLE_S if damage.sounds == sounds else 1 / frame.sample_rate):
            yield from _silence(hole, frame)
            damage.silence_s += hole if heard else 0.0
            heard += hole
        sounds, lag = damage.sounds, start - heard
        head = -start if start < -1e-3 and heard == 0.0 else 0.0
        damage.early_s = max(damage.early_s, head)
        tail = heard + frame.samples / frame.sample_rate - head - end
        if head or tail > 0.5 / frame.sample_rate:
            frame = _trimmed(frame, head, max(tail, 0.0))
            if frame is None:
                continue
        heard += frame.samples / frame.sample_rate
        frame.pts = None  # the clock is ours from here on
        yield frame
    if first and damage.sounds:
        raise UnreadableMedia(f"{path}: not one of {damage.sounds} blocks of sound can be decoded; it is damaged")
    if not heard and damage.early_s:
        hint = "save the sound to a file of its own"
        raise UnreadableMedia(f"{path}: the sound ends before the first picture that can be decoded; {hint}")


class _Converter:
    """Brings blocks of sound to one format, whatever changes on the way: rate, channels, kind of sample."""

    def __init__(self, layout: str, rate: int, mono: bool) -> None:
        self.layout, self.rate, self.mono = layout, rate, mono
        self._resampler: av.AudioResampler | None = None
        self._kind: tuple | None = None

    def __call__(self, frame: av.AudioFrame | None) -> Iterator[np.ndarray]:
        """Yield what is ready after another block; None is the end."""
        import av

        kind = None if frame is None else (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._kind:
            if self._resampler is not None:
                yield from _finite(self._resampler.resample(None), self.mono)
            self._kind = kind
            self._resampler = av.AudioResampler("fltp", self.layout, self.rate, frame_size=AUDIO_BLOCK)
        if frame is not None:
            yield from _finite(self._resampler.resample(frame), self.mono)


def read_audio(path: str | os.PathLike, rate: int = SAMPLE_RATE, damage: Damage | None = None) -> np.ndarray:
    """Read a file's whole sound as `(n,)` float32 mono in [-1, 1]: 64 KB a second at 16 kHz.

    Raises:
        NoAudioStream, UnreadableMedia: as `iter_audio`.
    """
    blocks = [block[0] for block in iter_audio(path, rate, damage=damage)]
    if not blocks:
        raise UnreadableMedia(f"{path}: the audio track holds no samples")
    return np.concatenate(blocks)


def _finite(blocks: list[av.AudioFrame], mono: bool) -> Iterator[np.ndarray]:
    """Samples of each block, with silence for NaN and infinity, which a float WAV can hold and no encoder takes."""
    for block in blocks:
        samples = np.nan_to_num(block.to_ndarray(), nan=0.0, posinf=0.0, neginf=0.0)
        # The library's own mixing of two float channels is 3 dB too loud for a voice that is on both.
        yield samples.mean(axis=0, keepdims=True) if mono else samples


def _silence(seconds: float, like: av.AudioFrame) -> Iterator[av.AudioFrame]:
    """Yield silence in the format of a block of sound, at most a second at a time."""
    import av

    planes = like.to_ndarray()
    middle = 128 if like.format.name.startswith("u8") else 0
    left = round(seconds * like.sample_rate)
    while left > 0:
        samples = min(left, like.sample_rate)
        silent = np.full((planes.shape[0], samples * planes.shape[1] // like.samples), middle, planes.dtype)
        filler = av.AudioFrame.from_ndarray(silent, format=like.format.name, layout=like.layout.name)
        filler.sample_rate = like.sample_rate
        yield filler
        left -= samples


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
