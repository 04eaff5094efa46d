"""One face followed through a video: who it is from frame to frame, where cuts end it, and short gaps bridged."""

from __future__ import annotations

import os
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from zipfile import BadZipFile

import numpy as np

from ...errors import DataError, NoFaceFound
from .alignment import STILL_POINTS, valid_runs
from .landmarks import Face, Tracker
from .shots import CutDetector

MIN_OVERLAP = 0.2  # intersection over union with its last box that makes a face the same one
LONGEST_SIDE = 1_920  # pixels of a picture as landmark networks see it; they look at a face at a few hundred at most
MAX_GAP = 12  # frames without a face that are interpolated: about half a second
AGAIN = 12  # frames after which faces are asked again whose they are: a head may have turned, a picture dissolved
MATCH = 0.5  # distance up to which a face is taken for the person asked for,
LET_GO = 0.7  # and from which on, twice, one that is followed is no longer

Recognise = Callable[[np.ndarray, Sequence[Face]], np.ndarray]  # how far each of a picture's faces is from a person's


@dataclass(frozen=True)
class FaceTrack:
    """One face through n frames.

    `landmarks` `(n, 68, 2)` float32 pixels, `pose` `(n, 3)` float32 degrees: yaw > 0 is turned to the image's right,
    pitch > 0 looks up, roll > 0 leans clockwise in the image. `valid` `(n,)` bool: a face is known there.
    `interpolated` `(n,)` bool: it was not seen but lies between two sightings. Rows that are not valid are 0.
    `shot` `(n,)` int32: number of the shot, from 0; a cut begins a new one. `other` `(n,)` float32: size of the largest
    other face in the picture in units of this one's, 0 where it is alone.
    """

    landmarks: np.ndarray
    pose: np.ndarray
    valid: np.ndarray
    interpolated: np.ndarray
    shot: np.ndarray
    other: np.ndarray

    def __len__(self) -> int:
        return len(self.valid)


