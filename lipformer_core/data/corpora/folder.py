"""Anybody's own videos: every video file below a folder; a first-level sub-folder is a person, else a file is.

Other files in it are rows that say so.
"""

from pathlib import Path

from ...config import DataSettings
from .layout import VIDEO_ENDINGS, files, foreign, name_of
from .source import ClipSource
from .splits import split


def read(root: Path, settings: DataSettings) -> list[ClipSource]:
    """The videos, ordered by path."""
    return split([_clip(path, root) for path in files(root)])


def _clip(path: Path, root: Path) -> ClipSource:
    if path.suffix.lower() not in VIDEO_ENDINGS:
        return foreign(path, root, "video")
    first, *below = path.relative_to(root).parts
    return ClipSource(name_of(path, root), first if below else path.stem, "train", str(path))
