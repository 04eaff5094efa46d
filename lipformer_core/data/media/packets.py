"""Packets of a media file on one clock that never restarts, and what can be decoded of them.

Files joined end to end, broadcasts and interrupted recordings restart their clock or let it leap. Both readers of a
file, of pictures and of sound, see the same packets of both streams here, so both set them right in the same way.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UnreadableMedia

if TYPE_CHECKING:
    import av

# A packet that stands further than this before its predecessors' end begins a new clock. Some containers know only when
# a picture is shown, and pictures are stored in another order.
BACKWARDS_S = {"video": 1.0, "audio": 0.1}
LEAP_S = 10.0  # a hole longer than this in a format whose clock may leap is a leap, unless the other stream goes on
LONGEST_HOLE_S = 600.0  # the same for all other formats
EARLY_S = 0.1  # sound before the first picture that is not worth a word
THREADS_PIXELS = 2**26  # of the pictures on which a decoder works at once, one a thread: 32 of HD, two of 8K
FRAME_THREADS_FROM = 1280 * 720  # pixels; below, one picture is decoded at a time: see `decoded`

# These decoders begin between two key frames too, on grey; all others wait for a key frame of their own accord.
GREY_WITHOUT_KEY = ("mpeg4", "h263", "flv", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2")


@dataclass
class Damage:
    """What was wrong with a file, filled in while it is read."""

    pictures: int = 0  # that cannot be decoded: they are skipped
    partial: int = 0  # that can be decoded in part: they are shown
    sounds: int = 0  # packets of sound that cannot be decoded
    silence_s: float = 0.0  # silence put into holes of the sound
    early_s: float = 0.0  # sound left out, since it comes before the first picture
    leaps: int = 0  # places where a stream's clock restarts or leaps
    cut_off: bool = False  # the container cannot be read up to its end

    def counts(self) -> dict[str, float]:
        """All that is not zero, by name, for a table."""
        names = {"pictures": "damaged_pictures", "partial": "partial_pictures", "sounds": "damaged_sounds"}
        found = {names.get(key, key): round(float(value), 3) for key, value in vars(self).items()}
        return {key: value for key, value in found.items() if value}

    def warnings(self, path: Path) -> list[str]:
        """The same in words."""
        said = {
            f"pictures that could not be decoded: {self.pictures}; those before them are held": self.pictures,
            f"pictures that could be decoded only in part: {self.partial}": self.partial,
            f"packets of sound that could not be decoded: {self.sounds}": self.sounds,
            f"holes in the sound, filled with silence: {self.silence_s:.2f} s": self.silence_s >= 0.005,
            f"sound before the first picture, left out: {self.early_s:.2f} s": self.early_s > EARLY_S,
            f"restarts or leaps of the clock, joined without a gap: {self.leaps}": self.leaps,
            "it cannot be read up to its end; what comes before is used": self.cut_off,
        }
        return [f"{path.name}: {words}" for words, true in said.items() if true]


def decoded(container: av.container.InputContainer, stream: av.stream.Stream, damage: Damage) -> Iterator[av.Frame]:
    """All frames of a stream that can be decoded, from where the container stands; what cannot be is counted.

    Raises:
        UnreadableMedia: the disk or the network fails.
    """
    import av

    if stream.type == "video" and not stream.codec_context.is_open:
        # Decoding several pictures at once loses the last ones of a file behind a damaged one; large ones are worth it.
        size = stream.codec_context.width * stream.codec_context.height
        stream.thread_type = "AUTO" if size >= FRAME_THREADS_FROM else "SLICE"
        stream.codec_context.thread_count = max(1, min(os.cpu_count() or 1, THREADS_PIXELS // max(1, size)))
    if stream.codec_context.name == "mjpeg" and not stream.codec_context.is_open:
        # Otherwise a JPEG that is cut off is grey below in silence.
        stream.codec_context.options = {"err_detect": "explode"}
    waits = stream.codec_context.name in GREY_WITHOUT_KEY
    flush = av.Packet()
    flush.time_base = stream.time_base
    for packet in chain(steady_packets(container, stream, damage), [flush]):
        try:
            frames = stream.decode(packet)
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            frames = _leniently(packet) if stream.codec_context.name == "mjpeg" else []
            if stream.type == "audio":
                damage.sounds += 1
            elif frames:
                damage.partial += 1
            else:
                damage.pictures += 1
        for frame in frames:
            waits = waits and not frame.key_frame
            if waits:
                continue
            damage.partial += int(stream.type == "video" and frame.is_corrupt)
            yield frame


def _leniently(packet: av.Packet) -> list[av.VideoFrame]:
    """What a decoder that forgives makes of a JPEG: all of it, where only what it says of itself is wrong."""
    import av

    context = av.CodecContext.create("mjpeg", "r")
    try:
        frames = context.decode(packet)
    except av.error.FFmpegError:
        return []
    for frame in frames:
        frame.time_base = packet.time_base
    return frames


def steady_packets(
    container: av.container.InputContainer, stream: av.stream.Stream, damage: Damage
) -> Iterator[av.Packet]:
    """The packets of a stream, their timestamps on a clock that goes on where the file's own restarts or leaps.

    Raises:
        UnreadableMedia: the disk or the network fails.
    """
    import av

    clock = _Clock(LEAP_S if may_leap(container) else LONGEST_HOLE_S)
    others = [s for kind in ("video", "audio") for s in getattr(container.streams, kind)[:1] if s.index != stream.index]
    shift = None
    try:
        for packet in container.demux(stream, *others):
            if not packet.size:
                continue
            tick = float(packet.time_base)
            found = clock.shift(packet, tick)
            if packet.stream_index != stream.index:
                continue
            damage.leaps += int(shift not in (None, found))
            shift = found
            if shift:
                ticks = round(shift / tick)
                packet.pts = None if packet.pts is None else packet.pts + ticks
                packet.dts = None if packet.dts is None else packet.dts + ticks
            yield packet
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise UnreadableMedia(f"{container.name.removeprefix('file:')}: reading stops: {error}") from error
        damage.cut_off = True


def may_leap(container: av.container.InputContainer) -> bool:
    """Whether the format is one whose clock may leap on the way, such as a transport stream's."""
    import av

    return bool(container.format.flags & av.format.Flags.ts_discont.value)


