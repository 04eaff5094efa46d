"""A clip's arrays in its shard, read where they lie: small ones are held in memory, sound is mapped, not loaded.

A clip of 30 seconds has half a megabyte of small arrays and, where it was prepared with a speech encoder, three of
sound, of which a training sample needs a fraction of a second.
"""

import io
import itertools
import mmap
import zipfile
from typing import BinaryIO

import numpy as np

from ...errors import DataError
from ...timing import N_MELS

ROWS = ("mel", "speech")  # and the same with _before and _after
AROUND = ("_before", "", "_after")


def mapped(file: BinaryIO, start: int, length: int) -> memoryview:
    """`length` bytes of a file from `start` on, which the system reads when they are looked at and drops as it likes.

    raises DataError if the file is shorter
    """
    page = start - start % mmap.ALLOCATIONGRANULARITY
    try:
        whole = mmap.mmap(file.fileno(), start - page + length, access=mmap.ACCESS_READ, offset=page)
    except ValueError as error:
        raise DataError(f"{file.name}: shorter than its manifest says; copy the corpus again") from error
    return memoryview(whole)[start - page :]


def unpack(content: memoryview) -> dict[str, np.ndarray]:
    """The arrays of an .npz as `np.savez` writes it, by name. Those of the sound are read-only views of `content`."""
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            with archive.open(member) as file:
                if not name.startswith((*ROWS, "sound")):
                    arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
                    continue
                np.lib.format.read_magic(file)
                shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
                header = file.tell()
            lengths = np.frombuffer(content, "<u2", 2, member.header_offset + 26)  # of the name and the extra field
            first = member.header_offset + 30 + int(lengths.sum()) + header
            arrays[name] = np.frombuffer(content, dtype, int(np.prod(shape)), first).reshape(
                shape, order="F" if by_columns else "C"
            )
    return arrays


class SoundRows:
    """Rows of a clip's sound and its surroundings, as one array (n, columns) would be indexed; float32 when taken.

    columns : 80 of the mel and those of the speech features, 0 where the clip has none; before : rows that lie before
        the clip's own
    """

    def __init__(self, arrays: dict[str, np.ndarray], columns: int):
        kinds = ROWS if columns > N_MELS and "speech" in arrays else ("mel",)
        self._parts = [[arrays[kind + where] for kind in kinds] for where in AROUND]
        self._ends = list(itertools.accumulate(len(part[0]) for part in self._parts))
        self.before, self.shape = self._ends[0], (self._ends[-1], columns)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """The rows of an integer array (k,): float32 (k, columns)."""
        rows = np.zeros((len(index), self.shape[1]), np.float32)
        first, last = (index.min(), index.max()) if len(index) else (0, -1)
        for part, begin, end in zip(self._parts, [0, *self._ends], self._ends, strict=False):
            if first < end and last >= begin:
                inside = slice(None) if begin <= first and last < end else (begin <= index) & (index < end)
                found = np.concatenate([array[index[inside] - begin] for array in part], axis=1)
                rows[inside, : found.shape[1]] = found
        return rows
