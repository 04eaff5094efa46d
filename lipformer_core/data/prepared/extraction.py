"""One source of a corpus to clips: crops, sound, landmarks and transforms, in bounded memory whatever its length.

Two passes: the first follows the face, the second cuts the crops along the smoothed track. Crops and sound go
to temporary files; in memory are one picture and a few kilobytes a frame.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ...config import Config
from ...errors import MediaError, NoFaceFound, WeightsMissing
from ...files import state_of, write_json
from ...timing import FPS, HOP, MEL_PER_FRAME, MEL_RATE, N_MELS
from ..audio.mel import BLOCK
from ..audio.speech import sound_width
from ..corpora import ClipSource, printable
from ..corpora.splits import BY_TIME, SHORTEST, by_time
from ..faces.alignment import crop_transforms, mouth_shape, transform_points, valid_runs, warp_crop
from ..media.packets import Damage
from ..media.source_streams import SoundFile, shown_frames, sound_from, write_sound
from .quality import Limits, gate
from .shards import PartClip, encode_crop, write_part, writing

if TYPE_CHECKING:
    from ..audio.av_offset import Offset
    from .quality import Verdict

TRACKER_PACKAGES = {"mediapipe": ("mediapipe",), "face_alignment": ("face-alignment", "torch"), "none": ()}
JPEG_QUALITY = 95  # of the stored crops
CLIP_FRAMES = 750  # of the longest clip; longer videos become several
CONTEXT = MEL_RATE  # mel frames before and after a clip that are kept where it was cut out of a longer one
OFFSET_FRAMES = 60 * FPS  # of which the offset between picture and sound is estimated


@dataclass(frozen=True)
class Material:
    """All of a source. Arrays as of `clips.Clip`, but landmarks (n, 68, 2) in source pixels."""

    landmarks: np.ndarray
    pose: np.ndarray
    valid: np.ndarray
    transforms: np.ndarray
    crop_offsets: np.ndarray
    sound: SoundFile
    audio_offset: int = 0  # frames by which the sound was moved later, to fit the lips


def prepare_source(source: ClipSource, parts: Path, config: Config) -> dict:
    """Write a source's part (`<part>.tar`), and last its row (`<part>.json`), also if it is dropped; returns the row.

    raises DataError if `parts` cannot be written, WeightsMissing without a landmark network
    """
    began = time.process_time()  # of this process, however busy the machine is
    row = {"clip_id": source.clip_id, "person": source.person, "split": source.split, "reason": source.missing}
    row |= {"clips": [], "trimmed": [], "measured": {}, "video_seconds": 0.0, "state": source_state(source)}
    row["files"] = {path: state_of(path) for path in source.files}
    name = part_name(source.clip_id)
    with writing(parts), TemporaryDirectory(prefix="scratch-", dir=parts) as scratch:
        if not source.missing:
            try:
                _prepare(source, parts / f"{name}.tar", Path(scratch), config, row)
            except (MediaError, NoFaceFound) as error:
                row["reason"] = printable(f"{type(error).__name__}: {error}")
        row["compute_seconds"] = round(time.process_time() - began, 3)
        write_json(parts / f"{name}.json", row)
    return row


def part_name(clip_id: str) -> str:
    """Name of a source's files in the folder of parts: safe and short whatever the clip is called."""
    return hashlib.sha256(clip_id.encode("utf-8", "surrogateescape")).hexdigest()[:24]


def source_state(source: ClipSource) -> list:
    """What tells that a source has changed since it was prepared: its row, and sizes and dates of its files."""
    files = [[os.stat(p).st_size, os.stat(p).st_mtime_ns] for p in source.files]
    return [source.person, source.split, *source.stretch, *files]


def tracker_name() -> str:
    """The landmark network that preparation will use: "mediapipe", "face_alignment", or "none" without their files."""
    from ... import weights
    from ..faces.landmarks import FAN_FILE, MEDIAPIPE_FILE

    for name, file in (("mediapipe", MEDIAPIPE_FILE), ("face_alignment", FAN_FILE)):
        try:
            weights.find(file)
        except WeightsMissing:
            continue
        return name
    return "none"


