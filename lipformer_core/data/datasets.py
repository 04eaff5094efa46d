"""Torch data sets with random access to a prepared corpus: frames for stage 1, pairs with sound for stage 2."""

from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import DataError
from .clips import Clip, ClipInfo, PreparedCorpus
from .references import NEAREST, draw_reference


def as_tensor(image: np.ndarray) -> Tensor:
    """uint8 (S, S, 3) to float (3, S, S) in [-1, 1]."""
    return (torch.from_numpy(image).float() / 127.5 - 1).permute(2, 0, 1)


class FaceDataset(Dataset):
    """Every frame of a split that shows a face, portraits included: what stage 1 learns to reconstruct.

    An item is a dict: `image` float (3, S, S) in [-1, 1], `clip_id`, `person`, `frame`.
    """

    def __init__(self, corpus: PreparedCorpus | Path | str, split: str, stills: bool = True):
        """Take the corpus, or its folder. raises DataError for a bad corpus or a split without such frames."""
        self.corpus = corpus if isinstance(corpus, PreparedCorpus) else PreparedCorpus(corpus)
        listed = [(info, self._frames(info)) for info in self.corpus.clips(split, stills)]
        self._clips = [(info, frames) for info, frames in listed if len(frames)]
        self._ends = list(accumulate(len(frames) for _, frames in self._clips))
        if not self._ends:
            raise DataError(f"{self.corpus.folder}: the split {split!r} has no frames for {type(self).__name__}")

    def _frames(self, info: ClipInfo) -> np.ndarray:
        return info.valid_frames

    def __len__(self) -> int:
        return self._ends[-1]

    def locate(self, index: int) -> tuple[ClipInfo, int]:
        """Clip and frame of an item. IndexError outside the set."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        index %= len(self)
        number = bisect_right(self._ends, index)
        info, frames = self._clips[number]
        return info, int(frames[index - self._ends[number]])  # counted from the end of the clip's own

    def __getitem__(self, index: int) -> dict:
        info, frame = self.locate(index)
        image = self.corpus.open(info.clip_id).frames([frame])[0]
        return {"image": as_tensor(image), "clip_id": info.clip_id, "person": info.person, "frame": frame}

    def person_weights(self) -> Tensor:
        """A weight an item, float64 (len,), with which WeightedRandomSampler draws every person equally often."""
        count: dict[str, int] = {}
        for info, frames in self._clips:
            count[info.person] = count.get(info.person, 0) + len(frames)
        weights = [np.full(len(frames), 1 / count[info.person]) for info, frames in self._clips]
        return torch.from_numpy(np.concatenate(weights))


class PairDataset(FaceDataset):
    """Targets with a reference of the same clip and the sound around the target: what stage 2 learns to generate.

    The reference is drawn by `references.draw_reference` from (seed, epoch, item): of another time, often of another
    pose or mouth, never the target or a neighbour, so that copying it does not help. Portraits are left out, and so
    are frames for which their clip has no reference.

    An item is a dict: `target`, `reference` float (3, S, S) in [-1, 1]; `audio` float (window, 80); `landmarks` float
    (2, 68, 2) crop pixels and `pose` float (2, 3) degrees of target and reference; `clip_id`, `person`, `frame`,
    `reference_frame`.
    """

    def __init__(self, corpus: PreparedCorpus | Path | str, split: str, window: int, seed: int = 0):
        """window : mel frames around the target, as `Config.audio_window`. raises DataError as FaceDataset."""
        super().__init__(corpus, split, stills=False)
        self.window, self.seed, self.epoch = window, seed, 0

    def _frames(self, info: ClipInfo) -> np.ndarray:
        return targets(info.valid_frames)

    def set_epoch(self, epoch: int) -> None:
        """Draw other references from now on; to be called before the loader's workers start."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict:
        info, frame = self.locate(index)
        rng = np.random.default_rng([self.seed, self.epoch, index % len(self)])
        return pair(self.corpus.open(info.clip_id), frame, self.window, rng)


def targets(valid: np.ndarray) -> np.ndarray:
    """Those of a clip's valid frames, given by index, that have a reference far enough away."""
    if not len(valid):
        return valid
    return valid[np.maximum(valid - valid[0], valid[-1] - valid) > NEAREST]


def pair(clip: Clip, frame: int, window: int, rng: np.random.Generator) -> dict:
    """The item of PairDataset for a target frame of a clip."""
    reference = draw_reference(rng, clip.pose[:, 0], clip.valid, frame, clip.opening)
    both = [frame, reference]
    target_image, reference_image = clip.frames(both)
    return {
        "target": as_tensor(target_image),
        "reference": as_tensor(reference_image),
        "audio": torch.from_numpy(clip.audio_windows([frame], window)[0]),
        "landmarks": torch.from_numpy(clip.landmarks[both]),
        "pose": torch.from_numpy(clip.pose[both]),
        "clip_id": clip.info.clip_id,
        "person": clip.info.person,
        "frame": frame,
        "reference_frame": reference,
    }