def load_track(path: str | os.PathLike) -> FaceTrack:
    """Read landmarks from an `.npz`: `landmarks` (n, 68, 2), and if present `pose` (n, 3), `valid` and `shot` (n,).

    A row that is not finite, or whose eyes and nose are no wider or higher than a pixel, is not valid.

    Raises:
        DataError: no such file, or arrays of other names or shapes.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            landmarks = file["landmarks"].astype(np.float32)
            n = len(landmarks)
            pose = file["pose"].astype(np.float32) if "pose" in file else np.zeros((n, 3), np.float32)
            valid = file["valid"].astype(bool) if "valid" in file else np.ones(n, bool)
            shot = file["shot"].astype(np.int32) if "shot" in file else np.zeros(n, np.int32)
    except (OSError, EOFError, ValueError, TypeError, KeyError, BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: no landmark file (an .npz with `landmarks`): {error}") from error
    if landmarks.shape != (n, 68, 2) or pose.shape != (n, 3) or valid.shape != (n,) or shot.shape != (n,):
        raise DataError(
            f"{path}: needs landmarks (n, 68, 2), pose (n, 3), valid (n,), shot (n,); landmarks are {landmarks.shape}"
        )
    landmarks[~np.isfinite(landmarks).all((1, 2))] = 0
    valid &= (np.ptp(landmarks[:, STILL_POINTS], axis=1) > 1).all(1)
    return FaceTrack(landmarks, pose, valid, np.zeros(n, bool), shot, np.zeros(n, np.float32))


def appearances(track: FaceTrack) -> np.ndarray:
    """Number of each frame's appearance, `(n,)` int32 that never falls: a stretch with one person, for all we know.

    A cut begins a new one, and so does a face that comes back in another place after more than `MAX_GAP` frames.
    """
    begins, last_end, last_shot = np.zeros(len(track), np.int32), None, None
    for first, end in valid_runs(track.valid, track.shot):
        if last_end is not None:
            elsewhere = _overlap(_box(track.landmarks[last_end - 1]), _box(track.landmarks[first])) < MIN_OVERLAP
            begins[first] = track.shot[first] != last_shot or (first - last_end > MAX_GAP and elsewhere)
        last_end, last_shot = end, track.shot[first]
    return np.cumsum(begins, dtype=np.int32)


def track_faces(
    frames: Iterable[np.ndarray],
    tracker: Tracker,
    face: str | int | Recognise = "largest",
    max_gap: int = MAX_GAP,
) -> FaceTrack:
    """Follow one face through a video.

    The face is chosen in the first frame that shows it and from then on recognised by overlap with its last box, so
    that two people never swap. After more than `max_gap` frames without it, a face that was not there before may take
    its place, by the same rule as at first. A cut ends the track: the face is chosen anew, and nothing is interpolated
    or taken for known across it. Pictures with a longer side than `LONGEST_SIDE` are made smaller for the tracker.

    Args:
        frames: `(H, W, 3)` uint8 RGB pictures of one size; as many in memory as the tracker takes at once (`batch`,
            mostly one).
        tracker: from `open_tracker`.
        face: `largest`, an index that counts from the image's left, from 0, or a function that is given a picture and
            its faces and says how far each is from the person asked for, such as `recognition.Person`. Where nobody is
            near enough nobody is followed.
        max_gap: frames without the face between two sightings that are interpolated; longer gaps stay invalid.

    Raises:
        NoFaceFound: no frame shows the face.
    """
    if face != "largest" and not (callable(face) or (isinstance(face, int) and face >= 0)):
        raise ValueError(f"face must be 'largest', an index from 0 or a function, not {face!r}")
    chooser = _Chooser(face, max_gap)
    # packed: a small object a frame would keep the memory around it from being used again
    rows, shots, seen = array("f"), array("i"), bytearray()
    shrink = _Shrinker()
    for (points, angles, size), shot in _sightings(map(shrink, frames), tracker, chooser):
        row = np.concatenate([np.zeros(136) if points is None else np.ravel(points), angles, [size]])
        rows.frombytes(row.astype(np.float32).tobytes())
        shots.append(shot)
        seen.append(points is not None)
        if chooser.doubted:  # frames in which another one was followed
            end = len(seen) - seen[-1]
            seen[end - chooser.doubted : end] = bytes(chooser.doubted)
    if not any(seen):
        frames_text = f"{len(seen)} frame{'s' if len(seen) != 1 else ''}"
        if chooser.most and callable(face):
            raise NoFaceFound(f"the person asked for is recognised in none of {frames_text}, though faces are there")
        if chooser.most:
            raise NoFaceFound(f"face {face} asked for, but at most {chooser.most} visible at once in {frames_text}")
        raise NoFaceFound(f"no face found in any of {frames_text}; it may be too small, turned away or covered")
    landmarks, pose, other = np.split(np.array(rows, np.float32).reshape(len(seen), 140), [136, 139], axis=1)
    if shrink.scale < 1:
        landmarks = (landmarks + 0.5) / shrink.scale - 0.5
    found, shot = np.frombuffer(seen, bool), np.array(shots, np.int32)
    return fill_gaps(landmarks.reshape(-1, 68, 2), pose, found, shot, other[:, 0].copy(), max_gap)


def fill_gaps(
    landmarks: np.ndarray,
    pose: np.ndarray,
    seen: np.ndarray,
    shot: np.ndarray,
    other: np.ndarray,
    max_gap: int = MAX_GAP,
) -> FaceTrack:
    """Interpolate linearly over gaps of up to `max_gap` frames between two sightings in one shot; others stay."""
    landmarks, pose = landmarks.copy(), pose.copy()
    interpolated = np.zeros(len(seen), bool)
    for first, last in valid_runs(~seen):
        if first == 0 or last == len(seen) or last - first > max_gap or shot[first - 1] != shot[last]:
            continue
        weight = (np.arange(first, last) - first + 1) / (last - first + 1)
        landmarks[first:last] = landmarks[first - 1] + weight[:, None, None] * (landmarks[last] - landmarks[first - 1])
        pose[first:last] = pose[first - 1] + weight[:, None] * (pose[last] - pose[first - 1])
        interpolated[first:last] = True
    return FaceTrack(landmarks, pose, seen | interpolated, interpolated, shot, other)


Sighting = tuple[np.ndarray | None, np.ndarray, float]  # landmarks or None, pose, size of the largest other face


def _sightings(frames: Iterator[np.ndarray], tracker: Tracker, chooser: _Chooser) -> Iterator[tuple[Sighting, int]]:
    """What is seen of the chosen face in each frame, and the frame's shot."""
    is_cut, shot = CutDetector(), 0
    batch = getattr(tracker, "batch", 1)
    while group := list(islice(frames, batch)):
        cuts = [is_cut(picture) for picture in group]
        found = tracker.detect_batch(group) if len(group) > 1 else [tracker.detect(group[0])]
        for picture, cut, faces in zip(group, cuts, found, strict=True):
            if cut:
                shot += 1
                chooser.new_shot()
            yield chooser.choose(faces, picture), shot


class _Shrinker:
    """Makes large pictures smaller; `scale` is the first one's, and all have its size."""

    def __init__(self) -> None:
        self.scale = np.float32(1)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        import cv2

        height, width = picture.shape[:2]
        if max(height, width) <= LONGEST_SIDE:
            return picture
        self.scale = np.float32(LONGEST_SIDE / max(height, width))
        size = round(width * self.scale), round(height * self.scale)
        return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