def _prepare(source: ClipSource, part: Path, scratch: Path, config: Config, row: dict) -> None:
    with (scratch / "crops").open("wb+") as crops, (scratch / "sound").open("wb+") as heard:
        if source.synthetic:
            material, ranges = _synthetic(source, config, crops, heard), [(0, source.synthetic[2])]
        else:
            material, verdict = _filmed(source, config, crops, heard)
            ranges = verdict.ranges
            row |= {"reason": verdict.reason, "measured": verdict.measured}
            row["trimmed"] = [cut._asdict() for cut in verdict.trimmed]
        row["video_seconds"] = len(material.valid) / FPS
        stretches = [(source.split, *cut) for cut in ranges]
        if source.split == BY_TIME and ranges:
            usable = sum(last - first for first, last in ranges)
            stretches = by_time(ranges, Limits().min_run) if usable >= SHORTEST else []
            if usable < SHORTEST:
                row["reason"] = f"too short: {usable / FPS:.1f} s are usable, {SHORTEST / FPS:g} s are needed"
        placed = [(split, cut) for split, *ends in stretches for cut in pieces(*ends, CLIP_FRAMES)]
        cuts = [cut for _, cut in placed]
        clips = [_metadata(source, s, material, number, cut, cuts) for number, (s, cut) in enumerate(placed)]
        if clips:
            write_part(part, (_part_clip(m, material, cut) for m, cut in zip(clips, cuts, strict=True)), crops)
        row["clips"] = [m | {"bytes": _length(material, *cut)} for m, cut in zip(clips, cuts, strict=True)]


