"""Random access to a video's pictures in bounded memory; opening and decoding in order is in `demux`."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import UnreadableMedia
from .demux import opened, timed_frames
from .pictures import Pictures

if TYPE_CHECKING:
    import av

CACHED_FRAMES = 32  # decoded pictures that a FrameReader keeps,
CACHED_BYTES = 192 * 2**20  # or fewer, where they are large


def frames_held(height: int, width: int) -> int:
    """How many pictures of a size may lie in memory at once: 32, of large ones as many as 192 MB hold, at least 2."""
    return int(np.clip(CACHED_BYTES // (3 * height * width), 2, CACHED_FRAMES))


class FrameReader:
    """Pictures of a video by index, forwards or backwards, with at most 32 of them in memory, fewer if large.

    Going forwards costs one decoding; a step backwards seeks once and keeps the stretch that leads up to the wanted
    picture, so that playing a video backwards decodes each group of pictures a few times, not once a picture.
    """

    def __init__(
        self, path: str | os.PathLike, times: np.ndarray, size: tuple[int, int] | None = None, seekable: bool = True
    ) -> None:
        """Prepare to read.

        Args:
            path: the video.
            times: `(n,)` seconds of all its pictures, as `iter_frames` gave them.
            size: `(width, height)` of all pictures, as `probe` gives them; by default that of the first one asked for.
            seekable: false where the file's clock leaps (`Damage.leaps`): its timestamps do not tell pictures apart.
        """
        self.path = Path(path)
        self.times = np.asarray(times, dtype=np.float64)
        _, first, same = np.unique(self.times, return_index=True, return_inverse=True)
        self._first = first[same]  # of pictures with equal times, which nothing tells apart
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._capacity = CACHED_FRAMES
        self._size = size
        self._convert: Pictures | None = None
        self._decoder: Iterator[tuple[int, av.VideoFrame]] | None = None
        self._pending: tuple[int, av.VideoFrame] | None = None  # decoded, but not yet looked at
        self._next = 0  # index of the picture that the decoder gives next
        self._seekable = seekable

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return picture `index` as `(H, W, 3)` uint8 RGB.

        Raises:
            IndexError: there is no such picture.
            UnreadableMedia: it cannot be decoded (any more).
        """
        if not 0 <= index < len(self.times):
            raise IndexError(f"{self.path}: picture {index} of {len(self.times)}")
        index = int(self._first[index])
        if index not in self._cache:
            if self._decoder is None or not self._next <= index < self._next + 2 * self._capacity:
                backwards = bool(self._cache) and index < min(self._cache)
                self._restart(max(0, index - self._capacity + 1) if backwards else index)
            self._decode_up_to(index)
        self._cache.move_to_end(index)
        return self._cache[index]

    @property
    def resized(self) -> int:
        """How many pictures, of those read, had another size than the rest."""
        return self._convert.resized if self._convert is not None else 0

    def close(self) -> None:
        """Let go of the file."""
        if self._decoder is not None:
            self._decoder.close()
        self._decoder = None
        self._cache.clear()

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _restart(self, index: int) -> None:
        if self._decoder is not None:
            self._decoder.close()
        self._decoder = self._pending = None
        if self._seekable and index:
            self._decoder = self._indexed(float(self.times[index]))
            try:
                self._pending = next(self._decoder, None)
            except UnreadableMedia:
                self._pending = None
            # No timestamps, or an index that leads past the wanted picture: from now on decode from the beginning.
            self._seekable = self._pending is not None and self._pending[0] <= index
        if not (self._seekable and index):
            self._decoder = self._indexed(None)
            self._pending = next(self._decoder, None)
        self._next = self._pending[0] if self._pending is not None else 0

    def _indexed(self, seek: float | None) -> Iterator[tuple[int, av.VideoFrame]]:
        with opened(self.path) as container:
            self._convert = self._convert or Pictures(self._size)
            for time, frame in timed_frames(container, self.path, seek):
                yield int(np.abs(self.times - time).argmin()), frame

    def _decode_up_to(self, index: int) -> None:
        while True:
            found, self._pending = self._pending, None
            found = found or next(self._decoder, None)
            if found is None:
                raise UnreadableMedia(f"{self.path}: picture {index} of {len(self.times)} cannot be decoded any more")
            position, frame = found
            self._next = position + 1
            if position > index - self._capacity:
                picture = self._convert(frame)
                self._capacity = frames_held(*picture.shape[:2])
                self._cache[position] = picture
                while len(self._cache) > self._capacity:
                    self._cache.popitem(last=False)
            if position >= index:
                # Pictures with equal times share an index; the wanted one is then its neighbour.
                self._cache.setdefault(index, self._cache[position])
                return
