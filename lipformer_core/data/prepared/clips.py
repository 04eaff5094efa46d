"""The prepared form, read side: one folder for any corpus, random access to frames within a clip.

A corpus folder holds `manifest.json` and tar shards in WebDataset's layout, one sample a clip:
`<clip>.json` (metadata), `<clip>.npz` (arrays) and `<clip>.crops` (the crops, one JPEG or WebP after the other). Tars
are not compressed, so a frame is one seek away and a window of sound is read where it lies (see `archive`); nothing is
held in memory but the small arrays of open clips.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...config import AudioSettings
from ...errors import DataError
from .archive import SoundRows, mapped, unpack

FORMAT = 2
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ClipInfo:
    """What the manifest says of a clip.

    `source` is the name of the corpus's clip that it was cut from, `first_frame` where it begins there (25 frames/s).
    `still`: a portrait, one frame without sound. `offsets`: member ending to (first byte, length) within the shard.
    `runs`: stretches [first, last) of valid frames.
    """

    clip_id: str
    person: str
    split: str
    n_frames: int
    shard: str
    offsets: dict[str, tuple[int, int]]
    source: str
    first_frame: int
    still: bool
    runs: list[tuple[int, int]]

    @property
    def valid_frames(self) -> np.ndarray:
        """Indices of the frames that show a face: int64 (k,). Needs no look into the shard."""
        return np.concatenate([np.arange(0), *(np.arange(first, last) for first, last in self.runs)])


class Clip:
    """One prepared clip: 25 frames/s aligned crops, log-mel, landmarks, transforms, pose."""

    def __init__(self, info: ClipInfo, folder: Path):
        self.info = info
        self._path = folder / info.shard

    def _open(self, ending: str) -> tuple[BinaryIO, int, int]:
        """A file that holds a member, the member's first byte in it, and its length."""
        return self._path.open("rb"), *self.info.offsets[ending]

    def _read(self, ending: str) -> bytes:
        file, start, length = self._open(ending)
        with file:
            file.seek(start)
            return file.read(length)

    def _mapped(self, ending: str) -> memoryview:
        """A member that is read as it is looked at. DataError if the shard is too short."""
        file, start, length = self._open(ending)
        with file:
            return mapped(file, start, length)

    @cached_property
    def metadata(self) -> dict:
        """What the clip says of itself: names, split, source, rate, offset that was corrected."""
        return json.loads(self._read("json"))

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays; see `shards.ARRAYS` and `SPEECH_ARRAYS` for names and shapes. Those of sound are read-only."""
        return unpack(self._mapped("npz"))

    @property
    def mel(self) -> np.ndarray:
        """Log-mel, float32 (n_mel, 80); mel frame 4 i is centred on video frame i."""
        return self.arrays["mel"]

    @property
    def sound(self) -> np.ndarray:
        """The clip's sound, int16 at 16 kHz; sample 640 i belongs to video frame i. Empty in older data."""
        return self.arrays.get("sound", np.zeros(0, np.int16))

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

    def encoded(self, indices: np.ndarray | list[int]) -> list[bytes]:
        """Crops of the frames asked for, as they are stored: JPEG or WebP files. IndexError outside the clip."""
        file, start, length = self._open("crops")
        still = self.info.n_frames == 1  # its only crop is the whole member
        bounds = (0, length) if still else self.arrays["crop_offsets"]  # (n + 1,)
        pictures = []
        with file:
            for i in np.asarray(indices, dtype=int):
                if not 0 <= i < self.info.n_frames:
                    raise IndexError(f"{self.info.clip_id}: frame {i} of {self.info.n_frames}")
                file.seek(start + int(bounds[i]))
                pictures.append(file.read(int(bounds[i + 1] - bounds[i])))
        return pictures

    def frames(self, indices: np.ndarray | list[int]) -> np.ndarray:
        """Crops of the frames asked for: uint8 RGB (k, S, S, 3). IndexError outside the clip."""
        return np.stack([decode(picture) for picture in self.encoded(indices)])

    def audio_windows(self, indices: np.ndarray | list[int], window: int) -> np.ndarray:
        """Log-mel around the frames asked for: float32 (k, window, 80).

        Where the clip was cut out of a longer one its sound goes on for a second; beyond that there is silence.
        """
        return self._windows(self._sound("none"), indices, window)

    def heard(self, indices: np.ndarray | list[int], settings: AudioSettings, needed: bool = False) -> np.ndarray:
        """What a model with these settings hears around the frames asked for: float32 (k, window, columns).

        Columns as of `speech.sound_rows`, less the clip's `audio.band_means` where `mean_normalise` is on.

        needed : raise DataError for a clip that was prepared without the speech encoder's features; else they are 0
        """
        windows = self._windows(self._rows(settings, needed), indices, settings.window)
        windows = _padded(windows, settings)
        return self._normalised(windows) if settings.mean_normalise else windows

    def silence(self, settings: AudioSettings) -> np.ndarray:
        """What a model with these settings hears while the clip's speaker is silent: float32 (window, columns)."""
        from ..audio.mel import silent_rows

        silent = _padded(silent_rows(settings.window, self._rows(settings).shape[1]), settings)
        return self._normalised(silent) if settings.mean_normalise else silent

    def _windows(self, rows: SoundRows, indices: np.ndarray | list[int], window: int) -> np.ndarray:
        from ...timing import FPS, MEL_RATE
        from ..audio.mel import mel_windows

        return mel_windows(rows, np.asarray(indices) / FPS + rows.before / MEL_RATE, window)

    def _normalised(self, rows: np.ndarray) -> np.ndarray:
        rows[..., : len(self._band_means)] -= self._band_means  # speech features keep their mean
        return rows

    @cached_property
    def _band_means(self) -> np.ndarray:
        from ..audio.mel import band_means

        return band_means(self.mel)

    def _rows(self, settings: AudioSettings, needed: bool = False) -> SoundRows:
        """Rows of the sound, without the features that the clip lacks unless they are needed."""
        absent = "speech" not in self.arrays and not needed
        return self._sound("none" if absent else settings.speech_encoder)

    def _sound(self, encoder: str) -> SoundRows:
        """Rows of the clip's sound and its surroundings, of as many columns as a model with this encoder hears."""
        if encoder not in self._sounds:
            kinds = ("mel",) if encoder == "none" else ("mel", "speech")
            if kinds[-1] not in self.arrays:
                raise DataError(
                    f"{self.info.clip_id}: prepared without audio.speech_encoder={encoder}; prepare it anew"
                )
            self._sounds[encoder] = SoundRows(self.arrays, kinds)
        return self._sounds[encoder]

    @cached_property
    def _sounds(self) -> dict[str, SoundRows]:
        return {}


