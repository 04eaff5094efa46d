"""Faces in pictures: 68 landmarks and head pose of each, and one face followed through a video."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .. import weights
from ..errors import DataError, NoFaceFound, WeightsMissing
from .alignment import MEAN_FACE, STILL_POINTS, valid_runs

if TYPE_CHECKING:
    from mediapipe.tasks.python.vision import FaceLandmarker

MEDIAPIPE_FILE = "face_landmarker.task"
FAN_FILE = "2DFAN4-11f355bf06.pth.tar"
FAN_DETECTORS = {"sfd": "s3fd-619a316812.pth", "yunet": "face_detection_yunet_2023mar.onnx"}
MAX_FACES = 4  # above one, MediaPipe also leaves its own smoothing out, which flattens the mouth's motion
MIN_OVERLAP = 0.2  # intersection over union with its last box that makes a face the same one
MAX_GAP = 12  # frames without a face that are interpolated: about half a second

# The 68 iBUG points among MediaPipe's 478, in groups: jaw, brows, nose, eyes, outer and inner lips.
MEDIAPIPE_68 = np.array(
    [
        *[127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356],
        *[70, 63, 105, 66, 107, 336, 296, 334, 293, 300],
        *[168, 197, 5, 4, 98, 97, 2, 326, 327],
        *[33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380],
        *[61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181],
        *[78, 82, 13, 312, 308, 317, 14, 87],
    ]
)

Face = tuple[np.ndarray, np.ndarray]  # landmarks (68, 2) float32 pixels, pose (3,) float32 degrees


class Tracker(Protocol):
    """Anything that finds faces in one picture."""

    def detect(self, rgb: np.ndarray) -> list[Face]:
        """Return landmarks `(68, 2)` and pose `(yaw, pitch, roll)` of each face in `(H, W, 3)` uint8 RGB."""


@dataclass(frozen=True)
class FaceTrack:
    """One face through n frames.

    `landmarks` `(n, 68, 2)` float32 pixels, `pose` `(n, 3)` float32 degrees: yaw > 0 is turned to the image's right,
    pitch > 0 looks up, roll > 0 leans clockwise in the image. `valid` `(n,)` bool: a face is known there.
    `interpolated` `(n,)` bool: it was not seen but lies between two sightings. Rows that are not valid are 0.
    """

    landmarks: np.ndarray
    pose: np.ndarray
    valid: np.ndarray
    interpolated: np.ndarray

    def __len__(self) -> int:
        return len(self.valid)

    def save(self, path: str | os.PathLike) -> None:
        """Write the track as an `.npz` that `load_track` reads."""
        np.savez_compressed(path, landmarks=self.landmarks, pose=self.pose, valid=self.valid)


def load_track(path: str | os.PathLike) -> FaceTrack:
    """Read landmarks from an `.npz`: `landmarks` (n, 68, 2), and if present `pose` (n, 3) and `valid` (n,).

    Raises:
        DataError: no such file, or arrays of other names or shapes.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            landmarks = file["landmarks"].astype(np.float32)
            n = len(landmarks)
            pose = file["pose"].astype(np.float32) if "pose" in file else np.zeros((n, 3), np.float32)
            valid = file["valid"].astype(bool) if "valid" in file else np.ones(n, bool)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: no landmark file (an .npz with `landmarks`): {error}") from error
    if landmarks.shape != (n, 68, 2) or pose.shape != (n, 3) or valid.shape != (n,):
        raise DataError(f"{path}: needs landmarks (n, 68, 2), pose (n, 3), valid (n,); landmarks are {landmarks.shape}")
    return FaceTrack(landmarks, pose, valid & np.isfinite(landmarks).all((1, 2)), np.zeros(n, bool))


def open_tracker(backend: str = "auto") -> Tracker:
    """Open a landmark network.

    Args:
        backend: `mediapipe`, `face_alignment`, or `auto`: the first of them whose files are present.

    Raises:
        WeightsMissing: its files are not present; the message names them.
        ValueError: another backend.
    """
    if backend == "mediapipe":
        return MediaPipeTracker(weights.find(MEDIAPIPE_FILE))
    if backend == "face_alignment":
        return _open_fan()
    if backend != "auto":
        raise ValueError(f"backend must be auto, mediapipe or face_alignment, not {backend!r}")
    missing = []
    for name in ("mediapipe", "face_alignment"):
        try:
            return open_tracker(name)
        except WeightsMissing as error:
            missing.append(str(error))
    raise WeightsMissing("no landmark network is present: " + "; ".join(missing))


