"""A stretch of a media file as pictures at 25 frames/s and rows of sound, in memory bounded whatever its length."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...errors import MediaError, UnreadableMedia
from ...timing import FPS, HOP, N_FFT, N_MELS, SAMPLE_RATE
from ..audio.mel import BLOCK, silent_rows
from ..audio.speech import CONTEXT, sound_rows, sound_width
from .packets import Damage, may_leap

SEEK_FROM = 10.0  # seconds; a clip that begins earlier is reached by decoding
LEAD = -(-N_FFT // 2 // HOP)  # mel frames on each side of a block that its ends need sound of
ROW = np.dtype(np.float32)


def shown_frames(
    path: str | Path,
    start_s: float = 0.0,
    end_s: float | None = None,
    damage: Damage | None = None,
    held_s: list[float] | None = None,
) -> Iterator[np.ndarray]:
    """The pictures shown at `start_s`, and 1/25, 2/25 … s later: uint8 RGB (H, W, 3), whatever the file's own rate.

    Their pixels are square, and all have the size of the first.
    end_s : where to stop, not itself shown; None: at the file's end
    damage : where to count what cannot be decoded; the picture before it is held
    held_s : where to note for each picture how long it has been on screen, seconds
    raises NoVideoStream, UnreadableMedia as `media.iter_frames`; MediaError if the file ends before `start_s`
    """
    from .demux import opened, stored_aspect
    from .pictures import Pictures

    count, shown, since, picture, time = 0, None, 0.0, None, 0.0
    held_s = [] if held_s is None else held_s
    limit = np.inf if end_s is None else end_s - 1e-6

    def moment() -> float:
        return start_s + count / FPS

    with opened(Path(path)) as container:
        convert = Pictures(aspect=stored_aspect(container))
        for time, frame in _from(container, Path(path), start_s, damage):
            while shown is not None and moment() < min(time - 1e-6, limit):
                picture = convert(shown) if picture is None else picture
                held_s.append(moment() - since)
                yield picture
                count += 1
            if moment() >= limit:
                return
            shown, since, picture = frame, time, None
        if shown is not None and moment() <= time + 1e-6 and moment() < limit:
            held_s.append(moment() - since)
            yield convert(shown)
            count += 1
    if not count:
        raise MediaError(f"{path}: ends at {time:.2f} s, before the clip's beginning at {start_s:.2f} s")


def _from(container: object, path: Path, start_s: float, damage: Damage | None) -> Iterator[tuple[float, object]]:
    """Frames from a little before `start_s` on; by seeking, where the file's index leads far enough back.

    Not in a format whose clock may leap on the way: its timestamps do not tell where a picture is.
    """
    from .demux import timed_frames

    if start_s > SEEK_FROM and not may_leap(container):
        found = timed_frames(container, path, start_s, damage)
        first = next(found, None)
        if first is not None and first[0] <= start_s + 1e-6:
            yield first
            yield from found
            return
        container.seek(0)
    yield from timed_frames(container, path, damage=damage)


@dataclass(frozen=True)
class SoundFile:
    """A clip's `speech.sound_rows` in a file, and in HOP columns after them the samples from each row's middle on.

    Row 0 is centred on the clip's first picture; `first` may be negative.
    """

    file: BinaryIO
    first: int
    count: int
    width: int = N_MELS + HOP

    def read(self, first: int, last: int) -> np.ndarray:
        """Rows [first, last): float32 (last - first, width), silence where there is no sound."""
        out = silent_rows(last - first, self.width)
        a, b = max(first, self.first), min(last, self.first + self.count)
        if a < b:
            size = self.width * ROW.itemsize
            self.file.seek((a - self.first) * size)
            out[a - first : b - first] = np.frombuffer(self.file.read((b - a) * size), ROW).reshape(-1, self.width)
        return out

    def mel(self, first: int, last: int) -> np.ndarray:
        """The log-mel of rows [first, last): float32 (last - first, 80)."""
        return self.read(first, last)[:, :N_MELS]


def sound_from(path: str | Path, start_s: float, before_s: float, damage: Damage | None = None) -> Iterator[np.ndarray]:
    """A file's sound, float32 (k,) mono at 16 kHz, from `before_s` before `start_s` on (silence before the file).

    raises NoAudioStream, UnreadableMedia as `media.iter_audio`; the latter also if the sound ends before `start_s`
    """
    from .soundtrack import iter_audio

    skip, heard = round((start_s - before_s) * SAMPLE_RATE), 0
    if skip < 0:
        yield np.zeros(-skip, np.float32)
    for block in iter_audio(path, damage=damage):
        samples = block[0]
        heard += len(samples)
        if skip > 0:
            samples, skip = samples[skip:], skip - min(skip, len(samples))
        if len(samples):
            yield samples
    if heard <= start_s * SAMPLE_RATE:
        raise UnreadableMedia(f"{path}: the sound ends at {heard / SAMPLE_RATE:.2f} s, before the clip begins")


def write_sound(
    sound: Iterator[np.ndarray], before: int, count: int, file: BinaryIO, encoder: str = "none"
) -> SoundFile:
    """Compute `count` rows of a stream of sound, block by block, into a file.

    before : rows before the clip's first picture that the stream begins with
    encoder : `audio.speech_encoder`
    Row k of the stream is centred on its sample 160 k; the stream's beginning is taken for silence before it.
    raises as `speech.sound_rows`
    """
    lead = LEAD if encoder == "none" else CONTEXT
    held, at, done, ended = np.zeros(lead * HOP, np.float32), -lead, 0, False  # `at`: row of held[0]
    waiting: list[np.ndarray] = []
    size = 0
    while done < count:
        wanted = (min(done + BLOCK, count) + lead - at) * HOP
        while len(held) + size < wanted and not ended:
            block = next(sound, None)
            ended = block is None
            if block is not None:
                waiting.append(block)
                size += len(block)
        held, waiting, size = np.concatenate([held, *waiting]), [], 0
        if ended and len(held) < wanted:
            held = np.pad(held, (0, wanted - len(held)))
        last = min(done + BLOCK, count)
        rows = sound_rows(held[:wanted], encoder)[done - at : last - at]
        samples = held[(done - at) * HOP : (last - at) * HOP].reshape(-1, HOP)
        file.write(np.concatenate([rows, samples], 1).astype(ROW).tobytes())
        held, at, done = held[(last - lead - at) * HOP :], last - lead, last
    file.flush()
    return SoundFile(file, -before, done, sound_width(encoder) + HOP)
