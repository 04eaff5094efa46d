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

VIDEO_ENDINGS = {
    ".mp4", ".mkv", ".mov", ".avi", ".webm", ".mpg", ".mpeg", ".m4v", ".flv", ".ts", ".mts", ".m2ts", ".m2t", ".3gp",
    ".3g2", ".wmv", ".asf", ".ogv", ".ogm", ".vob", ".mxf", ".f4v", ".divx", ".dv", ".qt", ".rm", ".rmvb", ".mpe",
}  # fmt: skip
IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif"}
LONGEST_ID = 80  # with an ending it still fits the 100 characters of a tar header


def files(root: Path, endings: Iterable[str] | None = None) -> list[Path]:
    """All files below `root` with one of the endings (lower case, in any case on disk; None: any), ordered by path.

    Hidden files and folders are left out; links to folders are followed, each folder is entered once.
    """
    endings, found, entered = None if endings is None else set(endings), [], set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = sorted(name for name in below if not name.startswith(".")) if real not in entered else []
        if real not in entered:
            seen = [Path(folder, n) for n in names if not n.startswith(".")]
            found += [path for path in seen if endings is None or path.suffix.lower() in endings]
        entered.add(real)
    return sorted(found, key=lambda path: path.parts)


def name_of(path: Path, root: Path) -> str:
    """The path below `root` without its ending: the name from which `safe_ids` makes an id."""
    return path.relative_to(root).with_suffix("").as_posix()


def unusable(name: str, person: str, reason: str) -> ClipSource:
    """The row of something that is not there or cannot be used."""
    return ClipSource(name, person, "train", missing=reason)


def foreign(path: Path, root: Path, what: str) -> ClipSource:
    """The row of a file that is no `what` ("video", "picture") by its ending."""
    reason = f"no {what} by its ending: {path.suffix or 'none'}"
    return ClipSource(path.relative_to(root).as_posix(), path.stem, "train", missing=reason, foreign=True)


def every_file(root: Path, endings: set[str], what: str, still: bool = False) -> list[ClipSource]:
    """A row of every file below `root`, ordered by path; a first-level sub-folder is a person, else a file is.

    what : "video" or "picture", which files with these endings are; the others are `foreign`
    """
    rows = []
    for path in files(root):
        first, *below = path.relative_to(root).parts
        person = first if below else path.stem
        made = ClipSource(name_of(path, root), person, "train", str(path), still=still)
        rows.append(made if path.suffix.lower() in endings else foreign(path, root, what))
    return rows


def printable(text: str) -> str:
    """Text that any file can hold: bytes of a file's name that are no UTF-8 are written out, as `\\xe9`."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def safe_ids(sources: list[ClipSource], root: Path | None) -> list[ClipSource]:
    """The same rows with their names turned into ids: safe as file names, unique, and the same wherever `root` lies.

    A name that is already safe stays; where several names become one id, or one is too long, a hash of the name and
    of the file's path below `root` is appended. Persons and reasons become printable.
    """
    plain = [_plain(source.clip_id) for source in sources]
    counts = Counter(name.casefold() for name in plain)
    named = []
    for source, name in zip(sources, plain, strict=True):
        if counts[name.casefold()] > 1 or len(name) > LONGEST_ID:
            below = os.path.relpath(source.path, root) if source.path and root else ""
            key = unicodedata.normalize("NFC", f"{source.clip_id}\n{Path(below).as_posix()}\n{source.start_s}")
            name = f"{name[: LONGEST_ID - 13]}_{hashlib.sha256(os.fsencode(key)).hexdigest()[:12]}"
        missing = source.missing and printable(source.missing)
        named.append(replace(source, clip_id=name, person=printable(source.person), missing=missing))
    return named


def _plain(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name)
    letters = "".join(c for c in letters if not unicodedata.combining(c))  # é is e
    return re.sub(r"[^A-Za-z0-9_-]", "_", letters)
