"""The quality gate: which stretches of a clip are fit for training, and in words why the others are not."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...timing import FPS
from ..faces.alignment import eye_distance, valid_runs

if TYPE_CHECKING:
    from ...config import DataSettings
    from ..audio.av_offset import Offset
    from ..faces.tracking import FaceTrack

SHARPNESS_SIZE = 96  # px; crops are brought to this side, so that the measure does not depend on theirs
LONGEST_HELD_S = 0.2  # on screen: a mouth that speaks under a picture that stands longer teaches what is false
STANDS_STILL = f"picture stands still: for more than {LONGEST_HELD_S:g} s"
STEADY = 13  # frames of the running median: a blink of blur or a nod is no reason to cut a clip
SPEECH_BANDS = slice(4, 60)  # mel bands of voices: about 150 to 4000 Hz
SPEECH_LEVEL = -0.9  # mean level of these bands above which there is sound worth the name
SPEECH_RISE = 0.15  # and above the clip's own quietest tenth: hum and noise stay below


@dataclass(frozen=True)
class Limits:
    """What a frame or a clip must keep to."""

    min_eye_distance: float = 12.0  # px in the source between the eyes' centres
    min_sharpness: float = 0.01  # of `sharpness`
    max_yaw: float = 60.0  # degrees; beyond, half the mouth is hidden
    max_other_face: float = 0.8  # size of another face in the picture in units of this one's
    min_run: int = 12  # frames in a row that are fit
    min_face_share: float = 0.02  # of all frames
    min_speech: float = 0.05  # share of the time
    max_offset: int | None = 8  # frames between picture and sound; None: any, since it is corrected

    @classmethod
    def from_settings(cls, settings: DataSettings) -> Limits:
        """The usual limits, or with `quality_gate` off none but `min_run`; an offset that is corrected is no fault."""
        limits = cls() if settings.quality_gate else OPEN
        return replace(limits, max_offset=None) if settings.correct_offset else limits


OPEN = Limits(0.0, 0.0, math.inf, math.inf, min_face_share=0.0, min_speech=0.0, max_offset=None)


class Trim(NamedTuple):
    """Frames [first, last) that were left out, and why."""

    first: int
    last: int
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a clip.

    `reason`: why nothing of it can be used, None if something is kept. `ranges`: kept frames [first, last), each within
    one shot and with a face in every frame. `trimmed`: all other frames. `measured`: numbers, None where there is none.
    """

    reason: str | None
    ranges: list[tuple[int, int]]
    trimmed: list[Trim]
    measured: dict[str, float | None] = field(default_factory=dict)


def gate(
    track: FaceTrack,
    sharpness: np.ndarray,
    speech: float | None,
    offset: Offset | None,
    limits: Limits,
    still: bool = False,
    held_s: np.ndarray | None = None,
) -> Verdict:
    """Judge a clip.

    Args:
        track: the face.
        sharpness: `(n,)` of the aligned crops, by `sharpness`; NaN or anything where there is no face.
        speech: the sound's `speech_share`, 0 to 1; None for a still.
        offset: from `av_offset.estimate_offset`, if it was estimated.
        limits: what to keep to.
        still: a picture without sound: one frame is enough.
        held_s: `(n,)` seconds that each frame's picture has been on screen.
    """
    measured = _measured(track, sharpness, speech, offset)
    shortest = 1 if still else limits.min_run
    faults = _faults(track, sharpness, limits)
    if held_s is not None:
        faults[(held_s > LONGEST_HELD_S) & np.equal(faults, None)] = STANDS_STILL
    ranges, trimmed = [], []
    for first, last in _runs(faults, track.shot):
        fault = faults[first]
        if fault is not None:
            trimmed.append(Trim(first, last, fault))
        elif last - first < shortest:
            trimmed.append(Trim(first, last, f"too short: {last - first} good frames in a row, {shortest} are needed"))
        else:
            ranges.append((first, last))
    reason = None
    if not ranges:
        reason = _most_frequent(trimmed)
    elif measured["face_share"] < limits.min_face_share:
        reason = f"no face in {1 - measured['face_share']:.0%} of the frames"
    elif not still:
        reason = _sound_fault(measured, limits)
    if reason is not None:
        ranges, trimmed = [], [Trim(0, len(track), reason)]
    return Verdict(reason, ranges, trimmed, measured)


