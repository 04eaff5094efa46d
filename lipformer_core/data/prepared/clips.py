"""The prepared form, read side: one folder for any corpus, random access to frames within a clip.

A corpus folder holds `manifest.json` and tar shards in WebDataset's layout, one sample a clip:
`<clip>.json` (metadata), `<clip>.npz` (arrays) and `<clip>.crops` (the crops, one JPEG after the other). Tars
are not compressed, so a frame is one seek away and a window of sound is read where it lies (see `archive`); nothing is
held in memory but the small arrays of open clips.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...config import AudioSettings
from ...errors import DataError
from ...timing import FPS, MEL_RATE, N_MELS
from ..audio.mel import band_means, mel_windows, silent_rows
from ..audio.speech import sound_width
from .archive import SoundRows, mapped, unpack

FORMAT = 2
MANIFEST = "manifest.json"
Data = Path | str | Sequence[Path | str]  # a corpus, or several to train on as one


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


def _array(name: str, doc: str) -> property:
    return property(lambda clip: clip.arrays[name], doc=doc)


class Clip:
    """One prepared clip: 25 frames/s aligned crops, log-mel, landmarks, transforms, pose."""

    mel = _array("mel", "Log-mel, float32 (n_mel, 80); mel frame 4 i is centred on video frame i.")
    sound = _array("sound", "Its sound, int16 at 16 kHz; sample 640 i belongs to video frame i.")
    landmarks = _array("landmarks", "68 points in CROP pixels, float32 (n, 68, 2).")
    transforms = _array("transforms", "Source pixels to crop pixels, float64 (n, 2, 3).")
    pose = _array("pose", "Degrees (yaw, pitch, roll), float32 (n, 3).")
    opening = _array("opening", "Inner-lip gap over inter-ocular distance, float32 (n,).")
    width = _array("width", "Mouth width over inter-ocular distance, float32 (n,).")
    valid = _array("valid", "Frames with a found (or interpolated) face, bool (n,).")
    crop_offsets = _array("crop_offsets", "First byte of each crop in the file of crops, and its end, int64 (n + 1,).")

    def __init__(self, info: ClipInfo, folder: Path):
        self.info = info
        self._path = folder / info.shard

    def _open(self, ending: str) -> tuple[BinaryIO, int, int]:
        """A file that holds a member, the member's first byte in it, and its length."""
        return self._path.open("rb"), *self.info.offsets[ending]

    def _mapped(self, ending: str) -> memoryview:
        """A member that is read as it is looked at. DataError if the shard is too short."""
        file, start, length = self._open(ending)
        with file:
            return mapped(file, start, length)

    @cached_property
    def metadata(self) -> dict:
        """What the clip says of itself: names, split, source, rate, offset that was corrected."""
        return json.loads(bytes(self._mapped("json")))

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name: those above, `mel_before` and `mel_after` around the clip; those of sound are read-only.

        With a speech encoder also `speech`, `speech_before`, `speech_after`: float16 (k, 288) beside the mel's rows.
        """
        return unpack(self._mapped("npz"))

    def encoded(self, indices: np.ndarray | list[int]) -> list[bytes]:
        """Crops of the frames asked for, as they are stored: JPEG files. IndexError outside the clip."""
        file, start, length = self._open("crops")
        still = self.info.n_frames == 1  # its only crop is the whole member
        bounds = (0, length) if still else self.crop_offsets
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
        return self._windows("none", indices, window)

    def heard(self, indices: np.ndarray | list[int], settings: AudioSettings, needed: bool = False) -> np.ndarray:
        """What a model with these settings hears around the frames asked for: float32 (k, window, columns).

        Columns as of `speech.sound_rows`, less the clip's `audio.band_means` where `mean_normalise` is on.

        needed : raise DataError for a clip that was prepared without the speech encoder's features; else they are 0
        """
        encoder = settings.speech_encoder
        if needed and encoder != "none" and "speech" not in self.arrays:
            raise DataError(f"{self.info.clip_id}: prepared without audio.speech_encoder={encoder}; prepare it anew")
        return self._normalised(self._windows(encoder, indices, settings.window), settings)

    def silence(self, settings: AudioSettings) -> np.ndarray:
        """What a model with these settings hears while the clip's speaker is silent: float32 (window, columns)."""
        return self._normalised(silent_rows(settings.window, sound_width(settings.speech_encoder)), settings)

    def _windows(self, encoder: str, indices: np.ndarray | list[int], window: int) -> np.ndarray:
        rows = SoundRows(self.arrays, sound_width(encoder))
        return mel_windows(rows, np.asarray(indices) / FPS + rows.before / MEL_RATE, window)

    def _normalised(self, rows: np.ndarray, settings: AudioSettings) -> np.ndarray:
        if settings.mean_normalise:
            rows[..., :N_MELS] -= self._band_means  # speech features keep their mean
        return rows

    @cached_property
    def _band_means(self) -> np.ndarray:
        return band_means(self.mel)


class PreparedCorpus:
    """A folder written by `lipformer prepare`, or several as one: synthetic persons beside filmed ones.

    `folder`, `manifest`: the first one's. `parts`: each folder's clips, in its manifest's order.
    raises DataError where a folder is missing, incomplete or of another format, where crops differ in size, and where
    a clip's name is in two folders
    """

    def __init__(self, *folders: Path | str):
        self.folder, manifests = Path(folders[0]), [_manifest(Path(folder)) for folder in folders]
        self.manifest = manifests[0]
        sizes = {manifest["crop_size"] for manifest in manifests}
        if len(sizes) > 1:
            raise DataError(f"{', '.join(map(str, folders))}: crops of {sorted(sizes)} pixels; prepare them alike")
        self._hashes = [manifest["hash"] for manifest in manifests]
        self.parts = [clip_infos(manifest) for manifest in manifests]
        self._infos: dict[str, tuple[ClipInfo, Path]] = {}
        for folder, infos in zip(map(Path, folders), self.parts, strict=True):
            for info in infos:
                if info.clip_id in self._infos:
                    raise DataError(
                        f"clip {info.clip_id} is in {self._infos[info.clip_id][1]} and in {folder}; "
                        "one corpus cannot be joined with itself"
                    )
                self._infos[info.clip_id] = info, folder

    @property
    def hash(self) -> str:
        """Hash of all shards, of several folders the hash of theirs; goes into every checkpoint trained on them."""
        one, *more = self._hashes
        return hashlib.sha256("".join(self._hashes).encode()).hexdigest() if more else one

    @property
    def crop_size(self) -> int:
        """Side of the crops in pixels."""
        return self.manifest["crop_size"]

    def clips(self, split: str, stills: bool = True) -> list[ClipInfo]:
        """Clips of "train", "val" or "test", folder by folder, in the manifest's order; portraits only if `stills`."""
        return [info for info, _ in self._infos.values() if info.split == split and (stills or not info.still)]

    @lru_cache(maxsize=512)  # noqa: B019 - one corpus object lives as long as its process; bounds open clips
    def open(self, clip_id: str) -> Clip:
        """A clip by its name; KeyError if no manifest lists it."""
        return Clip(*self._infos[clip_id])


def open_corpus(data: Data) -> PreparedCorpus:
    """One prepared corpus, or several as one. DataError as of the class."""
    return PreparedCorpus(data) if isinstance(data, (str, Path)) else PreparedCorpus(*data)


def _manifest(folder: Path) -> dict:
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{folder}: no {MANIFEST}; run `lipformer prepare` first (or again: it resumes)")
    return read_manifest(path.read_text(), str(path))


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
