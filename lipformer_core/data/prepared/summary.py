"""What a prepared corpus holds, for eyes: counts, pooled series, and frames to show."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...config import DataSettings
from ...timing import FPS
from ..corpora import list_sources
from .clips import PreparedCorpus
from .preparation_report import CSV, read_report
from .shards import SPLITS

__all__ = ["SPLITS", "YAW_BINS", "SplitCounts", "Spent", "by_yaw", "counts", "held_out_person", "outcome", "pooled",
           "portraits", "reasons", "spent", "synthetic_person"]  # fmt: skip

YAW_BINS = {"frontal, below 10°": (0, 10), "turned 10° to 25°": (10, 25), "turned 25° to 40°": (25, 40)}


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


class Spent(NamedTuple):
    """What preparation cost, of one core, and what the result takes."""

    video_hours: float
    compute_seconds_per_second: float  # of video
    megabytes_per_hour: float
    clips_kept: int
    clips_dropped: int


def spent(corpus: PreparedCorpus) -> Spent:
    """Computing and storage, from the corpus's report. Filmed and synthetic clips alike; stills count as 1/25 s."""
    rows = read_report(corpus.folder)
    video = sum(row["video_seconds"] for row in rows) or float("nan")
    size = sum((corpus.folder / name).stat().st_size for name in corpus.manifest["shards"])
    stored = sum(info.n_frames for split in SPLITS for info in corpus.clips(split)) / FPS
    return Spent(
        video / 3600,
        sum(row["compute_seconds"] for row in rows) / video,
        size / 1e6 / (stored / 3600),
        sum(row["status"] != "dropped" for row in rows),
        sum(row["status"] == "dropped" for row in rows),
    )


def reasons(corpus: PreparedCorpus) -> dict[str, int]:
    """How many sources were dropped or trimmed, by reason without its figures, the most frequent first."""
    lines = [row["reason"].split(":")[0] for row in read_report(corpus.folder) if row["status"] != "kept"]
    return dict(Counter(lines).most_common())


def outcome(folder: Path) -> str:
    """How many sources were kept, trimmed and dropped, and where the reasons are; empty without a report."""
    kinds = Counter(row["status"] for row in read_report(folder))
    found = ", ".join(f"{kinds[kind]} {kind}" for kind in ("kept", "trimmed", "dropped"))
    return f" ({found}; reasons in {CSV})" if kinds else ""


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


def by_yaw(corpus: PreparedCorpus, count: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Valid frames of all splits by how far the face is turned: YAW_BINS' names to crops and landmarks.

    Of each bin about `count` frames, as many of every person as there are, spread over the person's: uint8
    (n, S, S, 3) and (n, 68, 2) crop pixels. A bin that no frame is in is left out.
    """
    found: dict[str, dict[str, list[tuple[str, int]]]] = {name: {} for name in YAW_BINS}
    for info in (info for split in SPLITS for info in corpus.clips(split)):
        yaw = np.abs(corpus.open(info.clip_id).pose[:, 0])
        for frame in info.valid_frames:
            name = next((name for name, (low, high) in YAW_BINS.items() if low <= yaw[frame] < high), None)
            if name is not None:
                found[name].setdefault(info.person, []).append((info.clip_id, int(frame)))
    return {name: _spread(corpus, list(own.values()), count) for name, own in found.items() if own}


def _spread(corpus: PreparedCorpus, groups: list[list[tuple[str, int]]], count: int) -> tuple[np.ndarray, np.ndarray]:
    share = -(-count // len(groups))
    chosen = [own[i] for own in groups for i in np.unique(np.linspace(0, len(own) - 1, share).round().astype(int))]
    clips = [(corpus.open(clip_id), frame) for clip_id, frame in chosen]
    return (
        np.concatenate([clip.frames([frame]) for clip, frame in clips]),
        np.stack([clip.landmarks[frame] for clip, frame in clips]),
    )


def synthetic_person(person: str) -> int:
    """The number of a person of the embedded corpus from the name that `corpora` gives: synthetic00012 is 12."""
    return int(person.removeprefix("synthetic"))


def held_out_person(settings: DataSettings, number: int = 0) -> int:
    """The `number`-th test person of the embedded corpus."""
    tested = [s.synthetic[0] for s in list_sources("synthetic", None, settings) if s.split == "test"]
    return tested[number]
