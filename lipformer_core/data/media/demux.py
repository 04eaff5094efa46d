"""Opening media files and decoding them in order, through PyAV alone.

Time zero is the first picture's presentation time; sound is moved to that clock on reading. Pictures are uint8 RGB
`(H, W, 3)` as a player shows them (`pictures`): turned and mirrored as the file says, in BT.709 colours, on white
where they are transparent; the colour matrix is the tagged one, or where none is tagged BT.709 from 720 lines upwards
and BT.601 below.
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

from ...errors import NoVideoStream, UnreadableMedia
from ...files import media_url
from ...timing import FPS
from .packets import Damage, decoded, steady_packets
from .pictures import Pictures, notes, orientation, upright_aspect, upright_size
from .rates import measured_rate, result_rate

if TYPE_CHECKING:
    import av

NEEDED_BOXES = (b"ftyp", b"moov", b"moof", b"mdat")  # of an MP4
SCANNED_PACKETS = 3_000  # of a video's, whose times are looked at before it is decoded: two minutes at 25 frames/s
STRANGEST_ASPECT = 4  # of a pixel, either way; what a file says beyond is a mistake


@dataclass(frozen=True)
class MediaInfo:
    """What a media file holds.

    `width` and `height` are those of the upright picture, in stored pixels; each is `pixel_aspect` times as wide as
    high. `is_image`: it holds a single picture. `notes` says in words what of its look was changed on reading. `fps` is
    the rate measured from the pictures' times (25 for a still picture), `duration_s` of the longest stream,
    `pictures_s` that from the first picture to the end of the last one (0 where that is not known).
    """

    path: Path
    width: int
    height: int
    fps: Fraction
    duration_s: float
    has_video: bool
    has_audio: bool
    is_image: bool = False
    sample_rate: int = 0
    channels: int = 0
    pictures_s: float = 0.0
    pixel_aspect: Fraction = Fraction(1)
    notes: tuple[str, ...] = ()

    @property
    def result_fps(self) -> Fraction:
        """The rate of a result made from it: its own from 24 to 60 frames/s (see `rates.result_rate`)."""
        return result_rate(self.fps)


def probe(path: str | os.PathLike) -> MediaInfo:
    """Say what a file holds, decoding its first picture as a proof.

    Raises:
        UnreadableMedia: missing, empty, truncated, or in no readable format.
    """
    path = Path(path)
    with opened(path) as container:
        video, sound = video_stream(container), audio_stream(container)
        width = height = 0
        aspect, changed, still, first = Fraction(1), (), False, None
        if video is not None:
            damage = Damage()
            frames = decoded(container, video, damage)
            first = next(frames, None)
        if first is not None:
            turn = orientation(first)
            width, height = upright_size(first, turn)
            aspect, changed = upright_aspect(stored_aspect(container), turn), notes(first)
            still = _is_last(frames, damage)
        elif sound is not None:
            video = None  # pictures that nobody can see do not make its sound useless
        elif video is not None:
            raise _no_picture(path)
        else:
            raise UnreadableMedia(f"{path}: neither pictures nor sound inside that can be decoded")
        durations = [s.duration * s.time_base for s in (video, sound) if s is not None and s.duration]
        duration = max(durations) if durations else Fraction(container.duration or 0, 1_000_000)
        fps, pictures_s = (Fraction(FPS), 0.0) if video is None or still else _pace(path, first.time)
        return MediaInfo(
            path=path,
            width=width,
            height=height,
            fps=fps,
            duration_s=float(Fraction(1, FPS) if still and sound is None else duration),
            has_video=video is not None,
            has_audio=sound is not None,
            is_image=still,
            sample_rate=sound.codec_context.sample_rate if sound is not None else 0,
            channels=sound.codec_context.channels if sound is not None else 0,
            pictures_s=pictures_s,
            pixel_aspect=aspect,
            notes=changed,
        )


def iter_frames(
    path: str | os.PathLike, damage: Damage | None = None, square: bool = False
) -> Iterator[tuple[float, np.ndarray]]:
    """Yield every picture of a file as `(seconds, (H, W, 3) uint8 RGB)`, one in memory at a time.

    A still picture counts as a video of one frame. Times start at 0 and never fall. All pictures have the size of the
    first, in stored pixels, or with `square` in square ones. A picture that cannot be decoded is left out and counted
    in `damage`.

    Raises:
        NoVideoStream: the file holds only sound.
        UnreadableMedia: the file cannot be opened, or not one picture can be decoded.
    """
    path = Path(path)
    with opened(path) as container:
        convert = Pictures(aspect=stored_aspect(container) if square else Fraction(1))
        for time, frame in timed_frames(container, path, damage=damage):
            yield time, convert(frame)


def frame_times(path: str | os.PathLike, damage: Damage | None = None) -> np.ndarray:
    """Presentation times of all pictures, `(n,)` seconds from 0 on: what `iter_frames` yields, without the pictures.

    Raises:
        NoVideoStream, UnreadableMedia: as `iter_frames`.
    """
    path = Path(path)
    with opened(path) as container:
        return np.array([time for time, _ in timed_frames(container, path, damage=damage)])


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
                if head[4:8] not in NEEDED_BOXES:
                    return  # what a tool wrote behind the last box, or a box that nothing depends on
                kind = head[4:8].decode("ascii")
                raise UnreadableMedia(
                    f"{path}: truncated: its {kind} box ends {position - size} bytes beyond the end of the file"
                )


def video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The first stream of pictures that can be decoded, if there is one.

    Raises:
        UnreadableMedia: the only streams are parts of a picture in tiles.
    """
    from av.stream import Disposition

    # A cover picture inside a music file is no video.
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    streams = [s for s in streams if s.codec_context is not None]
    whole = next((s for s in streams if not s.disposition & Disposition.dependent), None)
    if whole is None and streams:
        raise UnreadableMedia(
            f"{container.name.removeprefix('file:')}: a picture in {len(streams)} coded parts (HEIC or AVIF, as phones "
            "write it), which cannot be put together here; save it as JPEG or PNG"
        )
    return whole


