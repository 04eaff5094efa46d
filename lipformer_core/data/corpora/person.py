"""One video of one person, split by time: what comes first trains, what comes last is held out."""

from pathlib import Path

from ...config import DataSettings
from .source import ClipSource
from .splits import BY_TIME


def read(path: Path, settings: DataSettings) -> list[ClipSource]:
    """The video `path`; preparation divides its usable frames by `splits.by_time`."""
    return [ClipSource(path.stem, path.stem, BY_TIME, str(path))]