class _Chooser:
    """Knows which of the faces in a picture is the one that is followed."""

    def __init__(self, face: str | int | Recognise, max_gap: int) -> None:
        self.face, self.max_gap = face, max_gap
        self.most = 0  # faces ever seen at once
        self.new_shot()

    def new_shot(self) -> None:
        """Forget where anybody was."""
        self.box: np.ndarray | None = None
        self.missed = 0
        self._strangers: list[np.ndarray] = []
        self._refused: list[np.ndarray] = []  # who was not recognised
        self._since = self._doubts = 0  # frames since somebody was asked; how often the one who is followed was too far
        self._unsure = self.doubted = 0  # frames since the one who is followed was known; those that are taken back

    def choose(self, faces: Sequence[Face], picture: np.ndarray) -> Sighting:
        """Find the face among all in a picture."""
        boxes = [_box(points) for points, _ in faces]
        self.most = max(self.most, len(faces))
        self.doubted, self._since, self._unsure = 0, self._since + 1, self._unsure + 1
        if self.box is not None and self.missed <= self.max_gap:
            chosen = self._same(boxes)
            if callable(self.face) and chosen is not None:
                chosen = self._still(chosen, faces, boxes, picture)
        else:
            chosen = self._recognised(faces, boxes, picture) if callable(self.face) else self._new(boxes)
        if chosen is None:
            self.missed += 1
            # those who were beside the lost face stay known; whoever comes new may be the lost one
            self._strangers = [_follow(stranger, boxes) for stranger in self._strangers]
            return None, np.zeros(3, np.float32), 0.0
        self.box, self.missed = boxes[chosen], 0
        self._strangers = [b for i, b in enumerate(boxes) if i != chosen]
        rivals = [_size(b) for b in self._strangers if _overlap(b, self.box) < MIN_OVERLAP]  # not the face seen twice
        return *faces[chosen], max(rivals, default=0.0) / max(_size(self.box), 1e-9)

    def _same(self, boxes: list[np.ndarray]) -> int | None:
        overlaps = [_overlap(self.box, other) for other in boxes]
        return int(np.argmax(overlaps)) if overlaps and max(overlaps) >= MIN_OVERLAP else None

    def _recognised(self, faces: Sequence[Face], boxes: list[np.ndarray], picture: np.ndarray) -> int | None:
        """Asks as soon as a face is there that was not, and of the same ones every AGAIN frames."""
        known = all(any(_overlap(b, other) >= MIN_OVERLAP for other in self._refused) for b in boxes)
        if known and self._since < AGAIN:
            self._refused = boxes
            return None
        self._refused, self._since = boxes, 0
        distances = self.face(picture, faces) if faces else np.ones(1)
        if distances.min() > MATCH:
            return None
        self._refused, self._doubts, self._unsure = [], 0, 0
        return int(distances.argmin())

    def _still(self, chosen: int, faces: Sequence[Face], boxes: list[np.ndarray], picture: np.ndarray) -> int | None:
        """Asks every AGAIN frames, and after a doubt or a gap at once, whether it is still the person."""
        if self._since < AGAIN and not self._doubts and not self.missed:
            return chosen
        self._since, distances = 0, self.face(picture, faces)
        nearest = int(distances.argmin())
        beside = nearest != chosen and distances[nearest] <= MATCH
        if not beside and distances[chosen] < LET_GO:
            self._doubts = self._unsure = 0
            return chosen
        self._doubts += 1
        if not beside and self._doubts < 2:
            return chosen
        # what was followed since the person was last known is taken back
        self.doubted, self._doubts, self._unsure = self._unsure - beside, 0, 0
        self.box, self._refused = None, [] if beside else boxes
        return nearest if beside else None

    def _new(self, boxes: list[np.ndarray]) -> int | None:
        new = [i for i, b in enumerate(boxes) if all(_overlap(b, s) < MIN_OVERLAP for s in self._strangers)]
        if self.face == "largest":
            return max(new, key=lambda i: np.prod(boxes[i][2:] - boxes[i][:2]), default=None)
        by_position = sorted(range(len(boxes)), key=lambda i: boxes[i][0])
        at_index = by_position[self.face] if self.face < len(boxes) else None
        return at_index if at_index in new else None


def _box(landmarks: np.ndarray) -> np.ndarray:
    return np.concatenate([landmarks.min(0), landmarks.max(0)])


def _size(box: np.ndarray) -> float:
    return float(np.sqrt(np.prod(box[2:] - box[:2])))


def _follow(box: np.ndarray, boxes: list[np.ndarray]) -> np.ndarray:
    """Where a known box has moved to; where it was, if nothing overlaps it any more."""
    nearest = max(boxes, key=lambda other: _overlap(box, other), default=box)
    return nearest if _overlap(box, nearest) >= MIN_OVERLAP else box


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes `(x0, y0, x1, y1)`."""
    shared = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared + 1e-9))
