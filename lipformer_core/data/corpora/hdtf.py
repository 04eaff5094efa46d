"""HDTF (Zhang et al. 2021): the annotations of https://github.com/MRzzm/HDTF, and the videos that the user has.

For each subset (RD, WDA, WRA) of HDTF_dataset/ there are, words separated by spaces:
    WDA_annotion_time.txt   "AmyKlobuchar1.mp4 00:35-02:45 03:25-04:00": a video and the ranges of its clips
    WDA_crop_wh.txt         "AmyKlobuchar1_1.mp4 521 1046 0 1046": a clip; left, width, top, height in pixels
    WDA_resolution.txt      "AmyKlobuchar1.mp4 1080": the height of the video to which those pixels belong
    WDA_video_url.txt       "AmyKlobuchar1 https://www.youtube.com/watch?v=…"
A video is named AmyKlobuchar1 or, by the repository's download.py, WDA_AmyKlobuchar1; a clip that is already cut,
AmyKlobuchar1_0 or WDA_AmyKlobuchar1_000. *_crop_ratio.txt is for those who detect faces first, as preparation does
anyway, and is not used.
"""

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlparse

from ...config import DataSettings
from ...errors import DataError, MediaError
from .layout import VIDEO_ENDINGS, ClipSource, files, name_of, unusable
from .splits import FEWEST_PERSONS, split

TIMES = "_annotion_time.txt"  # as its publishers spell it
TOLERANCE = 2  # pixels by which a published window may stick out of the picture


def read(root: Path, settings: DataSettings) -> list[ClipSource]:
    """The clips, in the annotations' order; without annotations, the cut videos by path.

    A range without a published crop is a missing row; download.py leaves it out as well: hands or the background move.
    A crop is scaled to the height that the video has; where it then sticks out of the picture (MazieHirono1), the clip
    has none and the whole picture is searched. A clip that is cut already is taken as it is. Two names of one YouTube
    video are one person.

    raises DataError for a crop or resolution file that is not as published
    """
    videos = files(root, VIDEO_ENDINGS)
    lists = {path.name.removesuffix(TIMES): path for path in files(root, {".txt"}) if path.name.endswith(TIMES)}
    if not lists:
        return _split([_cut(path, root) for path in videos])
    stems: dict[str, Path] = {}
    for path in videos:
        stems.setdefault(path.stem, path)
    used: set[Path] = set()
    rows = [row for subset, path in lists.items() for row in _annotated(subset, path, stems, used)]
    same = _same_person(lists)
    rows = [replace(row, person=same.get(row.person, row.person)) for row in rows]
    for path in videos:
        if path not in used:
            rows.append(unusable(name_of(path, root), _person(path.stem), f"no row of *{TIMES} names it"))
    return _split(rows)


def _annotated(subset: str, times: Path, stems: dict[str, Path], used: set[Path]) -> list[ClipSource]:
    crops = _numbers(times.with_name(f"{subset}_crop_wh.txt"), 4)
    heights = _numbers(times.with_name(f"{subset}_resolution.txt"), 1)
    rows = []
    for video, ranges in _table(times).items():
        full = stems.get(f"{subset}_{video}") or stems.get(video)
        size = _size(full) if full and crops else None
        for number, text in enumerate(ranges):
            name, person = f"{subset}_{video}_{number:03d}", _person(video)
            names = (name, f"{video}_{number}", f"{subset}_{video}_{number}", f"{video}_{number:03d}")
            cut = next((stems[n] for n in names if n in stems), None)
            used |= {path for path in (full, cut) if path}
            window = crops.get(f"{video}_{number}")
            if crops and window is None:
                rows.append(unusable(name, person, f"its publishers give no crop in {subset}_crop_wh.txt"))
            elif (span := _span(text)) is None:
                rows.append(unusable(name, person, f"{times.name} gives it the range {text}"))
            elif full:
                crop = _crop(window, heights.get(video, [0])[0], size) if window else None
                rows.append(ClipSource(name, person, "train", str(full), start_s=span[0], end_s=span[1], crop=crop))
            elif cut:
                rows.append(ClipSource(name, person, "train", str(cut)))
            else:
                rows.append(unusable(name, person, f"neither {video} nor {video}_{number} is among the videos"))
    return rows


def _cut(path: Path, root: Path) -> ClipSource:
    stem = path.stem if re.search(r"[^\d_]", path.stem) else path.parent.name
    return ClipSource(name_of(path, root), _person(re.sub(r"_\d+$", "", stem)), "train", str(path))


def _person(video: str) -> str:
    """WDA_AmyKlobuchar1 is AmyKlobuchar; the RD videos are numbered and name nobody, so each is its own person."""
    name = re.sub(r"^(RD|WDA|WRA)_", "", video)
    return name if _nobody(name) else re.sub(r"\d+$", "", name) or name


def _nobody(name: str) -> bool:
    return re.fullmatch(r"Radio\d+", name) is not None


def _split(rows: list[ClipSource]) -> list[ClipSource]:
    """By person; videos that name nobody are in training, where a person's second name does no harm."""
    named = [row for row in rows if not _nobody(row.person)]
    if len({row.person for row in named if not row.missing}) < FEWEST_PERSONS:
        return split(rows)
    placed = iter(split(named))
    return [replace(row, split="train") if _nobody(row.person) else next(placed) for row in rows]


def _same_person(lists: dict[str, Path]) -> dict[str, str]:
    """Persons by the first name under which their video is listed, for those whose video is listed twice."""
    first: dict[str, str] = {}
    same: dict[str, str] = {}
    for subset, path in lists.items():
        for video, words in sorted(_table(path.with_name(f"{subset}_video_url.txt")).items()):
            for video_id in parse_qs(urlparse(words[0] if words else "").query).get("v", []):
                person = same.get(_person(video), _person(video))
                if (other := first.setdefault(video_id, person)) != person:
                    same[_person(video)] = other
    return same


def _table(path: Path) -> dict[str, list[str]]:
    if not path.is_file():
        return {}
    rows = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    return {row[0].removesuffix(".mp4"): row[1:] for row in rows}


def _numbers(path: Path, count: int) -> dict[str, list[int]]:
    table = _table(path)
    for name, words in table.items():
        if len(words) != count or not all(word.isdecimal() for word in words):
            raise DataError(f"{path}: {count} numbers have to follow {name}, not {' '.join(words) or 'nothing'}")
    return {name: [int(word) for word in words] for name, words in table.items()}


def _span(text: str) -> tuple[float, float] | None:
    """A range such as 00:35-02:45 in seconds; None where it is none."""
    match = re.fullmatch(r"((?:\d+:)*\d+)-((?:\d+:)*\d+)", text)
    if match is None:
        return None
    start, end = (sum(float(n) * 60**k for k, n in enumerate(reversed(t.split(":")))) for t in match.groups())
    return (start, end) if start < end else None


def _size(path: Path) -> tuple[int, int] | None:
    from ..media.demux import probe

    try:
        info = probe(path)
    except MediaError:
        return None  # preparation will say why
    return info.width, info.height


def _crop(window: list[int], published: int, size: tuple[int, int] | None) -> tuple[int, int, int, int] | None:
    """The window, given for a height of `published` (0: unknown), in a picture of `size`; None where it fits none."""
    left, across, top, down = window
    box = (left, top, left + across, top + down)
    if size is None:
        return box
    scale = size[1] / published if published else 1.0
    left, top, right, bottom = (round(scale * edge) for edge in box)
    if right > size[0] + TOLERANCE or bottom > size[1] + TOLERANCE:
        return None
    return left, top, min(right, size[0]), min(bottom, size[1])
