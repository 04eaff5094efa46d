"""The embedded synthetic corpus: as many persons a split as the settings say, one clip each; nothing is on disk."""

from pathlib import Path

from ...config import DataSettings
from .layout import ClipSource

SPLITS = ("train", "val", "test")


def read(root: Path | None, settings: DataSettings) -> list[ClipSource]:
    """The clips that `lipformer_core.data.synthetic` will draw."""
    embedded = settings.synthetic
    sources, person = [], 0
    for split, count in zip(SPLITS, embedded.persons, strict=True):
        frames = embedded.frames[0] if split == "train" else embedded.frames[1]
        for _ in range(count):
            name = f"synthetic{person:05d}"
            sources.append(ClipSource(name, name, split, synthetic=(person, 0, frames)))
            person += 1
    return sources
