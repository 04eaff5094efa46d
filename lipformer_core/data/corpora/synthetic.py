"""The embedded synthetic corpus: as many persons a split as the settings say, one clip each; nothing is on disk."""

from pathlib import Path

from ...config import Config
from .source import ClipSource


def read(root: Path | None, config: Config) -> list[ClipSource]:
    """The clips that `lipformer_core.data.synthetic` will draw."""
    counts = {"train": config.synthetic_train, "val": config.synthetic_val, "test": config.synthetic_test}
    sources, person = [], 0
    for split, count in counts.items():
        frames = config.synthetic_frames if split == "train" else config.synthetic_test_frames
        for _ in range(count):
            name = f"synthetic{person:05d}"
            sources.append(ClipSource(name, name, split, synthetic=(person, 0, frames)))
            person += 1
    return sources
