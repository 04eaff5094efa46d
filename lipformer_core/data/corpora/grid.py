"""GRID (Cooke et al. 2006, CC BY 4.0): Zenodo record 3625687, a zip a speaker, unpacked to s1/*.mpg … s34/*.mpg.

The older release of the University of Sheffield has the same files in s1/video/mpg_6000/ and, smaller, in
s1/video/mpg_vcd/. What lies beside them (audio_25k/, alignments/, *.align) is not needed: the sound is in the videos.
"""

from pathlib import Path

from ...config import DataSettings
from .layout import VIDEO_ENDINGS, ClipSource, files, name_of, unusable
from .splits import split

BETWEEN = {"video", "mpg_6000", "mpg_vcd"}  # folders that may lie between a speaker's and the files


def read(root: Path, settings: DataSettings) -> list[ClipSource]:
    """The sentences, ordered by path; `root` holds all speakers or is one speaker's folder.

    An utterance that is there twice (both sizes, or a copy in another format) counts once: the .mpg, the larger.
    """
    taken, sources = {}, {}
    videos = files(root, VIDEO_ENDINGS)
    for path in sorted(videos, key=lambda path: path.suffix.lower() != ".mpg"):
        name, person = name_of(path, root), _speaker(path)
        first = taken.setdefault((person, path.stem), path)
        if first is path:
            sources[path] = ClipSource(name, person, "train", str(path))
        else:
            sources[path] = unusable(name, person, f"the same utterance as {first.relative_to(root)}")
    return split([sources[path] for path in videos])


def _speaker(path: Path) -> str:
    return next(name for name in reversed(path.absolute().parts[:-1]) if name not in BETWEEN)
