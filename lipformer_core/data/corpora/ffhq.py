"""FFHQ (Karras et al. 2019): images1024x1024/00000/00000.png … 69000/69999.png, https://github.com/NVlabs/ffhq-dataset.

Its publishers appoint the first 60,000 pictures for training and the other 10,000 for validation. Who is on a picture
is not published: each counts as a person, named by its number.
"""

from pathlib import Path

from ...config import DataSettings
from .layout import IMAGE_ENDINGS, ClipSource, files, name_of, unusable

TRAINING, ALL = 60_000, 70_000
FOLDER = "images1024x1024"


def read(root: Path, settings: DataSettings) -> list[ClipSource]:
    """The pictures of images1024x1024/ where `root` has it, else of `root` itself (thumbnails128x128/, a copy)."""
    top = root / FOLDER if (root / FOLDER).is_dir() else root
    return [_picture(path, root) for path in files(top, IMAGE_ENDINGS)]


def _picture(path: Path, root: Path) -> ClipSource:
    name, number = name_of(path, root), int(path.stem) if path.stem.isdecimal() else ALL
    if number >= ALL:
        return unusable(name, path.stem, f"its name is no number below {ALL}")
    split = "train" if number < TRAINING else "val" if number < (TRAINING + ALL) // 2 else "test"
    return ClipSource(name, f"{number:05d}", split, str(path), still=True)
