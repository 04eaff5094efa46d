"""The row that every reader gives, walking a corpus's folders, and names that are safe as file names."""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

VIDEO_ENDINGS = {
    ".mp4", ".mkv", ".mov", ".avi", ".webm", ".mpg", ".mpeg", ".m4v", ".flv", ".ts", ".mts", ".m2ts", ".m2t", ".3gp",
    ".3g2", ".wmv", ".asf", ".ogv", ".ogm", ".vob", ".mxf", ".f4v", ".divx", ".dv", ".qt", ".rm", ".rmvb", ".mpe",
}  # fmt: skip
IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif"}
LONGEST_ID = 80  # with an ending it still fits the 100 characters of a tar header


@dataclass(frozen=True)
class ClipSource:
    """A clip before preparation: a stretch of a video file, a picture, or a clip number of the synthetic corpus.

    A row with `missing` stands for something that the corpus's annotations or folders promise and that cannot be
    used; it has neither path nor synthetic clip, and preparation reports it as dropped for that reason.
    """

    clip_id: str  # unique without regard to case; ASCII letters, digits, _ and -; at most 80 characters
    person: str  # as the corpus calls him or her, in any script
    split: str  # train, val or test; `splits.BY_TIME`: its frames are divided
    path: str | None = None
    synthetic: tuple[int, int, int] | None = None  # person, clip, frames
    start_s: float = 0.0  # where the clip begins in the file, seconds
    end_s: float | None = None  # and where it ends; None: at the file's end
    crop: tuple[int, int, int, int] | None = None  # left, top, right, bottom in the file's pixels; None: all of it
    still: bool = False  # a picture without sound, for stage 1 alone
    audio_path: str | None = None  # the sound, where it is a file of its own; None: it is in `path`
    missing: str | None = None  # why there is no clip
    foreign: bool = False  # missing, and nothing of the corpus: a file of another kind that lies in its folder

    @property
    def files(self) -> list[str]:
        """Those that it is read from, and that can be read."""
        return [p for p in (self.path, self.audio_path) if p and os.path.isfile(p) and os.access(p, os.R_OK)]

    @property
    def stretch(self) -> list:
        """Which part of its file it is, for comparisons: seconds from and to, and box."""
        return [self.start_s, self.end_s, self.crop and list(self.crop)]


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
