"""CelebA-HQ (Karras et al. 2018) as a folder of 30,000 pictures numbered from 0: CelebA-HQ-img/0.jpg … 29999.jpg of
CelebAMask-HQ (https://github.com/switchablenorms/CelebAMask-HQ), or 00000.png … elsewhere.

CelebA-HQ-to-CelebA-mapping.txt (of CelebAMask-HQ: a heading, then "idx orig_idx orig_file") leads to CelebA's files,
whose identity_CelebA.txt ("000001.jpg 2880", given out on request) says who is on a picture and whose
list_eval_partition.txt ("000001.jpg 0", with 1 for validation and 2 for test) gives the official splits.
"""

import re
from pathlib import Path

from ...config import DataSettings
from ...errors import DataError
from .layout import IMAGE_ENDINGS, ClipSource, files, name_of, unusable
from .splits import split

MAPPING, IDENTITY, PARTITION = "CelebA-HQ-to-CelebA-mapping.txt", "identity_CelebA.txt", "list_eval_partition.txt"
SPLITS = {"0": "train", "1": "val", "2": "test"}


def read(root: Path, settings: DataSettings) -> list[ClipSource]:
    """The numbered pictures; by person and by the official partition where the text files lie in `root`.

    raises DataError for a damaged text file, and where a picture's number is not in the mapping: the pictures are then
    numbered in another way
    """
    original = {int(idx): file for idx, _, file in _table(root / MAPPING, r"(\d+)\s+(\d+)\s+(\S+)", heading=1)}
    identity = dict(_table(root / IDENTITY, r"(\S+)\s+(\d+)")) if original else {}
    partition = dict(_table(root / PARTITION, r"(\S+)\s+([012])")) if original else {}
    sources = []
    for path in _pictures(root):
        name = name_of(path, root)
        if not path.stem.isdecimal():
            sources.append(unusable(name, path.stem, "its name is no number"))
            continue
        number = int(path.stem)
        if original and number not in original:
            raise DataError(
                f"{path}: {number} is not in {MAPPING}, which counts from 0; rename the pictures or remove the mapping"
            )
        file = original.get(number)
        person = identity.get(file, f"picture{number:05d}")
        sources.append(ClipSource(name, person, SPLITS[partition.get(file, "0")], str(path), still=True))
    return sources if partition else split(sources)


def _pictures(root: Path) -> list[Path]:
    """All but the masks that CelebAMask-HQ brings along."""
    masks = "CelebAMask-HQ-mask-anno"
    return [path for path in files(root, IMAGE_ENDINGS) if masks not in path.relative_to(root).parts]


def _table(path: Path, row: str, heading: int = 0) -> list[tuple[str, ...]]:
    """The columns of a text file whose lines look like `row`; nothing where there is no such file."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [(line, re.fullmatch(row, line.strip())) for line in lines[heading:] if line.strip()]
    for line, match in rows:
        if match is None:
            raise DataError(f"{path}: the line {line!r} is not as published; get the file again")
    return [match.groups() for _, match in rows]
