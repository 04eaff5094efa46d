"""Anybody's own videos: every video file below a folder; a first-level sub-folder is a person, else a file is.

Other files in it are rows that say so.
"""

from pathlib import Path

from ...config import DataSettings
from .layout import VIDEO_ENDINGS, every_file
from .source import ClipSource
from .splits import split


def read(root: Path, settings: DataSettings) -> list[ClipSource]:
    """The videos, ordered by path."""
    return split(every_file(root, VIDEO_ENDINGS, "video"))
