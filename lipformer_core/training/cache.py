"""Every frame's codes, computed once: stage 2 needs the frozen encoder no more (CodeFormer's shortcut)."""

import json
import os
from pathlib import Path

import numpy as np
import torch

from ..data.clips import PreparedCorpus
from ..model.autoencoder import FaceAutoencoder
from .sampling import to_tensor

BATCH = 64


class CodeCache:
    """Code indices of all frames of a split, memory-mapped: uint16 (n, 2, h/2, w), upper then bottom."""

    def __init__(self, path: Path):
        self.codes = np.load(path, mmap_mode="r")
        self.first = json.loads(path.with_suffix(".json").read_text())["first"]

    def read(self, clip_id: str, frame: int) -> np.ndarray:
        """uint16 (2, h/2, w) of one frame."""
        return self.codes[self.first[clip_id] + frame]


@torch.no_grad()
def cache_codes(autoencoder: FaceAutoencoder, corpus: PreparedCorpus, split: str, folder: Path, key: str) -> CodeCache:
    """Encode and quantise all frames of a split into `folder`/codes_<split>.npy, once per `key`."""
    path = folder / f"codes_{split}.npy"
    index = path.with_suffix(".json")
    if index.is_file() and json.loads(index.read_text())["key"] == key:
        return CodeCache(path)
    folder.mkdir(parents=True, exist_ok=True)
    infos = corpus.clips(split)
    total = sum(info.n_frames for info in infos)
    temporary = path.with_name(f".{path.name}")
    codes = np.lib.format.open_memmap(temporary, "w+", np.uint16, (total, 2, *autoencoder.config.token_grid))
    device = next(autoencoder.parameters()).device
    first, at = {}, 0
    for info in infos:
        first[info.clip_id] = at
        clip = corpus.open(info.clip_id)
        for start in range(0, info.n_frames, BATCH):
            frames = clip.frames(range(start, min(start + BATCH, info.n_frames)))
            upper, bottom = autoencoder.encode(to_tensor(frames).to(device))
            codes[at : at + len(frames), 0] = autoencoder.upper_codebook.indices(upper).cpu()
            codes[at : at + len(frames), 1] = autoencoder.bottom_codebook.indices(bottom).cpu()
            at += len(frames)
    codes.flush()
    del codes
    index.unlink(missing_ok=True)
    os.replace(temporary, path)
    index.write_text(json.dumps({"key": key, "first": first}))
    return CodeCache(path)
