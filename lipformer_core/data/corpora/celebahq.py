"""CelebA-HQ (Karras et al. 2018) as a folder of 30,000 pictures numbered from 0: CelebA-HQ-img/0.jpg … 29999.jpg of
CelebAMask-HQ (https://github.com/switchablenorms/CelebAMask-HQ), or 00000.png … elsewhere.

CelebA-HQ-to-CelebA-mapping.txt (of CelebAMask-HQ: a heading, then "idx orig_idx orig_file") leads to CelebA's files,
whose identity_CelebA.txt ("000001.jpg 2880", given out on request) says who is on a picture and whose
list_eval_partition.txt ("000001.jpg 0", with 1 for validation and 2 for test) gives the official splits.
"""

from pathlib import Path

from ...config import Config
from ...errors import DataError
from .layout import IMAGE_ENDINGS, files, name_of, unusable
from .source import ClipSource
from .splits import split

MAPPING, IDENTITY, PARTITION = "CelebA-HQ-to-CelebA-mapping.txt", "identity_CelebA.txt", "list_eval_partition.txt"
SPLITS = {"0": "train", "1": "val", "2": "test"}


def read(root: Path, config: Config) -> list[ClipSource]:
    """The numbered pictures; by person and by the official partition where the text files lie in `root`.

    raises DataError where a picture's number is not in the mapping: the numbers are then not the mapping's
    """
    original = {int(row[0]): row[2] for row in _table(root / MAPPING)[1:]}
    identity = dict(_table(root / IDENTITY)) if original else {}
    partition = dict(_table(root / PARTITION)) if original else {}
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


def _table(path: Path) -> list[list[str]]:
    if not path.is_file():
        return []
    return [row for line in path.read_text(encoding="utf-8").splitlines() if (row := line.split())]
