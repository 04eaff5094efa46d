"""A held-out person's video and another one's speech: what dubbing is shown on when nobody brings files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...config import DataSettings
from ...errors import DataError
from ...progress import tqdm
from ...timing import FPS, SAMPLE_RATE
from ..corpora import list_sources
from ..media.writer import VideoWriter
from .summary import held_out_person

if TYPE_CHECKING:
    from ..synthetic import SyntheticClip


class Example(NamedTuple):
    """Inputs of `dubbing.dub`. landmarks: `.npz` as of `tracking.load_track`; None: a tracker has to find the face."""

    video: Path
    audio: Path
    landmarks: Path | None


def held_out_example(corpus: str, source: str | Path | None, settings: DataSettings, folder: Path | str) -> Example:
    """The first test clip as the video, the last one (another person's, where there are several) as the speech.

    corpus, source : as in `corpora.list_sources`. The synthetic corpus's files are written to `folder`.
    raises DataError where the corpus holds no clip out
    """
    if corpus == "synthetic":
        return _synthetic(settings, Path(folder))
    sources = list_sources(corpus, source, settings)
    # whole files with sound: a range of an HDTF video would need cutting first
    held_out = [s for s in sources if s.split == "test" and s.path and not (s.still or s.start_s or s.end_s)]
    if not held_out:
        raise DataError(f"{source}: no whole file is held out; name a video and an audio file")
    return Example(Path(held_out[0].path), Path(held_out[-1].audio_path or held_out[-1].path), None)


def _synthetic(settings: DataSettings, folder: Path) -> Example:
    from ..synthetic import synthesise_clip

    made = settings.synthetic
    persons = (held_out_person(settings, number) for number in tqdm(range(2), desc="draw an example", unit="clip"))
    clips = (synthesise_clip(made.seed, person, 0, made.frames[1], 2 * made.size) for person in persons)
    first, second = (write_clip(clip, folder) for clip in clips)
    return first._replace(audio=second.audio)


def write_clip(clip: SyntheticClip, folder: Path | str) -> Example:
    """Write `<clip_id>.mp4`, `.wav` and `.npz` into `folder`, which is made; files of that name are replaced."""
    from scipy.io import wavfile

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    video, audio, landmarks = (folder / f"{clip.clip_id}.{ending}" for ending in ("mp4", "wav", "npz"))
    height, width = clip.frames.shape[1:3]
    with VideoWriter(video, width, height, FPS, (clip.audio, SAMPLE_RATE)) as writer:
        for frame in clip.frames:
            writer.write(frame)
    wavfile.write(audio, SAMPLE_RATE, (np.clip(clip.audio, -1, 1) * 32767).round().astype(np.int16))
    np.savez(landmarks, landmarks=clip.landmarks, pose=clip.pose, valid=np.ones(len(clip.frames), bool))
    return Example(video, audio, landmarks)
