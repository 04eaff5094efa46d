"""LRS2 (BBC; Afouras et al. 2018, https://www.robots.ox.ac.uk/~vgg/data/lip_reading/lrs2.html):
mvlrs_v1/main/5535415699068794046/00001.mp4 with its words in 00001.txt, mvlrs_v1/pretrain/ likewise, and the lists
train.txt, val.txt, test.txt (of main) and pretrain.txt with a line "5535415699068794046/00001" a clip; what else is
on a line, such as the NF of test.txt, is not used.

Who speaks is not published. A folder is a video of a programme; the field lets it stand for the person, and so do we.
"""

from dataclasses import replace
from pathlib import Path

from ...config import DataSettings
from .layout import ClipSource, files, name_of, unusable
from .splits import split

PARTS = {"train": "main", "val": "main", "test": "main", "pretrain": "pretrain"}  # of mvlrs_v1, by list


def read(root: Path, settings: DataSettings) -> list[ClipSource]:
    """The clips, ordered by path; `root` is mvlrs_v1 or its parent, and the lists lie in either.

    With the lists their splits are kept, pretrain/ is training, and a clip in no list is not used; without any list
    the split is by folder. A list whose whole part (main/ or pretrain/) is absent is one missing row, not thousands.
    """
    base = root / "mvlrs_v1" if (root / "mvlrs_v1").is_dir() else root
    clips = {}
    for path in files(base, {".mp4"}):
        part, *below = path.relative_to(base).parts
        person = below[0] if below else path.stem
        usable = part in ("main", "pretrain") and len(below) == 2
        clips[name_of(path, base)] = (
            ClipSource(name_of(path, base), person, "train", str(path))
            if usable
            else unusable(name_of(path, base), person, "not in main/<programme>/ or pretrain/<programme>/")
        )
    lists = {name: path for name in PARTS for at in (base, root) if (path := at / f"{name}.txt").is_file()}
    if not any(name in lists for name in ("train", "val", "test")):
        return split(list(clips.values()))
    listed = {}
    for name, path in lists.items():
        listed |= _listed(path, base, PARTS[name], "train" if name == "pretrain" else name)
    rows = [_placed(clip, listed) for clip in clips.values()]
    rows += [row for name, row in listed.items() if name not in clips]
    return sorted(rows, key=lambda row: row.clip_id)


def _listed(path: Path, base: Path, part: str, split: str) -> dict[str, ClipSource]:
    """A missing row, with its split, for every name of a list."""
    names = [words[0] for line in path.read_text(encoding="utf-8").splitlines() if (words := line.split())]
    if not (base / part).is_dir():
        return {path.stem: unusable(path.stem, part, f"{path.name} lists {len(names)} clips; there is no {part}/")}
    rows = {}
    for name in names:
        row = unusable(f"{part}/{name}", name.split("/")[0], f"{path.name} lists it; there is no {part}/{name}.mp4")
        rows[row.clip_id] = replace(row, split=split)
    return rows


def _placed(clip: ClipSource, listed: dict[str, ClipSource]) -> ClipSource:
    if clip.missing:
        return clip
    if clip.clip_id in listed:
        return replace(clip, split=listed[clip.clip_id].split)
    if clip.clip_id.startswith("pretrain/"):
        return clip
    return replace(clip, path=None, missing="in none of train.txt, val.txt and test.txt")
