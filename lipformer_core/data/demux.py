"""Opening media files and decoding them in order, through PyAV alone.

Time zero is the first picture's presentation time; sound is moved to that clock on reading. Pictures are uint8 RGB
`(H, W, 3)` as a player shows them: rotation metadata is applied, and the colour matrix is the tagged one, or where
none is tagged BT.709 from 720 lines upwards and BT.601 below.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import NoVideoStream, UnreadableMedia
from ..files import media_url
from ..timing import FPS

if TYPE_CHECKING:
    import av

STANDARD_RATES = tuple(
    Fraction(*rate)
    for rate in [(24_000, 1_001), (24, 1), (25, 1), (30_000, 1_001), (30, 1), (50, 1), (60_000, 1_001), (60, 1)]
)


@dataclass(frozen=True)
class MediaInfo:
    """What a media file holds.

    `width` and `height` are those of the upright picture; `rotation` is the angle in degrees, counter-clockwise, by
    which the stored one was turned for that. `fps` is the average rate (25 for a still picture), `n_frames` what the
    container promises (None where it does not say), `duration_s` of the longest stream.
    """

    path: Path
    width: int
    height: int
    fps: Fraction
    n_frames: int | None
    duration_s: float
    rotation: int
    has_video: bool
    has_audio: bool
    is_image: bool = False
    sample_rate: int = 0
    channels: int = 0


def probe(path: str | os.PathLike) -> MediaInfo:
    """Say what a file holds, decoding its first picture as a proof.

    Raises:
        UnreadableMedia: missing, empty, truncated, or in no readable format.
    """
    path = Path(path)
    with opened(path) as container:
        video, sound = video_stream(container), audio_stream(container)
        width = height = rotation = 0
        if video is not None:
            first = next(container.decode(video), None)
            if first is None:
                raise UnreadableMedia(f"{path}: no picture could be decoded; the file is truncated or damaged")
            rotation = int(round(first.rotation / 90)) * 90
            width, height = (first.height, first.width) if rotation % 180 else (first.width, first.height)
        elif sound is None:
            raise UnreadableMedia(f"{path}: neither pictures nor sound inside")
        durations = [s.duration * s.time_base for s in (video, sound) if s is not None and s.duration]
        duration = max(durations) if durations else Fraction(container.duration or 0, 1_000_000)
        still = video is not None and is_image(container)
        return MediaInfo(
            path=path,
            width=width,
            height=height,
            fps=Fraction(FPS) if video is None or still else _frame_rate(video),
            n_frames=None if video is None else 1 if still else (video.frames or None),
            duration_s=float(Fraction(1, FPS) if still else duration),
            rotation=rotation,
            has_video=video is not None,
            has_audio=sound is not None,
            is_image=still,
            sample_rate=sound.codec_context.sample_rate if sound is not None else 0,
            channels=sound.codec_context.channels if sound is not None else 0,
        )


def iter_frames(path: str | os.PathLike) -> Iterator[tuple[float, np.ndarray]]:
    """Yield every picture of a file as `(seconds, (H, W, 3) uint8 RGB)`, one in memory at a time.

    A still picture counts as a video of one frame. Times start at 0 and never fall.

    Raises:
        NoVideoStream: the file holds only sound.
        UnreadableMedia: the file cannot be opened, or decoding stops in its middle.
    """
    path = Path(path)
    with opened(path) as container:
        for time, frame in timed_frames(container, path):
            yield time, to_rgb(frame)


def frame_times(path: str | os.PathLike) -> np.ndarray:
    """Presentation times of all pictures, `(n,)` seconds from 0 on: what `iter_frames` yields, without the pictures.

    Raises:
        NoVideoStream, UnreadableMedia: as `iter_frames`.
    """
    path = Path(path)
    with opened(path) as container:
        return np.array([time for time, _ in timed_frames(container, path)])


@contextmanager
def opened(path: Path) -> Iterator[av.container.InputContainer]:
    """Open a file for reading, or say in one typed error why that is impossible."""
    import av

    av.logging.set_level(None)  # libav would write its own complaints to the terminal as well
    if not os.path.isfile(path):  # also where the name is too long to be one
        raise UnreadableMedia(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise UnreadableMedia(f"{path}: the file is empty (0 bytes)")
    try:
        container = av.open(media_url(path), metadata_errors="replace")
    except (av.error.FFmpegError, ValueError) as error:
        hint = "it is cut off, damaged, or no media file"
        raise UnreadableMedia(f"{path}: cannot be read as video or sound ({hint}): {error}") from error
    with container:
        if "mp4" in container.format.name.split(","):
            _check_boxes(path)
        yield container


def _check_boxes(path: Path) -> None:
    """Refuse an MP4 whose outermost boxes claim more bytes than the file has: libav would just play it short."""
    size, position = path.stat().st_size, 0
    with path.open("rb") as file:
        while position + 8 <= size:
            file.seek(position)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if length == 0 or not head[4:8].isalnum():
                return  # "to the end of the file", or padding after the last box
            position += max(length, 8)
            if position > size:
                kind = head[4:8].decode("ascii")
                raise UnreadableMedia(
                    f"{path}: truncated: its {kind} box ends {position - size} bytes beyond the end of the file"
                )


def video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The first stream of pictures, if there is one."""
    from av.stream import Disposition

    # A cover picture inside a music file is no video.
    return next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)


