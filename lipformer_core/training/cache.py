"""Every frame's codes, computed once: stage 2 needs the frozen encoder no more (CodeFormer's shortcut).

Each clip is seen in some looks: as filmed, and augmented, all its frames alike.
"""

import hashlib
import json
import os
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch

from ..data.clips import ClipInfo, PreparedCorpus
from ..data.joined import JoinedCorpora
from ..files import write_json
from ..model.autoencoder import FaceAutoencoder
from .looks import clip_looks
from .sampling import to_tensor

BATCH = 64


class CodeCache:
    """Code indices of all frames of a split in all looks, memory-mapped: uint16 (n, looks, 2, h/2, w), upper first."""

    def __init__(self, path: Path):
        self.codes = np.load(path, mmap_mode="r")
        self.first = json.loads(path.with_suffix(".json").read_text())["first"]

    def read(self, clip_id: str, frame: int, look: int = 0) -> np.ndarray:
        """uint16 (2, h/2, w) of one frame in one look."""
        return self.codes[self.first[clip_id] + frame, look]


@torch.no_grad()
def cache_codes(
    autoencoder: FaceAutoencoder,
    corpus: PreparedCorpus | JoinedCorpora,
    split: str,
    folder: Path,
    key: str,
    looks: int = 1,
) -> CodeCache:
    """Encode and quantise all frames of a split, once per `key` and looks: files of `folder` that are named by them."""
    name = hashlib.sha256(f"{key} {looks}".encode()).hexdigest()[:12]
    path = folder / f"codes_{split}_{name}.npy"
    index = path.with_suffix(".json")
    if index.is_file():
        return CodeCache(path)
    folder.mkdir(parents=True, exist_ok=True)
    infos = corpus.clips(split)
    total = sum(info.n_frames for info in infos)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")  # its own, should two runs write the same
    try:
        first = _encode(autoencoder, corpus, infos, temporary, (total, looks, 2, *autoencoder.config.token_grid))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    write_json(index, {"first": first})  # says that both are complete
    return CodeCache(path)


def _encode(
    autoencoder: FaceAutoencoder,
    corpus: PreparedCorpus | JoinedCorpora,
    infos: list[ClipInfo],
    path: Path,
    shape: tuple[int, ...],
) -> dict[str, int]:
    """Write all codes, uint16 of `shape` (n, looks, 2, h/2, w); returns where each clip begins."""
    codes = np.lib.format.open_memmap(path, "w+", np.uint16, shape)
    device = next(autoencoder.parameters()).device
    first, at = {}, 0
    for info in infos:
        first[info.clip_id] = at
        clip = corpus.open(info.clip_id)
        for start in range(0, info.n_frames, BATCH):
            frames = clip.frames(range(start, min(start + BATCH, info.n_frames)))
            images = to_tensor(frames).to(device)
            for look in range(shape[1]):
                seen = clip_looks([info.clip_id] * len(frames), [look] * len(frames), autoencoder.config)
                upper, bottom = autoencoder.encode(seen.images(images))
                codes[at : at + len(frames), look, 0] = autoencoder.upper_codebook.indices(upper).cpu()
                codes[at : at + len(frames), look, 1] = autoencoder.bottom_codebook.indices(bottom).cpu()
            at += len(frames)
    codes.flush()
    return first
