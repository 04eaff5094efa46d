"""Readers of corpora: each lists the clips of one layout as ClipSources, in a fixed order.

A reader is a function, most in a file of its own; the table below names them. Identities and official splits are kept
where a corpus has them; everything else is split by person (see `splits`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...config import DataSettings
from ...errors import DataError
from . import celebahq, clip_list, ffhq, grid, hdtf, lrs2, mead, own, splits, synthetic, voxceleb2
from .layout import IMAGE_ENDINGS, VIDEO_ENDINGS, ClipSource, printable, safe_ids

__all__ = [
    "CORPORA",
    "IMAGE_ENDINGS",
    "VIDEO_ENDINGS",
    "ClipSource",
    "Corpus",
    "list_sources",
    "printable",
    "split_rule",
]

CSV_FILE, VIDEO_FILE = "a CSV file", "a video file"


@dataclass(frozen=True)
class Corpus:
    """A corpus that can be read; as a string it is the line that says what its source is."""

    source: str  # what SOURCE is, in one line
    read: Callable[[Path | None, DataSettings], list[ClipSource]]  # names need not be safe or unique yet
    rule: str = ""  # how the splits were made, where the corpus sets them itself
    still: bool = False  # pictures, for stage 1 alone
    needs: str = "a folder"  # what SOURCE has to be: this, CSV_FILE, VIDEO_FILE, or nothing

    def __str__(self) -> str:
        return self.source


CORPORA: dict[str, Corpus] = {
    "synthetic": Corpus("none: the package draws it", synthetic.read, "by person", needs=""),
    "folder": Corpus("a folder of videos, a sub-folder a person", own.videos),
    "list": Corpus(
        "a CSV file: videos and pictures in its column `file`; optional columns person, split, start_s, end_s",
        clip_list.read,
        "as the list says",
        needs=CSV_FILE,
    ),
    "person": Corpus(
        "a video of one person, of which the end is held out",
        own.person,
        "by time: the first usable frames train, the last are test, with gaps between",
        needs=VIDEO_FILE,
    ),
    "grid": Corpus("GRID: the folder of its speakers (s1/*.mpg …), or one speaker's", grid.read),
    "hdtf": Corpus(
        "HDTF: a folder with its annotations (HDTF_dataset/*.txt) and the full videos, or with videos already cut",
        hdtf.read,
        "by person; the RD videos name nobody, so each counts as a person and all are in training",
    ),
    "lrs2": Corpus(
        "LRS2: the folder of mvlrs_v1/ (main/, pretrain/), with train.txt, val.txt, test.txt and pretrain.txt",
        lrs2.read,
        "official lists; a person is a video's folder",
    ),
    "voxceleb2": Corpus(
        "VoxCeleb2: the folder of dev/ and test/, each with mp4/<id>/<video>/*.mp4",
        voxceleb2.read,
        "official test persons; validation from dev, by person if it has 5 or more",
    ),
    "mead": Corpus("MEAD: the folder of its actors (M003/video/front/…, M003/audio/…)", mead.read),
    "ffhq": Corpus(
        "FFHQ: the folder of images1024x1024/, or any of its folders of numbered pictures",
        ffhq.read,
        "official: pictures 0-59999 train; of the rest, its validation set, the first half val, the second test",
        still=True,
    ),
    "celebahq": Corpus(
        "CelebA-HQ: a folder of numbered pictures; by person with CelebA-HQ-to-CelebA-mapping.txt and "
        "identity_CelebA.txt in it",
        celebahq.read,
        "official: CelebA's partition",
        still=True,
    ),
    "images": Corpus("a folder of pictures, a sub-folder a person", own.pictures, still=True),
}


def list_sources(corpus: str, source: str | Path | None, settings: DataSettings) -> list[ClipSource]:
    """All clips of a corpus in a fixed order, and a row with `missing` for each that is promised and not there.

    corpus : a name of CORPORA
    source : its folder, the CSV file of "list", or the video of "person" (unused for "synthetic")
    settings : `val_persons` and `test_persons`, where given, decide about the splits of any corpus
    raises DataError for an unknown corpus, a missing source, one that holds no clip in the corpus's layout, or a named
        person who is not there
    """
    if corpus not in CORPORA:
        raise DataError(f"corpus {corpus!r} is none of {', '.join(map(repr, CORPORA))}")
    entry = CORPORA[corpus]
    if not entry.needs:
        return splits.named(entry.read(None, settings), settings)
    is_file = entry.needs in (CSV_FILE, VIDEO_FILE)
    there = source is not None and (Path(source).is_file() if is_file else Path(source).is_dir())
    if not there:
        raise DataError(f"corpus {corpus!r} needs {entry.needs} as its source; {source} is none. Expected {entry}")
    root = Path(source)
    sources = safe_ids(entry.read(root, settings), root if root.is_dir() else root.parent)
    if all(s.missing for s in sources):
        endings = IMAGE_ENDINGS if entry.still else VIDEO_ENDINGS
        kind = "pictures" if entry.still else "video files"
        why = "; ".join(f"{s.clip_id}: {s.missing}" for s in sources[:3])
        found = f"{len(sources)} not usable ({why} …)" if sources else f"no {kind} ({', '.join(sorted(endings))}) in it"
        raise DataError(f"{root}: {found}. Corpus {corpus!r} expects {entry}")
    return splits.named(sources, settings)


def split_rule(corpus: str, sources: list[ClipSource], settings: DataSettings) -> str:
    """How the splits were made, in words, for the manifest."""
    if settings.val_persons or settings.test_persons:
        return "by person, named in the settings"
    own = CORPORA[corpus].rule
    words = own if own and splits.split(sources) != sources else splits.rule(sources)
    if corpus == "synthetic":
        words = own
    shared = splits.shared_persons(sources)
    return words if not shared or words.startswith("by clip") else f"{words}; {shared} persons are in several splits"
