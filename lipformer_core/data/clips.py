"""The prepared form, read side: one folder for any corpus, random access to frames within a clip.

A corpus folder holds `manifest.json` and tar shards in WebDataset's layout, one sample a clip:
`<clip>.json` (metadata), `<clip>.npz` (arrays) and `<clip>.jpegs` (the crops, JPEG after JPEG). Tars are not
compressed, so a frame is one seek away; nothing is held in memory but the small arrays of open clips.
"""

import io
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from ..errors import DataError

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ClipInfo:
    """What the manifest says of a clip. offsets: member ending to (first byte, length) within the shard."""

    clip_id: str
    person: str
    split: str
    n_frames: int
    shard: str
    offsets: dict[str, tuple[int, int]]


class Clip:
    """One prepared clip: 25 frames/s aligned crops, log-mel, landmarks, transforms, pose."""

    def __init__(self, info: ClipInfo, folder: Path):
        self.info = info
        self._path = folder / info.shard

    def _read(self, ending: str) -> bytes:
        start, length = self.info.offsets[ending]
        with self._path.open("rb") as f:
            f.seek(start)
            return f.read(length)

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """All small arrays; see `prepare.ARRAYS` for names and shapes."""
        with np.load(io.BytesIO(self._read("npz"))) as stored:
            return {name: stored[name] for name in stored.files}

    @property
    def mel(self) -> np.ndarray:
        """Log-mel, float32 (n_mel, 80); mel frame 4 i is centred on video frame i."""
        return self.arrays["mel"]

    @property
    def landmarks(self) -> np.ndarray:
        """68 points in CROP pixels, float32 (n, 68, 2)."""
        return self.arrays["landmarks"]

    @property
    def transforms(self) -> np.ndarray:
        """Source pixels to crop pixels, float64 (n, 2, 3)."""
        return self.arrays["transforms"]

    @property
    def pose(self) -> np.ndarray:
        """Degrees (yaw, pitch, roll), float32 (n, 3)."""
        return self.arrays["pose"]

    @property
    def opening(self) -> np.ndarray:
        """Inner-lip gap over inter-ocular distance, float32 (n,)."""
        return self.arrays["opening"]

    @property
    def width(self) -> np.ndarray:
        """Mouth width over inter-ocular distance, float32 (n,)."""
        return self.arrays["width"]

    @property
    def valid(self) -> np.ndarray:
        """Frames with a found (or interpolated) face, bool (n,)."""
        return self.arrays["valid"]

    @cached_property
    def source_landmarks(self) -> np.ndarray:
        """68 points in SOURCE pixels, float64 (n, 68, 2)."""
        linear, shift = self.transforms[:, :, :2], self.transforms[:, None, :, 2]
        return (self.landmarks - shift) @ np.linalg.inv(linear).transpose(0, 2, 1)

    def frames(self, indices: np.ndarray | list[int]) -> np.ndarray:
        """Crops of the frames asked for: uint8 RGB (k, S, S, 3). IndexError outside the clip."""
        import cv2

        bounds = self.arrays["jpeg_offsets"]  # (n + 1,)
        start, _ = self.info.offsets["jpegs"]
        images = []
        with self._path.open("rb") as f:
            for i in np.asarray(indices, dtype=int):
                if not 0 <= i < self.info.n_frames:
                    raise IndexError(f"{self.info.clip_id}: frame {i} of {self.info.n_frames}")
                f.seek(start + int(bounds[i]))
                data = np.frombuffer(f.read(int(bounds[i + 1] - bounds[i])), np.uint8)
                images.append(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))
        return np.stack(images)

    def audio_windows(self, indices: np.ndarray | list[int], window: int) -> np.ndarray:
        """Log-mel around the frames asked for: float32 (k, window, 80), silence outside the clip."""
        from ..timing import FPS
        from .audio import mel_windows

        return mel_windows(self.mel, np.asarray(indices) / FPS, window)


class PreparedCorpus:
    """A folder written by `lipformer prepare`. DataError if it is missing, incomplete or of another format."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not path.is_file():
            raise DataError(f"{self.folder}: no {MANIFEST}; run `lipformer prepare` first (or again: it resumes)")
        self.manifest = json.loads(path.read_text())
        if self.manifest.get("format") != FORMAT:
            raise DataError(
                f"{path}: format {self.manifest.get('format')}, this version reads {FORMAT}; prepare it again"
            )
        self._infos = {
            c["clip_id"]: ClipInfo(**{**c, "offsets": {k: tuple(v) for k, v in c["offsets"].items()}})
            for c in self.manifest["clips"]
        }

    @property
    def hash(self) -> str:
        """Hash of all shards; goes into every checkpoint trained on them."""
        return self.manifest["hash"]

    @property
    def crop_size(self) -> int:
        """Side of the crops in pixels."""
        return self.manifest["crop_size"]

    def clips(self, split: str) -> list[ClipInfo]:
        """Clips of "train", "val" or "test", in the manifest's order."""
        return [info for info in self._infos.values() if info.split == split]

    @lru_cache(maxsize=512)  # noqa: B019 - one corpus object lives as long as its process; bounds open clips
    def open(self, clip_id: str) -> Clip:
        """A clip by its name; KeyError if the manifest does not list it."""
        return Clip(self._infos[clip_id], self.folder)