class MediaPipeTracker:
    """MediaPipe's FaceLandmarker on single pictures: about 45 a second on one core."""

    def __init__(self, path: str | os.PathLike) -> None:
        with _native_stderr_silenced():
            from mediapipe.tasks.python import BaseOptions
            from mediapipe.tasks.python.vision import FaceLandmarker, FaceLandmarkerOptions

            options = FaceLandmarkerOptions(
                base_options=BaseOptions(model_asset_path=str(path)),
                num_faces=MAX_FACES,
                output_facial_transformation_matrixes=True,
            )
            self._landmarker = FaceLandmarker.create_from_options(options)
            weakref.finalize(self, _close_landmarker, self._landmarker)
            self.detect(np.zeros((64, 64, 3), np.uint8))  # the rest of the chatter comes with the first picture

    def detect(self, rgb: np.ndarray) -> list[Face]:
        """See `Tracker.detect`."""
        import mediapipe

        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(rgb))
        result = self._landmarker.detect(image)
        # Relative coordinates count from the picture's edge, ours from the first pixel's centre.
        scale, shift = np.array([rgb.shape[1], rgb.shape[0]]), 0.5
        faces = []
        for points, matrix in zip(result.face_landmarks, result.facial_transformation_matrixes, strict=True):
            xy = np.array([(points[i].x, points[i].y) for i in MEDIAPIPE_68])
            faces.append(((xy * scale - shift).astype(np.float32), _angles(np.asarray(matrix)[:3, :3])))
        return faces


