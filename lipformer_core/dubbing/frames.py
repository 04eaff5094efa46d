"""The frames of a dubbing, made in stages that work at the same time: read and crop, generate, composite.

Each stage is a thread that is a step or two ahead of the next, so order is kept and memory is bounded. What a frame
shows depends on its number alone, and not on what was made before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch

from ..data.audio import mel_windows
from ..data.faces.alignment import warp_crop
from ..data.faces.tracking import FaceTrack
from ..data.media import FrameReader
from ..data.prepared.prefetch import prefetched
from ..speaker import Speaker
from .compositing import lower_face_mask, paste, swayed, visible_mark
from .timeline import Clock


class Frame(NamedTuple):
    """A frame of the result on its way."""

    number: int  # in the result
    index: int  # of the source picture that it shows
    picture: np.ndarray  # (H, W, 3) uint8: the source's, then the result's
    crop: np.ndarray | None  # (S, S, 3) uint8, cut out of the source; None where no face is known
    generated: np.ndarray | None = None  # (S, S, 3) uint8


@dataclass(frozen=True)
class Frames:
    """Makes the frames of a dubbing from what is known of its source and its sound.

    `order` `(frames,)`: the source picture of each frame. For each source picture: `track`, `transforms` `(n, 2, 3)` to
    crop pixels, `outline` `(n, 68, 2)` in them; `lowest_chin` is a row there. `rows`: the sound as the model hears it,
    less `mean`. `rate`: frames/s of the result. `clock` is told what each stage takes; the stages overlap.
    """

    speaker: Speaker
    reader: FrameReader
    order: np.ndarray
    track: FaceTrack
    transforms: np.ndarray
    outline: np.ndarray
    lowest_chin: float
    rows: np.ndarray
    mean: np.ndarray | float
    rate: float
    mark: bool
    sway: bool
    clock: Clock

    def made(self, parts: Iterable[range]) -> Iterator[Frame]:
        """The frames of some parts of the result, in order; a part is generated at once. To be closed."""
        return prefetched(self._composite, _each(self._spoken(prefetched(self._read, parts, ahead=1))))

    def _spoken(self, read: Iterator[list[Frame]]) -> Iterator[list[Frame]]:
        """The frames with their faces generated: on a CPU in two threads, each with half of its cores.

        With all cores for one thread each core waits for the slowest, and other stages keep them busy.
        """
        threads = generating(self.speaker.device)
        if threads == 1:
            yield from prefetched(self._generate, read, ahead=1)
            return
        with _cores.shared(threads) as each:

            def generate(frames: list[Frame]) -> list[Frame]:
                torch.set_num_threads(each)  # of this thread, and of those that begin later
                return self._generate(frames)

            with closing(prefetched(generate, read, threads=threads)) as made:
                yield from made

    def _read(self, part: range) -> list[Frame]:
        indices = self.order[part.start : part.stop]
        with self.clock("decoding"):
            pictures = [self.reader[i] for i in indices]
        with self.clock("cropping"):
            return [Frame(*of, self._crop(*of[1:])) for of in zip(part, indices, pictures, strict=True)]

    def _crop(self, index: int, picture: np.ndarray) -> np.ndarray | None:
        return warp_crop(picture, self.transforms[index], self._size) if self.track.valid[index] else None

    def _generate(self, frames: list[Frame]) -> list[Frame]:
        with self.clock("model"):
            faces = [frame for frame in frames if frame.crop is not None]
            if not faces:
                return frames
            moments = np.array([frame.number for frame in faces]) / self.rate
            windows = mel_windows(self.rows, moments, self.speaker.model.config.audio.window) - self.mean
            crops = np.stack([frame.crop for frame in faces])
            new = iter(self.speaker.dub(crops, [frame.index for frame in faces], windows))
            return [frame if frame.crop is None else frame._replace(generated=next(new)) for frame in frames]

    def _composite(self, frame: Frame) -> Frame:
        with self.clock("compositing"):
            picture, index = frame.picture, frame.index
            if frame.generated is not None:
                mask = lower_face_mask(self._size, self.outline[index], self.lowest_chin)
                picture = paste(picture, frame.generated, self.transforms[index], mask, frame.crop)
            picture = swayed(picture, frame.number / self.rate) if self.sway else picture
            return frame._replace(picture=visible_mark(picture) if self.mark else picture)

    @property
    def _size(self) -> int:
        return self.speaker.model.config.data.size


def generating(device: torch.device) -> int:
    """Threads in which faces are generated."""
    return 2 if device.type == "cpu" and _cores.number() > 1 else 1


class _Cores:
    """How many threads torch has here, while dubbings, also several at the same time, give their threads fewer."""

    def __init__(self) -> None:
        self._lock, self._sharing, self._before = Lock(), 0, 0

    def number(self) -> int:
        """As it was before anybody shared them."""
        return self._before or torch.get_num_threads()

    @contextmanager
    def shared(self, threads: int) -> Iterator[int]:
        """Torch threads for each of so many threads; when the last dubbing is through all is as it was."""
        with self._lock:
            self._before, self._sharing = self.number(), self._sharing + 1
        try:
            yield max(1, self._before // threads)
        finally:
            with self._lock:
                self._sharing -= 1
                if not self._sharing:
                    torch.set_num_threads(self._before)
                    self._before = 0


_cores = _Cores()


def _each(parts: Iterator[list[Frame]]) -> Iterator[Frame]:
    with closing(parts):
        for frames in parts:
            yield from frames
            del frames  # they may be large, and the next ones come before the name is used again
