"""A list of clips and pictures wherever they lie: a CSV with the column `file` (a path, from the CSV's folder on, or
absolute) and, each if wanted, `person`, `split` (train, val or test), `start_s` and `end_s` (seconds of a video).

A path that does not exist there may begin in the folder above: a list that lies in the folder that it lists. Without a
person a file is one. Splits count only where every usable row has one. `data.list_rows` takes some of the rows by
another column; other columns are not looked at.
"""

import csv
import math
import re
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from ...config import DataSettings
from ...errors import ConfigError, DataError
from .layout import IMAGE_ENDINGS, VIDEO_ENDINGS, ClipSource, name_of, unusable
from .splits import HELD_OUT, split

SPLITS = {"train", *HELD_OUT}


def read(path: Path, settings: DataSettings) -> list[ClipSource]:
    """The rows of the CSV `path`, ordered by name; a row that cannot be used is missing, with its reason.

    raises DataError if `path` is no CSV, lacks the column `file`, or has no rows; ConfigError if `list_rows` is no
        COLUMN=PATTERN of it
    """
    rows = _chosen(read_rows(path, "file"), settings.list_rows, path)
    sources = _numbered(sorted((_clip(row, path.parent) for row in rows), key=_place))
    if not all(s.split in SPLITS for s in sources if not s.missing):
        return split(sources)
    return [s if s.split in SPLITS else replace(s, split="train") for s in sources]


def read_rows(path: Path, *needed: str) -> list[dict[str, str]]:
    """The rows of a CSV in UTF-8, stripped. DataError if it is none, lacks a `needed` column, or has no rows."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, restval="", strict=True)
            columns = [name.strip() for name in table.fieldnames or []]
            table.fieldnames = columns
            rows = [{k: v.strip() for k, v in row.items() if k is not None} for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a CSV in UTF-8 ({error})") from error
    if absent := [name for name in needed if name not in columns]:
        raise DataError(f"{path}: no column `{absent[0]}`; its first line names {', '.join(columns) or 'none'}")
    if not rows:
        raise DataError(f"{path}: lists no files")
    return rows


def _chosen(rows: list[dict[str, str]], where: str, path: Path) -> list[dict[str, str]]:
    """The rows in whose column a pattern is found; all of them where none is asked for."""
    if not where:
        return rows
    column, equals, pattern = where.partition("=")
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"data.list_rows: {pattern!r} is no regular expression ({error})") from error
    if not equals or column not in rows[0]:
        raise ConfigError(
            f"data.list_rows: {where!r} is no COLUMN=PATTERN with one of the columns {', '.join(rows[0])}"
        )
    chosen = [row for row in rows if wanted.search(row[column])]
    if not chosen:
        raise DataError(f"{path}: no row whose {column} matches {pattern!r}")
    return chosen


def _clip(row: dict[str, str], folder: Path) -> ClipSource:
    """The row's clip, its split as it stands there."""
    path, given = folder / row["file"], row.get("split", "")
    if not path.exists() and (folder.parent / row["file"]).exists():
        path = folder.parent / row["file"]
    inside = path.is_relative_to(folder)
    person, ending = row.get("person") or Path(row["file"]).stem or "unnamed", path.suffix.lower()

    def missing(reason: str) -> ClipSource:
        name = path.relative_to(folder).as_posix() if inside else path.name
        return replace(unusable(name, person, reason), split=given)

    if ending not in VIDEO_ENDINGS | IMAGE_ENDINGS:
        return missing(f"neither a video nor a picture by its ending: {row['file'] or 'no file named'}")
    if not path.is_file():
        return missing(f"no such file: {row['file']}")
    still = ending in IMAGE_ENDINGS
    try:
        start, end = float(row.get("start_s") or 0), float(row.get("end_s") or math.inf)
    except ValueError:
        start = end = math.nan
    if not still and not 0 <= start < end:
        return missing(f"no stretch of a video in seconds: start_s {row.get('start_s')!r}, end_s {row.get('end_s')!r}")
    name = name_of(path, folder) if inside else path.stem
    if still:
        return ClipSource(name, person, given, str(path), still=True)
    return ClipSource(name, person, given, str(path), start_s=start, end_s=end if math.isfinite(end) else None)


def _place(source: ClipSource) -> tuple:
    return source.clip_id, source.start_s, source.end_s or math.inf, source.path or ""


def _numbered(sources: list[ClipSource]) -> list[ClipSource]:
    """Where several rows have one name, they are numbered; what is listed twice is used once."""
    numbered = []
    for name, group in groupby(sources, key=lambda source: source.clip_id):
        same, seen = list(group), set()
        for number, source in enumerate(same):
            named = f"{name}_{number:03d}" if len(same) > 1 else name
            stretch = (source.path, source.start_s, source.end_s)
            if source.path and stretch in seen:
                source = replace(source, path=None, missing="listed more than once")
            seen.add(stretch)
            numbered.append(replace(source, clip_id=named))
    return numbered
