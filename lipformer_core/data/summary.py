"""What a prepared corpus holds, for eyes: counts, pooled series, and frames to show."""

from typing import NamedTuple

import numpy as np

from ..config import Config
from .clips import PreparedCorpus

SPLITS = ("train", "val", "test")


class SplitCounts(NamedTuple):
    """How much a split holds; `valid` frames show a face."""

    persons: int
    clips: int
    frames: int
    valid: int


def counts(corpus: PreparedCorpus) -> dict[str, SplitCounts]:
    """Persons, clips and frames of every split."""
    result = {}
    for split in SPLITS:
        infos = corpus.clips(split)
        valid = sum(int(corpus.open(info.clip_id).valid.sum()) for info in infos)
        persons = len({info.person for info in infos})
        result[split] = SplitCounts(persons, len(infos), sum(info.n_frames for info in infos), valid)
    return result


def pooled(corpus: PreparedCorpus, split: str, name: str) -> np.ndarray:
    """An array of every clip (`pose`, `opening`, `landmarks`, …), valid frames only, joined: (N, …)."""
    clips = [corpus.open(info.clip_id) for info in corpus.clips(split)]
    return np.concatenate([clip.arrays[name][clip.valid] for clip in clips])


def portraits(corpus: PreparedCorpus, split: str, count: int) -> np.ndarray:
    """One crop each of up to `count` persons, the most frontal frame of the person's first clip: uint8 (n, S, S, 3)."""
    firsts = {info.person: info for info in reversed(corpus.clips(split))}
    images = []
    for person in list(firsts)[::-1][:count]:
        clip = corpus.open(firsts[person].clip_id)
        frames = np.flatnonzero(clip.valid)
        images.append(clip.frames([frames[np.abs(clip.pose[frames, 0]).argmin()]])[0])
    return np.stack(images)


def spread_frames(corpus: PreparedCorpus, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """About `count` valid crops spread evenly over the clips: uint8 (n, S, S, 3), landmarks (n, 68, 2)."""
    infos = corpus.clips(split)
    images, points = [], []
    for info in infos[:: max(1, len(infos) // count)]:
        clip = corpus.open(info.clip_id)
        frames = np.flatnonzero(clip.valid)
        chosen = frames[np.linspace(0, len(frames) - 1, min(len(frames), max(1, count // len(infos)))).astype(int)]
        images.append(clip.frames(chosen))
        points.append(clip.landmarks[chosen])
    return np.concatenate(images), np.concatenate(points)


def synthetic_person(person: str) -> int:
    """The number of a person of the embedded corpus from the name that `corpora` gives: synthetic00012 is 12."""
    return int(person.removeprefix("synthetic"))


def held_out_person(config: Config, number: int = 0) -> int:
    """The `number`-th test person of the embedded corpus."""
    return config.synthetic_train + config.synthetic_val + number
