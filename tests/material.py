"""Small videos, sounds and faces made on the spot, with exactly known content, for the tests of media and dubbing."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import torch

from lipformer_core.config import preset
from lipformer_core.data.faces.alignment import MEAN_FACE
from lipformer_core.model.lipformer import Reference
from lipformer_core.timing import FPS

JAW = np.array([(1.12 * np.cos(a), 0.11 + 1.73 * np.sin(a) ** 0.8) for a in np.linspace(np.pi, 0, 17)])
BROWS = np.array([(x, -0.3) for x in [-0.8, -0.65, -0.5, -0.35, -0.2, 0.2, 0.35, 0.5, 0.65, 0.8]])


def ellipse(n: int, width: float, height: float) -> np.ndarray:
    """n points clockwise from the left corner of a mouth-like ellipse at the mouth's place."""
    angle = np.pi + np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([width * np.cos(angle), 1.12 + height * np.sin(angle)], axis=1)


def face_landmarks(
    centre: tuple[float, float], distance: float, opening: float = 0.1, angle: float = 0.0
) -> np.ndarray:
    """68 points of a plain face: `centre` between the eyes and eye `distance` in pixels, `angle` in radians."""
    mouth = np.concatenate([ellipse(12, 0.41, 0.1 + opening / 2), ellipse(8, 0.3, opening / 2)])
    points = np.concatenate([JAW, BROWS, MEAN_FACE, mouth])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (points @ turn.T * distance + centre).astype(np.float32)


def draw_face(height: int, width: int, landmarks: np.ndarray | None, index: int = 0) -> np.ndarray:
    """A picture of such a face on a plain ground; two small patches tell its index (below 196)."""
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack([60 + 40 * columns / width, 80 + 40 * rows / height, 110 + 0 * rows], -1).astype(np.uint8)
    if landmarks is not None:
        points = np.round(landmarks).astype(np.int32)
        cv2.fillPoly(picture, [np.concatenate([points[:17], points[26:16:-1] - [0, height // 12]])], (205, 160, 135))
        for eye in (points[36:42], points[42:48]):
            cv2.fillPoly(picture, [eye], (40, 40, 60))
        cv2.fillPoly(picture, [points[48:60]], (170, 70, 80))
        cv2.fillPoly(picture, [points[60:68]], (40, 10, 10))
        picture = cv2.GaussianBlur(picture, (0, 0), 0.8)
    picture[:8, :8] = 20 + 15 * (index % 14)
    picture[:8, 8:16] = 20 + 15 * (index // 14)
    return picture


def frame_index(picture: np.ndarray) -> int:
    """Read the index back that `draw_face` wrote, also after encoding."""
    low, high = (round((float(picture[2:6, x : x + 4].mean()) - 20) / 15) for x in (2, 10))
    return low + 14 * high


def face_clip(n: int, height: int = 96, width: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """n pictures of a face that sways, and its landmarks `(n, 68, 2)`."""
    marks = np.stack(
        [
            face_landmarks((width / 2 + 3 * np.sin(k / 9), height * 0.32), height * 0.27, 0.1 + 0.1 * np.sin(k / 3))
            for k in range(n)
        ]
    )
    return np.stack([draw_face(height, width, m, k) for k, m in enumerate(marks)]), marks


def tone(seconds: float, rate: int = 16_000, level: float = 0.3) -> np.ndarray:
    """A voice-like buzz that comes and goes twice a second."""
    t = np.arange(round(seconds * rate)) / rate
    return (level * np.sign(np.sin(2 * np.pi * 140 * t)) * (np.sin(2 * np.pi * 2 * t) > 0)).astype(np.float32)


def write_wav(path: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    """Write `(n,)` or `(n, channels)` float samples as 32-bit float WAV."""
    import soundfile

    soundfile.write(path, samples, rate, subtype="FLOAT")
    return path


def write_video(
    path: Path,
    frames: np.ndarray,
    fps: Fraction | int = FPS,
    *,
    times: np.ndarray | None = None,
    rotation: int = 0,
    sound: np.ndarray | None = None,
    gop: int = 12,
) -> Path:
    """Write a video without the package's own writer; `times` in seconds make its rate variable."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "8", "preset": "ultrafast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv444p" if stream.height % 2 or stream.width % 2 else "yuv420p"
        stream.codec_context.gop_size = gop
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 90_000)
        if rotation:
            stream.set_display_rotation(rotation)
        audio = container.add_stream("aac", rate=16_000, layout="mono") if sound is not None else None
        for k, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = k if times is None else round(times[k] * 90_000)
            picture.time_base = 1 / Fraction(fps) if times is None else Fraction(1, 90_000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        if audio is not None:
            block = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = 16_000, 0, Fraction(1, 16_000)
            container.mux(audio.encode(block))
            container.mux(audio.encode(None))
    return path


FAKE_CONFIG = preset("tiny", {"data.size": 64, "audio.window": 16})


class FakeModel(torch.nn.Module):
    """LipFormer's interface without its mind: the mouth is a box as bright as the sound is loud."""

    config = FAKE_CONFIG

    def __init__(self) -> None:
        super().__init__()
        self.largest_batch = 0
        self.references = 0

    def encode_reference(self, image: torch.Tensor) -> Reference:
        self.references += 1
        assert image.shape == (1, 3, 64, 64) and image.abs().max() <= 1
        return Reference(*image.chunk(2, 2))

    def look(self, target: torch.Tensor, reference: Reference) -> tuple[torch.Tensor, Reference]:
        return target, reference

    def say(
        self, seen: tuple[torch.Tensor, Reference], audio: torch.Tensor, tau: None = None, bottom_only: bool = False
    ) -> torch.Tensor:
        target, reference = seen
        batch = len(target)
        assert target.shape == (batch, 3, 64, 64) and audio.shape == (batch, 16, 80)
        self.largest_batch = max(self.largest_batch, batch)
        bottom = reference.bottom.expand(batch, -1, -1, -1).clone()
        loudness = audio[:, 6:10].amax((1, 2)).clamp(-1, 1)
        bottom[:, :, 6:16, 22:42] = loudness[:, None, None, None]
        return bottom if bottom_only else torch.cat([target[:, :, :32], bottom], dim=2)


def noise_face(seed: int, size: int = 32) -> torch.Tensor:
    """A picture of noise as a face in [-1, 1]: (1, 3, size, size)."""
    return 2 * torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed)) - 1
