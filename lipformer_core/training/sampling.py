"""Which frames a training step sees: by person first (identity-balanced), and by a key and a sample's number alone.

Sample n of a key is the same whoever draws it, so many processes share one global batch, and a resumed run sees what
an uninterrupted one would have seen.
"""

import os

import numpy as np
import torch
from torch import Tensor

from ..data.prepared.clips import ClipInfo, PreparedCorpus
from ..data.prepared.prefetch import READERS, prefetched
from ..errors import DataError
from ..model.autoencoder import to_images, to_tensor  # noqa: F401 - notebooks have both from here

LIP_SCALE = 0.2  # inter-ocular distances: about the spread of lip openings
ROOM = 0.3  # share of a GPU's free memory that frames may take
Key = tuple[int, ...]  # names an endless row of samples: (seed, step)


class FrameSampler:
    """Valid frames of a split, person by person; those of portraits only if `stills`.

    Joined corpora get the same share each, however many persons they have.
    raises DataError for a split without such clips
    """

    def __init__(self, corpus: PreparedCorpus, split: str, stills: bool = True):
        self.corpus, self.kept = corpus, None
        self.parts: list[list[list[ClipInfo]]] = []  # corpora, persons, clips
        for part in corpus.parts:
            persons: dict[str, list[ClipInfo]] = {}
            for info in part:
                if info.split == split and (stills or not info.still):
                    persons.setdefault(info.person, []).append(info)
            if persons:
                self.parts.append(list(persons.values()))
        if not self.parts:
            kind = "clips" if stills else "clips with sound"
            raise DataError(f"{corpus.folder}: no {kind} in the split {split!r}; prepare more persons or clips")

    def draw(self, key: Key, count: int, first: int = 0) -> list[tuple[ClipInfo, int]]:
        """Samples `first` to `first + count` of a key: a person, then one of the person's clips, then a valid frame."""
        rng, end = np.random.default_rng(key), first + count
        orders = [
            np.concatenate([rng.permutation(len(persons)) for _ in range(-(-end // len(persons)))])
            for persons in self.parts
        ]
        pairs = []
        for sample in range(first, end):
            part = sample % len(self.parts)
            clips = self.parts[part][orders[part][sample // len(self.parts)]]
            rng = sample_rng(key, sample)
            info = clips[rng.integers(len(clips))]
            pairs.append((info, int(rng.choice(info.valid_frames))))
        return pairs

    def pixels(self, pairs: list[tuple[ClipInfo, int]]) -> np.ndarray:
        """The frames of (clip, frame) pairs: uint8 (B, S, S, 3)."""
        return np.concatenate([self.corpus.open(info.clip_id).frames([frame]) for info, frame in pairs])

    def keep(self, device: torch.device) -> None:
        """Decode all frames of the split into a GPU's memory, if they fit; `material` and `pictures` then use those."""
        space = room(device)
        pairs = [(info, int(f)) for part in self.parts for clips in part for info in clips for f in info.valid_frames]
        side, step = self.corpus.crop_size, 64
        if len(pairs) * side * side * 3 > space:
            return
        self.kept = torch.empty(len(pairs), side, side, 3, dtype=torch.uint8, device=device)
        self.rows = {(info.clip_id, frame): row for row, (info, frame) in enumerate(pairs)}
        threads = min(os.cpu_count() or 1, READERS)
        read = lambda n: self.pixels(pairs[n * step : (n + 1) * step])  # noqa: E731
        for n, pixels in enumerate(prefetched(read, range(-(-len(pairs) // step)), threads, ahead=threads + 2)):
            self.kept[n * step : (n + 1) * step] = torch.from_numpy(pixels).to(device)

    def material(self, pairs: list[tuple[ClipInfo, int]]) -> Tensor:
        """What a step needs to have the `pictures` of pairs: their pixels, or where they are kept."""
        if self.kept is None:
            return torch.from_numpy(self.pixels(pairs))
        return torch.tensor([self.rows[info.clip_id, frame] for info, frame in pairs])

    def pictures(self, material: Tensor, device: torch.device) -> Tensor:
        """The frames of a `material` as (B, 3, S, S) in [-1, 1] on the device."""
        material = material.to(device, non_blocking=True)
        return to_tensor(material if self.kept is None else self.kept[material])

    def images(self, pairs: list[tuple[ClipInfo, int]]) -> Tensor:
        """The frames of (clip, frame) pairs: (B, 3, S, S) in [-1, 1]."""
        return to_tensor(self.pixels(pairs))

    def fixed(self, count: int) -> list[tuple[ClipInfo, int]]:
        """The same `count` pairs at every call, spread over the split; for validation."""
        return self.draw((0,), count)


def room(device: torch.device) -> float:
    """Bytes of a device's memory that frames may take: of a GPU's only."""
    return ROOM * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def sample_rng(key: Key, sample: int, use: int = 0) -> np.random.Generator:
    """The random numbers of one sample for one `use` of them."""
    return np.random.default_rng([*key, sample, use])