def _synthetic(source: ClipSource, config: Config, crops: BinaryIO, heard: BinaryIO) -> Material:
    from ..synthetic import synthesise_clip

    person, clip, n = source.synthetic
    made = synthesise_clip(config.data.synthetic.seed, person, clip, n, config.data.synthetic.size)
    valid = np.ones(n, bool)
    transforms = crop_transforms(made.landmarks, valid, config.data.size)
    offsets, _ = _cut(iter(made.frames), transforms, valid, crops, config)
    sound = write_sound(iter([made.audio]), 0, 1 + len(made.audio) // HOP, heard, config.audio.speech_encoder)
    return Material(made.landmarks, made.pose, valid, transforms, offsets, sound)


def _filmed(source: ClipSource, config: Config, crops: BinaryIO, heard: BinaryIO) -> "tuple[Material, Verdict]":
    from ..faces.tracking import track_faces

    seen, hears, held_s = Damage(), Damage(), []

    def frames(*notes: Damage | list) -> Iterator[np.ndarray]:
        return shown_frames(source.path, source.start_s, source.end_s, *notes)

    corner = np.zeros(2, np.float32)

    def cropped() -> Iterator[np.ndarray]:
        for frame in frames(seen, held_s):
            if source.crop is not None:
                (left, top, right, bottom), (height, width) = np.maximum(source.crop, 0), frame.shape[:2]
                corner[:], frame = (left, top), frame[top:bottom, left:right]
                if not frame.size:
                    raise MediaError(f"the crop {source.crop} lies outside the picture of {width} x {height} pixels")
            yield frame

    stream = None
    if not source.still:
        before = min(CONTEXT, int(source.start_s * MEL_RATE))
        stream = sound_from(source.audio_path or source.path, source.start_s, before / MEL_RATE, hears)
        first_block = next(stream)  # a file without sound says so before the pictures are looked at
    track = track_faces(cropped(), _tracker())
    n = len(track.valid)
    landmarks = track.landmarks
    landmarks += corner  # in place: no second copy of a long video's
    transforms = crop_transforms(landmarks, track.valid, config.data.size, shot=track.shot)
    offsets, sharpness = _cut(frames(), transforms, track.valid, crops, config)
    sound = SoundFile(heard, 0, 0, sound_width(config.audio.speech_encoder) + HOP)
    share = offset = None
    if stream is not None:
        count = before + mel_frames(n) + CONTEXT
        sound = write_sound(chain([first_block], stream), before, count, heard, config.audio.speech_encoder)
        share, offset = _speech_share(sound, n), _offset(landmarks, track.valid, sound)
    verdict = gate(track, sharpness, share, offset, Limits.from_settings(config.data), source.still, np.array(held_s))
    moved = offset.frames if config.data.correct_offset and offset is not None and offset.confident else 0
    verdict.measured.update(corrected=moved, **{**hears.counts(), **seen.counts()})
    return Material(landmarks, track.pose, track.valid, transforms, offsets, sound, moved), verdict


def _speech_share(sound: SoundFile, n_frames: int) -> float:
    """As `quality.speech_share`, minute by minute."""
    from .quality import speech_share

    total = mel_frames(n_frames)
    shares = [(speech_share(sound.mel(a, b)), b - a) for a, b in pieces(0, total, BLOCK)]
    return sum(share * length for share, length in shares) / total


def _offset(landmarks: np.ndarray, valid: np.ndarray, sound: SoundFile) -> "Offset | None":
    from ..audio.av_offset import SHORTEST, estimate_offset

    opening = np.where(valid[:OFFSET_FRAMES], mouth_shape(landmarks[:OFFSET_FRAMES])[0], np.nan)
    if np.isfinite(opening).sum() < SHORTEST:
        return None
    return estimate_offset(opening, sound.mel(0, mel_frames(len(opening))))


def _cut(
    frames: Iterator[np.ndarray], transforms: np.ndarray, valid: np.ndarray, crops: BinaryIO, config: Config
) -> tuple[np.ndarray, np.ndarray]:
    """Write the crops one after the other, black ones where there is no face; offsets (n + 1,) and sharpness (n,)."""
    from .quality import sharpness

    size = config.data.size
    black = encode_crop(np.zeros((size, size, 3), np.uint8), JPEG_QUALITY)
    lengths, sharp = [0], []
    for frame, transform, ok in zip(frames, transforms, valid, strict=True):
        crop = warp_crop(frame, transform, size) if ok else None
        sharp.append(sharpness(crop) if ok else np.nan)
        picture = black if crop is None else encode_crop(crop, JPEG_QUALITY)
        crops.write(picture)
        lengths.append(len(picture))
    crops.flush()
    return np.cumsum(lengths).astype(np.int64), np.array(sharp, np.float32)


def _metadata(
    source: ClipSource, split: str, material: Material, number: int, cut: tuple[int, int], cuts: list
) -> dict:
    return {
        "clip_id": source.clip_id if len(cuts) == 1 else f"{source.clip_id}-{number:03d}",
        "person": source.person,
        "split": split,
        "n_frames": cut[1] - cut[0],
        "fps": FPS,
        "source": source.clip_id,
        "first_frame": cut[0],
        "still": source.still,
        "runs": valid_runs(material.valid[slice(*cut)]),
        "image_format": "jpeg",
        "audio_offset": material.audio_offset,
    }


def _part_clip(metadata: dict, material: Material, cut: tuple[int, int]) -> PartClip:
    first, last = cut
    transforms, in_source = material.transforms[first:last], material.landmarks[first:last]
    landmarks = np.stack([transform_points(m, points) for m, points in zip(transforms, in_source, strict=True)])
    opening, width = mouth_shape(landmarks)
    begin = MEL_PER_FRAME * (first - material.audio_offset)
    end = begin + mel_frames(last - first)
    low, high = material.sound.first, material.sound.first + material.sound.count
    heard = {
        "": material.sound.read(begin, end),
        "_before": material.sound.read(min(begin, max(low, begin - CONTEXT)), begin),
        "_after": material.sound.read(end, max(end, min(high, end + CONTEXT))),
    }
    arrays = {f"mel{part}": np.ascontiguousarray(rows[:, :N_MELS]) for part, rows in heard.items()}
    if material.sound.width > N_MELS + HOP:
        arrays |= {f"speech{part}": rows[:, N_MELS:-HOP].astype(np.float16) for part, rows in heard.items()}
    arrays |= {
        "sound": np.clip(np.rint(heard[""][:, -HOP:].ravel() * 2**15), -(2**15), 2**15 - 1).astype(np.int16),
        "landmarks": landmarks.astype(np.float32),
        "transforms": transforms.astype(np.float64),
        "pose": np.asarray(material.pose[first:last], np.float32),
        "opening": opening.astype(np.float32),
        "width": width.astype(np.float32),
        "valid": np.asarray(material.valid[first:last], bool),
        "crop_offsets": (material.crop_offsets[first : last + 1] - material.crop_offsets[first]).astype(np.int64),
    }
    return metadata, arrays, (int(material.crop_offsets[first]), _length(material, *cut))


def _length(material: Material, first: int, last: int) -> int:
    return int(material.crop_offsets[last] - material.crop_offsets[first])


def pieces(first: int, last: int, longest: int) -> list[tuple[int, int]]:
    """Cut [first, last) into as few pieces of nearly equal length as fit `longest` frames each."""
    count = -(-(last - first) // longest)
    bounds = np.linspace(first, last, count + 1).round().astype(int)
    return [(int(a), int(b)) for a, b in pairwise(bounds)]


def mel_frames(n_frames: int) -> int:
    """Mel frames that belong to a clip: the last is centred on the moment after its last picture."""
    return n_frames * MEL_PER_FRAME + 1


@lru_cache(maxsize=1)
def _tracker() -> object:
    from ..faces.landmarks import open_tracker

    return open_tracker()
