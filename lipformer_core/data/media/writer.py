"""Writing of a result in bounded memory, which appears only when it is complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from ...errors import MediaError, NoAudioStream
from ...files import check_writable, claimed, hidden_beside, media_url, not_written, sweep
from .demux import audio_stream, first_picture_time, opened, probe
from .soundtrack import AUDIO_BLOCK, iter_audio

if TYPE_CHECKING:
    import av

MANY_PIXELS = 2_560 * 1_440  # from here on x264 looks no frames ahead, which it would hold in memory;
MOST_PIXELS = 4_096 * 2_304  # from here on it keeps no planes for fractions of pixels, for a somewhat larger file
LONGEST_SIDE = 16_384  # pixels
CONTAINERS = (".mp4", ".mov", ".mkv")
AAC_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000)


class VideoWriter:
    """Writes H.264 and AAC to a hidden file beside the target, which appears only when it is complete.

    Used as a context manager; leaving it by an exception, Ctrl-C included, removes the hidden file, and what processes
    that were killed have left in that folder goes when the next one begins. The picture is
    yuv420p, which every player shows, but yuv444p where a side is odd: 4:2:0 H.264 cannot hold such a size, and the
    output must keep the source's. Colours are written and tagged as BT.709. Sound becomes AAC. With `copy_sound`, which
    is right for a file whose sound is whole, AAC is taken over packet by packet.
    """

    copy_sound = False

    def __init__(
        self,
        path: str | os.PathLike,
        width: int,
        height: int,
        fps: Fraction | float,
        audio: str | os.PathLike | tuple[np.ndarray, int] | None = None,
        *,
        metadata: dict[str, str] | None = None,
        crf: int = 17,
        preset: str = "veryfast",
        pixel_aspect: Fraction = Fraction(1),
    ) -> None:
        """Prepare to write.

        Args:
            path: the target; `.mp4`, `.mov` or `.mkv`. An existing file is replaced at the very end.
            width, height: pixels.
            fps: constant rate of the result, frames/s.
            audio: a file whose sound is kept with its own rate and channels (above two: stereo), or `(samples, rate)`
                with samples `(n,)` or `(channels, n)` float in [-1, 1]. It is cut where the pictures end.
            metadata: tags of the file, such as `comment`.
            crf: quality of x264: 17 is visually lossless, +6 halves the size; 0 keeps every RGB value, which few
                players show.
            preset: speed of x264; of pictures larger than 4K always `ultrafast`.
            pixel_aspect: width of a pixel over its height, which players are told.

        Raises:
            MediaError: another file ending, a folder that does not exist, or pictures too large for H.264.
            OutputError: nothing can be written under that name.
        """
        self.path = Path(path)
        if self.path.suffix.lower() not in CONTAINERS:
            raise MediaError(f"{self.path}: cannot write {self.path.suffix or 'no ending'}; use one of {CONTAINERS}")
        if not self.path.parent.is_dir():
            raise MediaError(f"{self.path.parent}: no such folder to write to")
        if max(width, height) > LONGEST_SIDE:
            raise MediaError(
                f"{self.path}: {width} x {height}: H.264 holds no side above {LONGEST_SIDE}; make it smaller"
            )
        check_writable(self.path)
        self.partial = hidden_beside(self.path.with_suffix(""), f".partial{self.path.suffix}")
        self.width, self.height, self.fps = width, height, Fraction(fps).limit_denominator(1_001)
        self.frames_written = 0
        self._audio, self._metadata = audio, metadata or {}
        self._options = {"crf": str(crf), "preset": preset}
        if width * height > MANY_PIXELS:
            self._options["tune"] = "zerolatency"
        if width * height > MOST_PIXELS:
            self._options["preset"] = "ultrafast"
        self._pixel_aspect = pixel_aspect
        self._audio_written = 0  # samples
        self._waiting: np.ndarray | None = None  # of a block of sound, what belongs to pictures to come

    def __enter__(self) -> VideoWriter:
        sound = self._sound_source()  # before any file exists: it may not be readable
        sweep(self.path.parent, ".partial.*")
        with ExitStack() as undo, self._as_ours():
            undo.callback(self.partial.unlink, missing_ok=True)
            undo.enter_context(claimed(self.partial))
            self._open(sound)
            self._copied = self._copyable(undo)
            self._undo = undo.pop_all()
        return self

    def _open(self, sound: tuple[int, str, Iterator[np.ndarray]] | None) -> None:
        import av

        faststart = {} if self.path.suffix.lower() == ".mkv" else {"movflags": "+faststart"}
        self._container = av.open(media_url(self.partial), "w", options=faststart)
        self._container.metadata.update(self._metadata)
        self._video: av.VideoStream | None = None
        self._blocks = None
        if sound is not None:
            self._rate, self._layout, self._blocks = sound

    def _add_streams(self, like: av.VideoStream | None = None) -> None:
        """Begin: the pictures are coded here, or were so already, as in the stream that is given."""
        self._codes = like is None
        self._video = self._encoder() if self._codes else self._container.add_stream_from_template(like)
        if self._blocks is not None:
            if self._copied is not None:
                self._sound = self._container.add_stream_from_template(self._copied[0])
            else:
                self._sound = self._container.add_stream("aac", rate=self._rate, layout=self._layout)

    def _encoder(self) -> av.VideoStream:
        lossless = self._options["crf"] == "0"
        codec = "libx264rgb" if lossless else "libx264"
        stream = self._container.add_stream(codec, rate=self.fps, options=self._options)
        stream.width, stream.height = self.width, self.height
        odd = self.width % 2 or self.height % 2
        stream.pix_fmt = "rgb24" if lossless else "yuv444p" if odd else "yuv420p"
        context = stream.codec_context
        context.sample_aspect_ratio = self._pixel_aspect
        context.time_base = 1 / self.fps
        context.color_primaries = context.color_trc = 1  # BT.709
        context.colorspace, context.color_range = (0, 2) if lossless else (1, 1)  # 16 to 235, as players expect
        return stream

    def write(self, frame: np.ndarray) -> None:
        """Append one `(H, W, 3)` uint8 RGB picture, and the sound that belongs to the time before it.

        Raises:
            ValueError: a picture of another size or type.
            OutputError: the disk is full, or gone.
        """
        import av
        from av.video.reformatter import ColorRange, Colorspace

        if frame.shape != (self.height, self.width, 3) or frame.dtype != np.uint8:
            raise ValueError(f"expected {(self.height, self.width, 3)} uint8, got {frame.shape} {frame.dtype}")
        if self._video is None:
            self._add_streams()
        picture = av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(frame), format="rgb24")
        if self._video.pix_fmt != "rgb24":
            picture = picture.reformat(
                format=self._video.pix_fmt, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
        picture.pts, picture.time_base, picture.duration = self.frames_written, 1 / self.fps, 1
        with self._as_ours():
            self._container.mux(self._video.encode(picture))
            self.frames_written += 1
            self._write_sound()

    def append(self, path: Path) -> None:
        """Append all pictures of a file that such a writer made with the same settings, as they are coded there.

        The sound that belongs to their time comes along as in `write`, beside which this cannot be used. Only the last
        of several files may hold a few pictures alone: coding order must not lead from one into another.

        Raises:
            UnreadableMedia: that file is damaged.
            OutputError: as `write`.
        """
        with opened(path) as part:
            first, coded = self.frames_written, part.streams.video[0]
            if self._video is None:
                self._add_streams(coded)
            for packet in part.demux(coded):
                if packet.size:
                    frame = packet.time_base * self.fps
                    packet.pts = first + round(packet.pts * frame)
                    packet.dts = first + round(packet.dts * frame)
                    packet.duration, packet.time_base, packet.stream = 1, 1 / self.fps, self._video
                    with self._as_ours():
                        self._container.mux(packet)
                        self.frames_written += 1
                        self._write_sound()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        import av

        with self._undo, self._as_ours():
            try:
                if kind is None:
                    self._finish()
            finally:
                self.partial.unlink(missing_ok=True)  # first: an unfinished file need not be put in order on closing
                with suppress(OSError, av.error.FFmpegError):
                    self._container.close()

    def _finish(self) -> None:
        if not self.frames_written:
            raise MediaError(f"{self.path}: nothing to write, not a single picture came")
        if self._codes:
            self._container.mux(self._video.encode(None))
        if self._blocks is not None:
            self._write_sound()
            if self._copied is None:
                self._container.mux(self._sound.encode(None))
        self._container.close()
        os.replace(self.partial, self.path)

    @contextmanager
    def _as_ours(self) -> Iterator[None]:
        """Say in a typed error what keeps the file from being written."""
        import av

        try:
            yield
        except (OSError, av.error.FFmpegError) as error:
            raise not_written(self.path, error) from error

    def _sound_source(self) -> tuple[int, str, Iterator[np.ndarray]] | None:
        if self._audio is None:
            return None
        if isinstance(self._audio, tuple):
            samples, rate = np.atleast_2d(np.asarray(self._audio[0], dtype=np.float32)), int(self._audio[1])
            if rate not in AAC_RATES:
                raise MediaError(f"{self.path}: AAC knows no {rate} Hz; resample to one of {AAC_RATES}")
            layout = "mono" if len(samples) == 1 else "stereo"
            return rate, layout, (samples[:, i : i + AUDIO_BLOCK] for i in range(0, samples.shape[1], AUDIO_BLOCK))
        info = probe(self._audio)
        if not info.has_audio:
            raise NoAudioStream(f"{self._audio}: no sound inside; give a file with an audio track")
        rate = info.sample_rate if info.sample_rate in AAC_RATES else 48_000
        layout = "mono" if info.channels == 1 else "stereo"
        return rate, layout, iter_audio(self._audio, rate, mono=False)

    def _write_sound(self) -> None:
        """Encode sound up to the end of the last picture, so that the file interleaves and nothing piles up."""
        import av

        if self._blocks is None:
            return
        if self._copied is not None:
            self._copy_sound()
            return
        end = int(round(self.frames_written / self.fps * self._rate))
        while self._audio_written < end:
            block = self._waiting if self._waiting is not None else next(self._blocks, None)
            if block is None:
                return
            now, later = np.split(block, [end - self._audio_written], axis=1)
            self._waiting = later if later.size else None
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(now), format="fltp", layout=self._layout)
            frame.sample_rate, frame.time_base = self._rate, Fraction(1, self._rate)
            frame.pts = self._audio_written
            self._audio_written += now.shape[1]
            self._container.mux(self._sound.encode(frame))

    def _copyable(self, stack: ExitStack) -> tuple[av.AudioStream, Iterator[av.Packet]] | None:
        """The file's stream of AAC and its packets from time zero on, if they are to be taken over as they are."""
        if not self.copy_sound or self._blocks is None or isinstance(self._audio, tuple):
            return None
        container = stack.enter_context(opened(Path(self._audio)))
        stream = audio_stream(container)
        if stream.codec_context.name != "aac" or not stream.codec_context.extradata:  # ADTS has none, and mp4 needs it
            return None
        zero = round((first_picture_time(Path(self._audio)) or 0.0) / stream.time_base)
        return stream, _from_zero(container.demux(stream), zero)

    def _copy_sound(self) -> None:
        """Take packets over up to the end of the last picture."""
        stream, packets = self._copied
        end = self.frames_written / self.fps
        for packet in packets:
            if packet.pts * packet.time_base >= end:
                self._copied = stream, chain([packet], packets)
                return
            packet.stream = self._sound
            self._container.mux(packet)


def _from_zero(packets: Iterator[av.Packet], zero: int) -> Iterator[av.Packet]:
    """Packets of AAC on a clock that begins at `zero`, in ticks, the one before it too: each needs its predecessor."""
    for packet in packets:
        if packet.size and packet.pts is not None and packet.pts + 2 * (packet.duration or 0) > zero:
            packet.pts, packet.dts = packet.pts - zero, packet.pts - zero
            yield packet