def sharpness(crop: np.ndarray) -> float:
    """Share of fine detail in an aligned crop `(S, S, 3)` uint8: from 0 for a plain surface, whatever its contrast."""
    import cv2

    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, (SHARPNESS_SIZE, SHARPNESS_SIZE), interpolation=cv2.INTER_AREA).astype(np.float32)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var() / (grey.var() + 1.0))


def speech_share(mel: np.ndarray) -> float:
    """Share of the time with sound in the bands of voices: of log-mel `(T, 80)` frames, 0 to 1."""
    if not len(mel):
        return 0.0
    level = mel[:, SPEECH_BANDS].mean(1)
    return float((level > max(SPEECH_LEVEL, np.percentile(level, 10) + SPEECH_RISE)).mean())


def _measured(
    track: FaceTrack, sharp: np.ndarray, speech: float | None, offset: Offset | None
) -> dict[str, float | None]:
    valid = track.valid
    found = {"frames": len(track), "face_share": float(valid.mean()) if len(track) else 0.0}
    found |= dict.fromkeys(("eye_distance", "sharpness", "yaw_low", "yaw_high"))
    if valid.any():
        found["eye_distance"] = round(float(np.median(eye_distance(track.landmarks[valid]))), 2)
        low, high = np.percentile(track.pose[valid, 0], [2, 98])
        found |= {"yaw_low": round(float(low), 1), "yaw_high": round(float(high), 1)}
        found["sharpness"] = round(float(np.nanmedian(sharp[valid])), 4)
    found["speech_share"] = None if speech is None else round(speech, 3)
    found["offset"] = offset.frames if offset is not None and offset.confident else None
    found["offset_confidence"] = None if offset is None else round(offset.confidence, 2)
    return found


def _faults(track: FaceTrack, sharp: np.ndarray, limits: Limits) -> np.ndarray:
    """`(n,)` of words, None where a frame is good."""
    faults = np.full(len(track), None, dtype=object)
    faults[~track.valid] = "no face"
    for first, last in valid_runs(track.valid, track.shot):
        run = slice(first, last)
        checks = [
            (eye_distance(track.landmarks[run]), limits.min_eye_distance, -1, "too small: eyes {:.0f} px apart"),
            (track.other[run], limits.max_other_face, 1, "several people: another face {:.2f} times as large"),
            (np.abs(track.pose[run, 0]), limits.max_yaw, 1, "turned too far: by {:.0f} degrees"),
            (sharp[run], limits.min_sharpness, -1, "too blurred: sharpness {:.3f}"),
        ]
        for values, limit, side, words in checks:
            beyond = side * _steady(values) > side * limit
            asked = f", at {'most' if side > 0 else 'least'} {limit:g} is asked for"
            for a, b in valid_runs(beyond & np.equal(faults[run], None)):
                faults[first + a : first + b] = words.format(np.median(values[a:b])) + asked
    return faults


def _steady(values: np.ndarray) -> np.ndarray:
    from scipy.ndimage import median_filter

    return median_filter(np.nan_to_num(values), size=min(STEADY, len(values)), mode="nearest")


def _runs(faults: np.ndarray, shot: np.ndarray) -> list[tuple[int, int]]:
    if not len(faults):
        return []
    change = [k for k in range(1, len(faults)) if faults[k] != faults[k - 1] or shot[k] != shot[k - 1]]
    bounds = [0, *change, len(faults)]
    return list(zip(bounds[:-1], bounds[1:], strict=True))


def _most_frequent(trimmed: list[Trim]) -> str:
    if not trimmed:
        return "no frames"
    frames: dict[str, int] = {}
    for trim in trimmed:
        kind = trim.reason.split(":")[0]
        frames[kind] = frames.get(kind, 0) + trim.last - trim.first
    kind = max(frames, key=frames.get)
    longest = max((t for t in trimmed if t.reason.split(":")[0] == kind), key=lambda t: t.last - t.first)
    return longest.reason


def _sound_fault(measured: dict[str, float | None], limits: Limits) -> str | None:
    share = measured["speech_share"]
    if share is not None and share < limits.min_speech:
        return f"no speech: sound in {share:.0%} of the time, at least {limits.min_speech:.0%} is asked for"
    offset = measured["offset"]
    if offset is not None and limits.max_offset is not None and abs(offset) > limits.max_offset:
        order = "behind" if offset > 0 else "ahead of"
        return (
            f"out of sync: the picture is {abs(offset) / FPS:.2f} s ({abs(offset)} frames) {order} the sound, "
            f"at most {limits.max_offset} frames are asked for"
        )
    return None