def _padded(rows: np.ndarray, settings: AudioSettings) -> np.ndarray:
    """Rows (…, columns) with zeros for features that are not there."""
    from ..audio.speech import sound_width

    lacking = sound_width(settings.speech_encoder) - rows.shape[-1]
    return np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, lacking)]) if lacking else rows


class PreparedCorpus:
    """A folder written by `lipformer prepare`. DataError if it is missing, incomplete or of another format."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not path.is_file():
            raise DataError(f"{self.folder}: no {MANIFEST}; run `lipformer prepare` first (or again: it resumes)")
        self.manifest = read_manifest(path.read_text(), str(path))
        self._infos = {info.clip_id: info for info in clip_infos(self.manifest)}
        self.parts = [self]  # several where corpora are joined

    @property
    def hash(self) -> str:
        """Hash of all shards; goes into every checkpoint trained on them."""
        return self.manifest["hash"]

    @property
    def crop_size(self) -> int:
        """Side of the crops in pixels."""
        return self.manifest["crop_size"]

    def clips(self, split: str, stills: bool = True) -> list[ClipInfo]:
        """Clips of "train", "val" or "test", in the manifest's order; portraits only if `stills`."""
        return [info for info in self._infos.values() if info.split == split and (stills or not info.still)]

    @lru_cache(maxsize=512)  # noqa: B019 - one corpus object lives as long as its process; bounds open clips
    def open(self, clip_id: str) -> Clip:
        """A clip by its name; KeyError if the manifest does not list it."""
        return Clip(self._infos[clip_id], self.folder)

    def verify(self) -> None:
        """Compare every shard with its hash in the manifest; DataError names the first that differs or is missing."""
        for name, expected in self.manifest["shards"].items():
            path = self.folder / name
            if not path.is_file():
                raise DataError(f"{path}: missing; copy the corpus again or prepare it anew")
            with path.open("rb") as f:
                if hashlib.file_digest(f, "sha256").hexdigest() != expected:
                    raise DataError(f"{path}: damaged, not what was written; copy the corpus again or prepare it anew")


def decode(picture: bytes) -> np.ndarray:
    """One stored crop as uint8 RGB (S, S, 3). DataError if it is damaged."""
    import cv2

    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise DataError("a stored crop cannot be decoded; the shard is damaged: copy the corpus again")
    return image


def read_manifest(text: str, where: str) -> dict:
    """Parse a manifest; DataError names `where` if it is damaged or of a format that this version does not read."""
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise DataError(f"{where}: damaged ({error}); prepare it again") from error
    if manifest.get("format") != FORMAT:
        raise DataError(f"{where}: format {manifest.get('format')}, this version reads {FORMAT}; prepare it again")
    return manifest


def clip_infos(manifest: dict) -> list[ClipInfo]:
    """All clips of a manifest, in its order."""
    return [ClipInfo(**{**c, "offsets": {k: tuple(v) for k, v in c["offsets"].items()}}) for c in manifest["clips"]]
