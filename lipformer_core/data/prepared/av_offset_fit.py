"""How the coefficients of `av_offset` that ship with the package were fitted; anyone with GRID's speaker 1 can do it.

python -c "from lipformer_core.data.prepared.av_offset_fit import fit_shipped; fit_shipped('clips/grid_s1')"
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..audio.av_offset import COEFFICIENTS, Pair, fit, save_weights
from ..faces.alignment import mouth_opening

PERSONS, FRAMES, SIZE = 60, 75, 16  # synthetic persons, one clip each, and the side of their pictures
HELD_OUT = 30  # of speaker 1's clips, the last by name


def fit_shipped(grid_s1: Path | str, out: Path | str = COEFFICIENTS, seed: int = 0) -> np.ndarray:
    """Fit on the synthetic corpus and on GRID's speaker 1 but for its last 30 clips, and write the coefficients.

    grid_s1 : folder with the speaker's videos
    raises WeightsMissing without a landmark network; as `media.iter_frames` and `media.read_audio` for bad files
    """
    videos = sorted(path for path in Path(grid_s1).iterdir() if path.suffix in (".mp4", ".mpg"))
    weights = fit(synthetic_pairs(range(PERSONS), seed), filmed_pairs(videos[: len(videos) - HELD_OUT]))
    save_weights(weights, out)
    return weights


def synthetic_pairs(persons: Iterable[int], seed: int = 0) -> Iterator[Pair]:
    """Opening and mel of one clip of each synthetic person."""
    from ..audio.mel import log_mel
    from ..synthetic import synthesise_clip

    for person in persons:
        clip = synthesise_clip(seed, person, 0, FRAMES, SIZE)
        yield clip.opening, log_mel(clip.audio)


def filmed_pairs(videos: Iterable[Path]) -> Iterator[Pair]:
    """Opening, NaN where no face is, and mel of filmed clips."""
    from ..audio.mel import log_mel
    from ..faces.landmarks import open_tracker
    from ..faces.tracking import track_faces
    from ..media.soundtrack import read_audio
    from ..media.source_streams import shown_frames

    tracker = open_tracker()
    for video in videos:
        track = track_faces(shown_frames(video), tracker)
        opening = np.full(len(track), np.nan)
        opening[track.valid] = mouth_opening(track.landmarks[track.valid])
        yield opening, log_mel(read_audio(video))
