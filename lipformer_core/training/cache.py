"""Every frame's codes, computed once: stage 2 needs the frozen encoder no more (CodeFormer's shortcut).

Each clip is seen in some looks: as filmed, and augmented, all its frames alike. The codes lie in a folder of files,
each of some consecutive clips: what a killed run has written stays, and the processes of one training share the work.
"""

import hashlib
import itertools
import os
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from accelerate import Accelerator

from .. import provenance
from ..data.prepared.clips import ClipInfo, PreparedCorpus
from ..data.prepared.prefetch import READERS, prefetched
from ..errors import DataError
from ..files import atomic
from ..model.autoencoder import FaceAutoencoder, to_tensor
from ..progress import tqdm
from .looks import clip_looks

BATCH = 64
FILE_FRAMES = 2048  # that a file holds at least, in whole clips
MOST_FILES = 256  # all of them are kept open


class CodeCache:
    """Code indices of all frames of a split in all looks, memory-mapped: uint16 (n, looks, 2, h/2, w), upper first."""

    def __init__(self, folder: Path, parts: list[list[ClipInfo]]):
        self.files = [np.load(_file(folder, number), mmap_mode="r") for number in range(len(parts))]
        self.place: dict[str, tuple[int, int]] = {}  # clip: (its file, its first frame there)
        for number, infos in enumerate(parts):
            first = itertools.accumulate((info.n_frames for info in infos), initial=0)
            self.place |= {info.clip_id: (number, at) for info, at in zip(infos, first, strict=False)}

    def read(self, clip_id: str, frame: int, look: int = 0) -> np.ndarray:
        """uint16 (2, h/2, w) of one frame in one look."""
        number, first = self.place[clip_id]
        return self.files[number][first + frame, look]


def cache_codes(
    autoencoder: FaceAutoencoder,
    corpus: PreparedCorpus,
    split: str,
    folder: Path,
    key: str,
    looks: int = 1,
    accelerator: Accelerator | None = None,
    progress: bool = False,
) -> CodeCache:
    """Encode and quantise all frames of a split's clips on the autoencoder's device, once per `key` and looks.

    Portraits have no sound and no other frame: stage 2 asks for none of theirs.

    folder : gets a folder that is named by them, the clips, and the sources that shape codes; what is there already is
        not computed again
    accelerator : of a training in several processes: each writes its share of the files and waits for the others
    raises DataError if the other processes write to another file system
    """
    infos = corpus.clips(split, stills=False)
    listed = " ".join(info.clip_id for info in infos)
    name = hashlib.sha256(f"{key} {looks} {listed} {provenance.sources('codes')}".encode()).hexdigest()[:12]
    folder = folder / f"codes_{split}_{name}"
    folder.mkdir(parents=True, exist_ok=True)
    parts = _parts(infos)
    index, count = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    missing = [n for n in range(index, len(parts), count) if not _file(folder, n).is_file()]
    for number in tqdm(missing, desc=f"codes of {split}", unit="file", disable=not progress or index > 0):
        with atomic(_file(folder, number)) as file:
            _write(file, autoencoder, corpus, parts[number], looks)
    if accelerator:
        accelerator.wait_for_everyone()
    if not all(_file(folder, number).is_file() for number in range(len(parts))):
        raise DataError(f"{folder}: not all codes are there; all processes must share its file system")
    return CodeCache(folder, parts)


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.npy"


def _parts(infos: list[ClipInfo]) -> list[list[ClipInfo]]:
    """The clips of each file, in their order."""
    least = max(FILE_FRAMES, sum(info.n_frames for info in infos) // MOST_FILES)
    parts, frames = [], least
    for info in infos:
        if frames >= least:
            parts.append([])
            frames = 0
        parts[-1].append(info)
        frames += info.n_frames
    return parts


@torch.no_grad()
def _write(
    file: BinaryIO, autoencoder: FaceAutoencoder, corpus: PreparedCorpus, infos: list[ClipInfo], looks: int
) -> None:
    """An .npy of all codes of some clips, uint16 (n, looks, 2, h/2, w)."""
    shape = (sum(info.n_frames for info in infos), looks, 2, *autoencoder.config.token_grid)
    np.lib.format.write_array_header_1_0(file, {"descr": "<u2", "fortran_order": False, "shape": shape})
    device = next(autoencoder.parameters()).device
    parts = [(i, range(n, min(n + BATCH, i.n_frames))) for i in infos for n in range(0, i.n_frames, BATCH)]

    def read(number: int) -> np.ndarray:
        info, frames = parts[number]
        return corpus.open(info.clip_id).frames(frames)

    threads = min(os.cpu_count() or 1, READERS)
    with closing(prefetched(read, range(len(parts)), threads, ahead=threads + 2)) as decoded:  # also where one fails
        for (info, _), frames in zip(parts, decoded, strict=True):
            images = to_tensor(frames).to(device)
            codes = np.empty((len(frames), *shape[1:]), "<u2")
            for look in range(looks):
                seen = clip_looks([info.clip_id], [look], autoencoder.config.stage1).expand(len(frames))
                upper, bottom = autoencoder.encode(seen.images(images))
                codes[:, look, 0] = autoencoder.upper_codebook.indices(upper).cpu()
                codes[:, look, 1] = autoencoder.bottom_codebook.indices(bottom).cpu()
            file.write(codes.tobytes())
