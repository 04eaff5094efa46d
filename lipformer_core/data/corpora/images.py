"""A folder of pictures for stage 1: every picture below it; a first-level sub-folder is a person, else a file is.

Other files in it are rows that say so.
"""

from pathlib import Path

from ...config import DataSettings
from .layout import IMAGE_ENDINGS, every_file
from .source import ClipSource
from .splits import split


def read(root: Path, settings: DataSettings) -> list[ClipSource]:
    """The pictures, ordered by path."""
    return split(every_file(root, IMAGE_ENDINGS, "picture", still=True))
