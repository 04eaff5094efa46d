"""Which picture of the source each frame of the result shows, and what that costs in seconds."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from threading import Lock

import numpy as np

from ..data.media import MediaInfo
from ..errors import AudioTooLong, ConfigError
from ..progress import tqdm
from ..timing import SAMPLE_RATE

POLICIES = ("pingpong", "loop", "cut", "error")
CLOCK_SLACK = 2e-3  # seconds: containers round presentation times to milliseconds
BAR = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}<{remaining}"

Told = Callable[[float], None]  # is told the share that is done, from 0 to 1


def output_order(
    times: np.ndarray,
    source: MediaInfo,
    audio_s: float,
    policy: str,
    start: float = 0.0,
    end: float | None = None,
) -> np.ndarray:
    """Say which source picture each output frame shows.

    Output frame i stands at `i / result_fps` seconds and shows the picture that the source displays so long after
    `start`, so that a variable rate becomes a constant one. A still picture simply stays.

    Args:
        times: `(n,)` seconds of the source's pictures.
        source: the source's rate, the result's, and whether it is a still picture.
        audio_s: seconds of sound.
        policy: see `dub`.
        start, end: seconds of the source between which it is shown; its whole length by default.

    Returns:
        `(frames,)` indices into `times`.

    Raises:
        AudioTooLong: the sound outlasts the video by more than a frame and the policy is `error`.
    """
    fps = source.result_fps
    wanted = max(1, round(Fraction(audio_s).limit_denominator(SAMPLE_RATE) * fps))
    last = max(Fraction(float(times[-1])).limit_denominator(90_000) + 1 / source.fps, Fraction(source.pictures_s))
    if end is not None:
        last = min(last, Fraction(end))
    available = max(1, round((last - Fraction(start)) * fps))
    position = np.arange(wanted)
    if source.is_image:
        position[:] = 0
    elif wanted > available + 1:
        if policy == "error":
            video_s = float(available / fps)
            raise AudioTooLong(f"the sound lasts {audio_s:.2f} s, the video {video_s:.2f} s; use pingpong, loop or cut")
        if policy == "cut":
            position = position[:available]
        elif policy == "loop":
            position %= available
        else:
            period = max(1, 2 * (available - 1))  # the turning points are shown once
            position = np.minimum(position % period, period - position % period)
    position = np.minimum(position, available - 1)
    return picture_at(times, start + position / float(fps))


def picture_at(times: np.ndarray, moment: float | np.ndarray) -> np.ndarray:
    """Index of the picture that is on the screen at a moment in seconds; times `(n,)`."""
    return np.maximum(np.searchsorted(times, moment + CLOCK_SLACK, side="right") - 1, 0)


def checked_stretch(start: float, end: float | None) -> tuple[float, float | None]:
    """`start` and `end` in seconds, infinity as no end at all. ConfigError unless they are a stretch of time."""
    end = None if end == np.inf else end
    if not 0 <= start < (np.inf if end is None else end):
        raise ConfigError(f"from {start:g} s to {end or np.inf:g} s: no stretch of a video; write 0 <= start < end")
    return start, end


class Clock:
    """Adds up the seconds that each stage takes, in whatever threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[stage] += time.perf_counter() - begun


@contextmanager
def told(progress: bool | Told, name: str) -> Iterator[Told]:
    """What is told the share that is done: the caller's own function, or one bar with the time that is left."""
    if callable(progress):
        yield progress
        return
    with tqdm(total=1000, desc=name, bar_format=BAR, disable=not progress) as bar:
        yield lambda share: bar.update(round(1000 * share) - bar.n)
