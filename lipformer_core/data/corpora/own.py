"""Anybody's own files: a folder of videos or of pictures, or one video of one person.

In a folder a first-level sub-folder is a person, else a file is. Files of another kind in it are rows that say so.
"""

from pathlib import Path

from ...config import DataSettings
from .layout import IMAGE_ENDINGS, VIDEO_ENDINGS, ClipSource, files, name_of
from .splits import BY_TIME, split


def videos(root: Path, settings: DataSettings) -> list[ClipSource]:
    """Every video below a folder, ordered by path."""
    return split(_every_file(root, VIDEO_ENDINGS, "video"))


def pictures(root: Path, settings: DataSettings) -> list[ClipSource]:
    """Every picture below a folder, ordered by path; for stage 1."""
    return split(_every_file(root, IMAGE_ENDINGS, "picture", still=True))


def person(path: Path, settings: DataSettings) -> list[ClipSource]:
    """One video, split by time: what comes first trains, what comes last is held out.

    Preparation divides its usable frames by `splits.by_time`.
    """
    return [ClipSource(path.stem, path.stem, BY_TIME, str(path))]


def _every_file(root: Path, endings: set[str], what: str, still: bool = False) -> list[ClipSource]:
    rows = []
    for path in files(root):
        first, *below = path.relative_to(root).parts
        if path.suffix.lower() in endings:
            rows.append(ClipSource(name_of(path, root), first if below else path.stem, "train", str(path), still=still))
        else:
            name, reason = path.relative_to(root).as_posix(), f"no {what} by its ending: {path.suffix or 'none'}"
            rows.append(ClipSource(name, path.stem, "train", missing=reason, foreign=True))
    return rows
