"""A folder of pictures for stage 1: every picture below it; a first-level sub-folder is a person, else a file is.

Other files in it are rows that say so.
"""

from pathlib import Path

from ...config import DataSettings
from .layout import IMAGE_ENDINGS, files, foreign, name_of
from .source import ClipSource
from .splits import split


def read(root: Path, settings: DataSettings) -> list[ClipSource]:
    """The pictures, ordered by path."""
    return split([_picture(path, root) for path in files(root)])


def _picture(path: Path, root: Path) -> ClipSource:
    if path.suffix.lower() not in IMAGE_ENDINGS:
        return foreign(path, root, "picture")
    first, *below = path.relative_to(root).parts
    return ClipSource(name_of(path, root), first if below else path.stem, "train", str(path), still=True)