class FanTracker:
    """2DFAN-4 of face-alignment, the landmarks that the field's LMD is computed with; pose from a rigid mean face."""

    def __init__(self, fan_path: Path, detector: str, detector_path: Path) -> None:
        import torch
        from face_alignment import FaceAlignment, LandmarksType
        from face_alignment.models import FAN

        class LocalFaceAlignment(FaceAlignment):
            """Takes the network from a file, where the library would download it."""

            def _load_native(self, network_name: str, network_size: int, device: str, dtype: torch.dtype) -> FAN:
                network = FAN(network_size)
                network.load_state_dict(torch.load(fan_path, map_location=device, weights_only=True))
                return network.to(device, dtype=dtype).eval()

        self._fan = LocalFaceAlignment(
            LandmarksType.TWO_D,
            device="cuda" if torch.cuda.is_available() else "cpu",
            face_detector=detector,
            face_detector_kwargs={"path_to_detector": str(detector_path)},
            compile=False,
        )

    def detect(self, rgb: np.ndarray) -> list[Face]:
        """See `Tracker.detect`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no face is an answer here
            found = self._fan.get_landmarks_from_image(np.ascontiguousarray(rgb)) or []
        return [(points[:, :2].astype(np.float32), pose_from_landmarks(points[:, :2])) for points in found]


def _close_landmarker(landmarker: FaceLandmarker) -> None:
    """Free the network; at the interpreter's end, when MediaPipe's threads are gone, leave that to the system."""
    try:
        landmarker.close()
    except RuntimeError:
        landmarker._handle = None  # or its own finaliser would try again and print a traceback


def _open_fan() -> FanTracker:
    fan = weights.find(FAN_FILE)
    for detector, name in FAN_DETECTORS.items():
        try:
            return FanTracker(fan, detector, weights.find(name))
        except WeightsMissing:
            continue
    raise WeightsMissing(f"{FAN_FILE} needs a face detector, {' or '.join(FAN_DETECTORS.values())}; none is present")


def track_faces(
    frames: Iterable[np.ndarray], tracker: Tracker, face: str | int = "largest", max_gap: int = MAX_GAP
) -> FaceTrack:
    """Follow one face through a video.

    The face is chosen in the first frame that shows it and from then on recognised by overlap with its last box, so
    that two people never swap. After more than `max_gap` frames without it, a face that was not there before may take
    its place (the same person after a cut), by the same rule as at first.

    Args:
        frames: `(H, W, 3)` uint8 RGB pictures, one in memory at a time.
        tracker: from `open_tracker`.
        face: `largest`, or an index that counts from the image's left, from 0.
        max_gap: frames without the face between two sightings that are interpolated; longer gaps stay invalid.

    Raises:
        NoFaceFound: no frame shows the face.
    """
    if face != "largest" and not (isinstance(face, int) and face >= 0):
        raise ValueError(f"face must be 'largest' or an index from 0, not {face!r}")
    landmarks, poses, seen = [], [], []
    box, missed, most = None, 0, 0
    strangers: list[np.ndarray] = []
    for frame in frames:
        faces = tracker.detect(frame)
        boxes = [_box(points) for points, _ in faces]
        most = max(most, len(faces))
        chosen = None
        if box is not None and missed <= max_gap:
            overlaps = [_overlap(box, other) for other in boxes]
            if overlaps and max(overlaps) >= MIN_OVERLAP:
                chosen = int(np.argmax(overlaps))
        else:
            new = [i for i, b in enumerate(boxes) if all(_overlap(b, s) < MIN_OVERLAP for s in strangers)]
            if face == "largest" and new:
                chosen = max(new, key=lambda i: np.prod(boxes[i][2:] - boxes[i][:2]))
            elif face != "largest" and face < len(boxes):
                by_position = sorted(range(len(boxes)), key=lambda i: boxes[i][0])
                chosen = by_position[face] if by_position[face] in new else None
        if chosen is None:
            missed += 1
        else:
            box, missed = boxes[chosen], 0
        if chosen is not None:
            strangers = [b for i, b in enumerate(boxes) if i != chosen]
        else:  # those who were beside the lost face stay known; whoever comes new may be the lost one
            strangers = [_follow(stranger, boxes) for stranger in strangers]
        points, pose = faces[chosen] if chosen is not None else (np.zeros((68, 2)), np.zeros(3))
        landmarks.append(points)
        poses.append(pose)
        seen.append(chosen is not None)
    if not any(seen):
        frames_text = f"{len(seen)} frame{'s' if len(seen) != 1 else ''}"
        if most:
            raise NoFaceFound(f"face {face} asked for, but at most {most} visible at once in {frames_text}")
        raise NoFaceFound(f"no face found in any of {frames_text}; it may be too small, turned away or covered")
    return fill_gaps(np.array(landmarks, np.float32), np.array(poses, np.float32), np.array(seen), max_gap)


def fill_gaps(landmarks: np.ndarray, pose: np.ndarray, seen: np.ndarray, max_gap: int = MAX_GAP) -> FaceTrack:
    """Interpolate linearly over gaps of up to `max_gap` frames between two sightings; those at the ends stay."""
    landmarks, pose = landmarks.copy(), pose.copy()
    interpolated = np.zeros(len(seen), bool)
    for first, last in valid_runs(~seen):
        if first == 0 or last == len(seen) or last - first > max_gap:
            continue
        weight = (np.arange(first, last) - first + 1) / (last - first + 1)
        landmarks[first:last] = landmarks[first - 1] + weight[:, None, None] * (landmarks[last] - landmarks[first - 1])
        pose[first:last] = pose[first - 1] + weight[:, None] * (pose[last] - pose[first - 1])
        interpolated[first:last] = True
    return FaceTrack(landmarks, pose, seen | interpolated, interpolated)


def pose_from_landmarks(landmarks: np.ndarray) -> np.ndarray:
    """Estimate `(yaw, pitch, roll)` in degrees from `(68, 2)` landmarks.

    The nose's tip stands about 0.45 eye distances before the plane of the eyes; its shift is the sine of the angle.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    left, right = points[36:42].mean(0), points[42:48].mean(0)
    roll = np.arctan2(right[1] - left[1], right[0] - left[0])
    turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
    upright = (points - (left + right) / 2) @ turn.T
    still = upright[STILL_POINTS]
    unit = np.ptp(still[:, 1]) / np.ptp(MEAN_FACE[:, 1])  # heights do not shrink when the head turns
    yaw = np.arcsin(np.clip(upright[30, 0] / unit / 0.45, -1, 1))
    pitch = np.arcsin(np.clip((MEAN_FACE[3, 1] - upright[30, 1] / unit) / 0.45, -1, 1))
    return np.degrees([yaw, pitch, roll]).astype(np.float32)


def _angles(rotation: np.ndarray) -> np.ndarray:
    """(yaw, pitch, roll) in degrees of a rotation from face to camera axes: x right, y up, z towards the viewer."""
    yaw = np.arctan2(rotation[0, 2], rotation[2, 2])
    pitch = np.arcsin(np.clip(rotation[1, 2], -1, 1))
    roll = np.arctan2(-rotation[1, 0], rotation[1, 1])
    return np.degrees([yaw, pitch, roll]).astype(np.float32)


def _box(landmarks: np.ndarray) -> np.ndarray:
    return np.concatenate([landmarks.min(0), landmarks.max(0)])


def _follow(box: np.ndarray, boxes: list[np.ndarray]) -> np.ndarray:
    """Where a known box has moved to; where it was, if nothing overlaps it any more."""
    nearest = max(boxes, key=lambda other: _overlap(box, other), default=box)
    return nearest if _overlap(box, nearest) >= MIN_OVERLAP else box


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes `(x0, y0, x1, y1)`."""
    shared = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared + 1e-9))


@contextmanager
def _native_stderr_silenced():  # noqa: ANN202
    """Keep C++ libraries from writing to the terminal; Python's own messages come as exceptions anyway."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)
