"""Several prepared corpora as one to train on: synthetic persons beside filmed ones, pictures beside clips."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ...errors import DataError
from .clips import Clip, ClipInfo, PreparedCorpus

Data = Path | str | Sequence[Path | str]


class JoinedCorpora:
    """What training needs of a PreparedCorpus, over several of them. Each gets the same share of the samples.

    raises DataError where crops differ in size or a clip's name is in two of them
    """

    def __init__(self, folders: Sequence[Path | str]):
        self.parts = [PreparedCorpus(folder) for folder in folders]
        self.folder = self.parts[0].folder
        sizes = {part.crop_size for part in self.parts}
        if len(sizes) > 1:
            raise DataError(f"{', '.join(map(str, folders))}: crops of {sorted(sizes)} pixels; prepare them alike")
        self._owner: dict[str, PreparedCorpus] = {}
        for part in self.parts:
            for info in (info for split in ("train", "val", "test") for info in part.clips(split)):
                if info.clip_id in self._owner:
                    raise DataError(
                        f"clip {info.clip_id} is in {self._owner[info.clip_id].folder} and in {part.folder}; "
                        "one corpus cannot be joined with itself"
                    )
                self._owner[info.clip_id] = part

    @property
    def hash(self) -> str:
        """Hash of the parts' hashes, in their order."""
        return hashlib.sha256("".join(part.hash for part in self.parts).encode()).hexdigest()

    @property
    def crop_size(self) -> int:
        """Side of the crops in pixels."""
        return self.parts[0].crop_size

    def clips(self, split: str, stills: bool = True) -> list[ClipInfo]:
        """Clips of a split, part by part; portraits only if `stills`."""
        return [info for part in self.parts for info in part.clips(split, stills)]

    def open(self, clip_id: str) -> Clip:
        """A clip by its name; KeyError if no part has it."""
        return self._owner[clip_id].open(clip_id)


Corpus = PreparedCorpus | JoinedCorpora  # what training reads


def open_corpus(data: Data) -> Corpus:
    """One prepared corpus, or several joined. DataError as of both classes."""
    if isinstance(data, (str, Path)):
        return PreparedCorpus(data)
    folders = list(data)
    return PreparedCorpus(folders[0]) if len(folders) == 1 else JoinedCorpora(folders)
