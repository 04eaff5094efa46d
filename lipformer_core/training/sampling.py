"""What a training step sees: frames for stage 1; targets, references and sound for stage 2.

Batches are drawn by person first (identity-balanced), and by (seed, step) alone.
"""

import numpy as np
import torch
from torch import Tensor

from ..config import Config
from ..data.clips import ClipInfo, PreparedCorpus
from ..errors import DataError


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 (B, S, S, 3) to float (B, 3, S, S) in [-1, 1], channels last in memory."""
    return (torch.from_numpy(images).float() / 127.5 - 1).permute(0, 3, 1, 2)


def to_images(batch: Tensor) -> np.ndarray:
    """float (B, 3, S, S) in [-1, 1] to uint8 (B, S, S, 3)."""
    return ((batch.detach().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def augment_colour(images: Tensor, strength: float) -> Tensor:
    """Random brightness, contrast and colour balance an image. images: (B, 3, S, S) in [-1, 1]."""
    if not strength:
        return images
    shape = (len(images), 1, 1, 1)
    gain = 1 + strength * (2 * torch.rand(shape) - 1)
    shift = strength * (2 * torch.rand(shape) - 1) + 0.5 * strength * (2 * torch.rand(len(images), 3, 1, 1) - 1)
    return (images * gain.to(images) + shift.to(images)).clamp(-1, 1)


class FrameSampler:
    """Valid frames of a split, person by person; those of portraits only if `stills`.

    raises DataError for a split without such clips
    """

    def __init__(self, corpus: PreparedCorpus, split: str, config: Config, stills: bool = True):
        self.corpus, self.config = corpus, config
        self.infos = corpus.clips(split, stills)
        if not self.infos:
            kind = "clips" if stills else "clips with sound"
            raise DataError(f"{corpus.folder}: no {kind} in the split {split!r}; prepare more persons or clips")
        self.by_person: dict[str, list[ClipInfo]] = {}
        for info in self.infos:
            self.by_person.setdefault(info.person, []).append(info)
        self.persons = list(self.by_person)

    def draw(self, rng: np.random.Generator, count: int) -> list[tuple[ClipInfo, int]]:
        """`count` (clip, frame) pairs: a person, then one of the person's clips, then a valid frame."""
        order = np.concatenate([rng.permutation(len(self.persons)) for _ in range(-(-count // len(self.persons)))])
        pairs = []
        for index in order[:count]:
            clips = self.by_person[self.persons[index]]
            info = clips[rng.integers(len(clips))]
            pairs.append((info, int(rng.choice(np.flatnonzero(self.corpus.open(info.clip_id).valid)))))
        return pairs

    def pixels(self, pairs: list[tuple[ClipInfo, int]]) -> np.ndarray:
        """The frames of (clip, frame) pairs: uint8 (B, S, S, 3)."""
        return np.concatenate([self.corpus.open(info.clip_id).frames([frame]) for info, frame in pairs])

    def images(self, pairs: list[tuple[ClipInfo, int]]) -> Tensor:
        """The frames of (clip, frame) pairs: (B, 3, S, S) in [-1, 1]."""
        return to_tensor(self.pixels(pairs))

    def fixed(self, count: int) -> list[tuple[ClipInfo, int]]:
        """The same `count` pairs at every call, spread over the split; for validation."""
        return self.draw(np.random.default_rng(0), count)


def step_rng(config: Config, step: int, process: int = 0) -> np.random.Generator:
    """The random numbers of one step of one process."""
    return np.random.default_rng([config.seed, step, process])