def audio_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """The first stream of sound, if there is one."""
    return next(iter(container.streams.audio), None)


def is_image(container: av.container.InputContainer) -> bool:
    """Whether the file is a still picture."""
    name = container.format.name
    return name == "image2" or name.endswith("_pipe")


def _frame_rate(stream: av.VideoStream) -> Fraction:
    """Average rate; one of the standard rates where it is within 0.04 % of it (24 and 23.976 are 0.1 % apart)."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate or Fraction(FPS)
    rate = min(max(Fraction(rate), Fraction(1)), Fraction(240))
    nearest = min(STANDARD_RATES, key=lambda standard: abs(standard - rate))
    return nearest if abs(nearest - rate) <= rate / 2_500 else rate.limit_denominator(1_001)


def timed_frames(
    container: av.container.InputContainer, path: Path, seek: float | None = None
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Yield `(seconds since the first picture, frame)`, from the key frame at or before `seek` seconds on.

    Raises:
        NoVideoStream, UnreadableMedia: as `iter_frames`; the latter also where seeking is impossible.
    """
    import av

    stream = video_stream(container)
    if stream is None:
        raise NoVideoStream(f"{path}: no pictures inside; give a video or a portrait")
    stream.thread_type = "AUTO"
    step = float(1 / _frame_rate(stream))
    time = -step
    try:
        origin = None
        for frame in container.decode(stream):
            if origin is None:
                origin = frame.time or 0.0
                if seek is not None:
                    # The first picture's time is known only now, and all others count from it.
                    container.seek(int((origin + seek) / stream.time_base), stream=stream, backward=True)
                    continue
            # A frame without a clock follows its predecessor; one that would go back in time stands beside it.
            if frame.time is None and seek is not None:
                raise UnreadableMedia(f"{path}: pictures carry no timestamps, so there is nothing to seek by")
            time = max(time, frame.time - origin) if frame.time is not None else time + step
            yield time, frame
    except av.error.FFmpegError as error:
        raise UnreadableMedia(f"{path}: decoding stops after {max(time, 0):.2f} s: {error}") from error
    if origin is None:
        raise UnreadableMedia(f"{path}: no picture could be decoded; the file is truncated or damaged")


def to_rgb(frame: av.VideoFrame) -> np.ndarray:
    """Convert a decoded frame to an upright `(H, W, 3)` uint8 RGB picture."""
    from av.video.reformatter import Colorspace

    known = {int(space) for space in Colorspace}
    guess = Colorspace.ITU709 if min(frame.height, frame.width) >= 720 else Colorspace.ITU601
    space = frame.colorspace if int(frame.colorspace) in known else int(guess)
    picture = frame.reformat(format="rgb24", src_colorspace=space, interpolation=_exact_colours()).to_ndarray()
    turns = int(round(frame.rotation / 90)) % 4
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _exact_colours() -> int:
    """Flags for libswscale, whose default rounding darkens every picture by one to two grey levels."""
    from av.video.reformatter import Interpolation as Flag

    return int(Flag.BILINEAR) | int(Flag.FULL_CHR_H_INT) | int(Flag.ACCURATE_RND)
