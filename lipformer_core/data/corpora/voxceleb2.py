"""VoxCeleb2 (Chung et al. 2018): dev/mp4/id00012/21Uxsk56VDQ/00001.mp4 …, and test/ likewise; the folders are the
speaker, the YouTube video and the utterance (https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox2.html).

The sound is also published by itself, as dev/aac/id00012/21Uxsk56VDQ/00001.m4a; where that file is there, it is used.
"""

import re
from pathlib import Path

from ...config import DataSettings
from .layout import ClipSource, files, name_of, unusable
from .splits import split


def read(root: Path, settings: DataSettings) -> list[ClipSource]:
    """The utterances, ordered by path; `root` holds dev/ and test/, or is one of them.

    The official test persons are test and validation is drawn from dev by person. Where there is no test/, test is
    drawn from dev as well.
    """
    sources = [_utterance(path, root) for path in files(root, {".mp4"})]
    if not any(s.split == "test" for s in sources):
        return split(sources)
    dev = iter(split([s for s in sources if s.split != "test"], held_out=("val",)))
    return [s if s.split == "test" else next(dev) for s in sources]


def _utterance(path: Path, root: Path) -> ClipSource:
    name, parts = name_of(path, root), path.absolute().parts
    if len(parts) < 5 or parts[-4] != "mp4" or not re.fullmatch(r"id\d+", parts[-3]):
        return unusable(name, path.stem, "not in a folder mp4/<id>/<video>/")
    # a zip unpacked by itself has mp4/ in a folder named after the zip, such as vox2_test_mp4
    official = re.fullmatch(r"(vox2_)?test(_mp4)?", parts[-5])
    sound = Path(*parts[:-4], "aac", *parts[-3:]).with_suffix(".m4a")
    return ClipSource(
        name, parts[-3], "test" if official else "train", str(path), audio_path=str(sound) if sound.is_file() else None
    )