class _Clock:
    """Where each stream of a file stands, and the seconds to add to its timestamps.

    Every stream has its own correction, since at a join packets of one come before or after those of another. A stream
    that meets the join second takes over the correction of the first where that fits, so that they stay in step.
    """

    def __init__(self, longest_hole_s: float) -> None:
        self.longest_hole_s = longest_hole_s
        self._ends: dict[int, float] = {}  # by index of the stream: seconds at which its last packet ends
        self._shifts: dict[int, float] = {}

    def shift(self, packet: av.Packet, tick: float) -> float:
        """Seconds to add to the timestamps of the packet that comes next; `tick` is its clock's unit."""
        index = packet.stream_index
        others = [shift for other, shift in self._shifts.items() if other != index]
        shift = self._shifts.setdefault(index, others[0] if others else 0.0)
        moment = packet.dts if packet.dts is not None or packet.stream.type == "video" else packet.pts
        if moment is None:
            return shift
        moment *= tick
        end = self._ends.get(index)
        if end is not None:
            hole = moment + shift - end
            gone_on = max((e for other, e in self._ends.items() if other != index), default=-math.inf)
            leaps = hole > self.longest_hole_s and gone_on < end + hole - LEAP_S
            if leaps or hole < -BACKWARDS_S[packet.stream.type]:
                fitting = [s for s in others if s != shift and -LEAP_S / 10 <= moment + s - end <= LEAP_S]
                shift = self._shifts[index] = fitting[0] if fitting else end - moment
        ends = moment + shift + (packet.duration or 0) * tick
        self._ends[index] = ends if end is None else max(end, ends)
        return shift
