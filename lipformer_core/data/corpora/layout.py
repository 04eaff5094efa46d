"""Walking a corpus's folders, and names that are safe as file names."""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from .source import ClipSource

VIDEO_ENDINGS = {".mp4", ".mkv", ".mov", ".avi", ".webm", ".mpg", ".mpeg", ".m4v", ".flv", ".ts"}
IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
LONGEST_ID = 80  # with an ending it still fits the 100 characters of a tar header


def files(root: Path, endings: Iterable[str]) -> list[Path]:
    """All files below `root` with one of the endings (lower case, in any case on disk), ordered by path.

    Hidden files and folders are left out; links to folders are followed, each folder is entered once.
    """
    endings, found, entered = set(endings), [], set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = sorted(name for name in below if not name.startswith(".")) if real not in entered else []
        if real not in entered:
            found += [Path(folder, n) for n in names if not n.startswith(".") and Path(n).suffix.lower() in endings]
        entered.add(real)
    return sorted(found, key=lambda path: path.parts)


def name_of(path: Path, root: Path) -> str:
    """The path below `root` without its ending: the name from which `safe_ids` makes an id."""
    return path.relative_to(root).with_suffix("").as_posix()


def unusable(name: str, person: str, reason: str) -> ClipSource:
    """The row of something that is not there or cannot be used."""
    return ClipSource(name, person, "train", missing=reason)


def safe_ids(sources: list[ClipSource], root: Path | None) -> list[ClipSource]:
    """The same rows with their names turned into ids: safe as file names, unique, and the same wherever `root` lies.

    A name that is already safe stays; where several names become one id, or one is too long, a hash of the name and
    of the file's path below `root` is appended.
    """
    plain = [_plain(source.clip_id) for source in sources]
    counts = Counter(name.casefold() for name in plain)
    named = []
    for source, name in zip(sources, plain, strict=True):
        if counts[name.casefold()] > 1 or len(name) > LONGEST_ID:
            below = os.path.relpath(source.path, root) if source.path and root else ""
            key = unicodedata.normalize("NFC", f"{source.clip_id}\n{Path(below).as_posix()}\n{source.start_s}")
            name = f"{name[: LONGEST_ID - 13]}_{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        named.append(replace(source, clip_id=name))
    return named


def _plain(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name)
    letters = "".join(c for c in letters if not unicodedata.combining(c))  # é is e
    return re.sub(r"[^A-Za-z0-9_-]", "_", letters)