def audio_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """The stream of sound that players take of those that can be decoded: the first marked as default, or the first."""
    from av.stream import Disposition

    streams = [s for s in container.streams.audio if s.codec_context is not None]
    return next((s for s in streams if s.disposition & Disposition.default), next(iter(streams), None))


def is_image(container: av.container.InputContainer) -> bool:
    """Whether the file's format is one for pictures; of what else holds a single one, `MediaInfo.is_image` tells."""
    name = container.format.name
    return name == "image2" or name.endswith("_pipe")


def _is_last(frames: Iterator[av.VideoFrame], damage: Damage) -> bool:
    """Whether no other picture follows; one that cannot be decoded, counted in `damage`, is one too."""
    return next(frames, None) is None and not damage.pictures


def _pace(path: Path, first: float | None) -> tuple[Fraction, float]:
    """Rate of a video, and seconds from the time of its `first` picture to the end of its last one, if known."""
    with opened(path) as container:
        stream = video_stream(container)
        tick = float(stream.time_base)
        times, end, ended = [], 0.0, True
        for packet in steady_packets(container, stream, Damage()):
            if packet.pts is not None:
                times.append(packet.pts * tick)
                end = max(end, times[-1] + (packet.duration or 0) * tick)
            if len(times) == SCANNED_PACKETS:
                ended = False
                break
        claims = (stream.average_rate, stream.guessed_rate, stream.base_rate)
        return measured_rate(times, claims, tick), end - (first or 0.0) if ended and times else 0.0


def _no_picture(path: Path) -> UnreadableMedia:
    hint = "the file is truncated or damaged, or of a kind such as animated WebP; open it elsewhere and save it anew"
    return UnreadableMedia(f"{path}: no picture could be decoded; {hint}")


def timed_frames(
    container: av.container.InputContainer, path: Path, seek: float | None = None, damage: Damage | None = None
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Yield `(seconds since the first picture, frame)`, from the key frame at or before `seek` seconds on.

    What cannot be decoded is skipped and counted in `damage`. After seeking, leaps of the clock are not known of.

    Raises:
        NoVideoStream, UnreadableMedia: as `iter_frames`; the latter also where seeking is impossible.
    """
    import av

    stream = video_stream(container)
    if stream is None:
        raise NoVideoStream(f"{path}: no pictures inside; give a video or a portrait")
    damage = Damage() if damage is None else damage
    frames = decoded(container, stream, damage if seek is None else Damage())
    first = next(frames, None)
    if first is None:
        raise _no_picture(path)
    origin, time = first.time or 0.0, 0.0
    if seek is None:
        yield time, first
    else:
        # The first picture's time is known only now, and all others count from it.
        try:
            container.seek(int((origin + seek) / stream.time_base), stream=stream, backward=True)
        except av.error.FFmpegError as error:
            raise UnreadableMedia(f"{path}: there is no way to seek in it: {error}") from error
        frames = decoded(container, stream, damage)
    step = float(1 / measured_rate([], (stream.average_rate, stream.guessed_rate)))
    for frame in frames:
        if frame.time is None and seek is not None:
            raise UnreadableMedia(f"{path}: pictures carry no timestamps, so there is nothing to seek by")
        # A frame without a clock follows its predecessor; one that would go back in time stands beside it.
        time = max(time, frame.time - origin) if frame.time is not None else time + step
        yield time, frame


def first_picture_time(path: Path) -> float | None:
    """Time of the first picture of a video that can be decoded, on the file's own clock; None: there is none."""
    with opened(path) as container:
        stream = video_stream(container)
        if stream is None or is_image(container):
            return None
        first = next(decoded(container, stream, Damage()), None)
        return None if first is None else first.time or 0.0


def stored_aspect(container: av.container.InputContainer) -> Fraction:
    """Width of a stored pixel over its height; of still pictures, whose density is one for print, always 1."""
    stream = video_stream(container)
    told = stream.sample_aspect_ratio if stream is not None and not is_image(container) else None
    return Fraction(told) if told and 1 / STRANGEST_ASPECT <= told <= STRANGEST_ASPECT else Fraction(1)
