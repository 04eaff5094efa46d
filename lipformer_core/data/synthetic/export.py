"""A synthetic clip as files that anybody's tools read: a video with sound, the sound alone, the exact landmarks."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from lipformer_core.data.media.writer import VideoWriter
from lipformer_core.data.synthetic.clip import SyntheticClip
from lipformer_core.timing import FPS, SAMPLE_RATE


class ClipFiles(NamedTuple):
    """What `write_clip` wrote. landmarks: `.npz` with `landmarks` (n, 68, 2) source pixels, `pose` (n, 3), `valid`."""

    video: Path
    audio: Path
    landmarks: Path


def write_clip(clip: SyntheticClip, folder: Path | str) -> ClipFiles:
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
    return ClipFiles(video, audio, landmarks)
