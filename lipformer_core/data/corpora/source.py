"""The row that every reader gives for a clip, a picture, or something of the corpus that is not there."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class ClipSource:
    """A clip before preparation: a stretch of a video file, a picture, or a clip number of the synthetic corpus.

    A row with `missing` stands for something that the corpus's annotations or folders promise and that cannot be
    used; it has neither path nor synthetic clip, and preparation reports it as dropped for that reason.
    """

    clip_id: str  # unique without regard to case; ASCII letters, digits, _ and -; at most 80 characters
    person: str  # as the corpus calls him or her, in any script
    split: str  # train, val or test; `splits.BY_TIME`: its frames are divided
    path: str | None = None
    synthetic: tuple[int, int, int] | None = None  # person, clip, frames
    start_s: float = 0.0  # where the clip begins in the file, seconds
    end_s: float | None = None  # and where it ends; None: at the file's end
    crop: tuple[int, int, int, int] | None = None  # left, top, right, bottom in the file's pixels; None: all of it
    still: bool = False  # a picture without sound, for stage 1 alone
    audio_path: str | None = None  # the sound, where it is a file of its own; None: it is in `path`
    missing: str | None = None  # why there is no clip
    foreign: bool = False  # missing, and nothing of the corpus: a file of another kind that lies in its folder

    @property
    def files(self) -> list[str]:
        """Those that it is read from, and that can be read."""
        return [p for p in (self.path, self.audio_path) if p and os.path.isfile(p) and os.access(p, os.R_OK)]

    @property
    def stretch(self) -> list:
        """Which part of its file it is, for comparisons: seconds from and to, and box."""
        return [self.start_s, self.end_s, self.crop and list(self.crop)]
