"""Faces in pictures: 68 landmarks and head pose of each, by one of two landmark networks behind one interface."""

from __future__ import annotations

import atexit
import os
import sys
import warnings
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ... import weights
from ...errors import WeightsMissing
from .alignment import MEAN_FACE, STILL_POINTS

if TYPE_CHECKING:
    from mediapipe.tasks.python.vision import FaceLandmarker, FaceLandmarkerResult

MEDIAPIPE_FILE = "face_landmarker.task"
FAN_FILE = "2DFAN4-11f355bf06.pth.tar"
FAN_DETECTORS = {"sfd": "s3fd-619a316812.pth", "yunet": "face_detection_yunet_2023mar.onnx"}
AT_ONCE = 4  # pictures a thread that are asked for together, so that threads seldom wait for each other
MAX_FACES = 4  # above one, MediaPipe also leaves its own smoothing out, which flattens the mouth's motion

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
    """Anything that finds faces in one picture. What else a network can do, `track_faces` uses where it is there:

    `batch` (int): pictures that it takes at once; `detect_batch(pictures)`: `detect` of each of them.
    """

    def detect(self, rgb: np.ndarray) -> list[Face]:
        """Return landmarks `(68, 2)` and pose `(yaw, pitch, roll)` of each face in `(H, W, 3)` uint8 RGB."""


def open_tracker(backend: str = "auto", threads: int = 1) -> Tracker:
    """Open a landmark network.

    Args:
        backend: `mediapipe`, `face_alignment`, or `auto`: the first of them whose files are present.
        threads: in which MediaPipe looks at several pictures at the same time.

    Raises:
        WeightsMissing: its files are not present; the message names them.
        ValueError: another backend.
    """
    if backend == "mediapipe":
        return MediaPipeTracker(weights.find(MEDIAPIPE_FILE), threads)
    if backend == "face_alignment":
        return _open_fan()
    if backend != "auto":
        raise ValueError(f"backend must be auto, mediapipe or face_alignment, not {backend!r}")
    missing = []
    for name in ("mediapipe", "face_alignment"):
        try:
            return open_tracker(name, threads)
        except WeightsMissing as error:
            missing.append(str(error))
    raise WeightsMissing("no landmark network is present: " + "; ".join(missing))


class MediaPipeTracker:
    """MediaPipe's FaceLandmarker: some 100 pictures a second on one core."""

    def __init__(self, path: str | os.PathLike, threads: int = 1) -> None:
        """threads : each with a network of its own, made when several pictures come for the first time."""
        self.batch = AT_ONCE * threads if threads > 1 else 1
        self._path, self._threads = path, threads
        self._landmarkers: list[FaceLandmarker] = []
        self._take()

    def detect(self, rgb: np.ndarray) -> list[Face]:
        """See `Tracker.detect`."""
        return _faces(self._landmarkers[0].detect(_image(rgb)), rgb)

    def detect_batch(self, pictures: Sequence[np.ndarray]) -> list[list[Face]]:
        """See `Tracker`."""
        while len(self._landmarkers) < self._threads:
            self._take()
        found: list[list[Face]] = [[] for _ in pictures]

        def look(number: int) -> None:
            for k in range(number, len(pictures), self._threads):
                found[k] = _faces(self._landmarkers[number].detect(_image(pictures[k])), pictures[k])

        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(look, range(self._threads)))
        return found

    def _take(self) -> None:
        """Get a network that nobody uses any more, or a new one; it is free again when this object is gone.

        None is closed before the end: Python may collect this object while another one is about to start a thread, and
        MediaPipe, which closes by a thread, would wait for that for ever.
        """
        free = _free.setdefault((os.getpid(), str(self._path)), [])  # a fork has no threads of its parent's networks
        try:
            landmarker = free.pop()
        except IndexError:
            landmarker = self._open()
        self._landmarkers.append(landmarker)
        weakref.finalize(self, free.append, landmarker).atexit = False

    def _open(self) -> FaceLandmarker:
        with _native_stderr_silenced(), _without_pyplot():
            from mediapipe.tasks.python import BaseOptions
            from mediapipe.tasks.python.vision import FaceLandmarker, FaceLandmarkerOptions

            options = FaceLandmarkerOptions(
                base_options=BaseOptions(model_asset_path=str(self._path)),
                num_faces=MAX_FACES,
                output_facial_transformation_matrixes=True,
            )
            landmarker = FaceLandmarker.create_from_options(options)
            _opened.append(landmarker)
            # the rest of the chatter comes with the first picture
            landmarker.detect(_image(np.zeros((64, 64, 3), np.uint8)))
        return landmarker


def _image(rgb: np.ndarray) -> object:
    import mediapipe

    return mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(rgb))


def _faces(result: FaceLandmarkerResult, rgb: np.ndarray) -> list[Face]:
    # Relative coordinates count from the picture's edge, ours from the first pixel's centre.
    scale, shift = np.array([rgb.shape[1], rgb.shape[0]]), 0.5
    faces = []
    for points, matrix in zip(result.face_landmarks, result.facial_transformation_matrixes, strict=True):
        xy = np.array([(points[i].x, points[i].y) for i in MEDIAPIPE_68])
        faces.append(((xy * scale - shift).astype(np.float32), _angles(np.asarray(matrix)[:3, :3])))
    return faces


class FanTracker:
    """2DFAN-4 of face-alignment, the landmarks that the field's LMD is computed with; pose from a rigid mean face."""

    batch = 8

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
        return [_with_pose(points) for points in found]

    def detect_batch(self, pictures: Sequence[np.ndarray]) -> list[list[Face]]:
        """Faces of each of several pictures: where they are of one size, the detector sees them together."""
        import torch

        if len({picture.shape for picture in pictures}) > 1:
            return [self.detect(picture) for picture in pictures]
        batch = torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).copy())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self._fan.get_landmarks_from_batch(batch) or [[]] * len(pictures)
        return [[_with_pose(points) for points in np.reshape(faces, (-1, 68, 2))] for faces in found]


def _with_pose(points: np.ndarray) -> Face:
    return points[:, :2].astype(np.float32), pose_from_landmarks(points[:, :2])


_opened: list[FaceLandmarker] = []
_free: dict[tuple[int, str], list[FaceLandmarker]] = {}  # by process and file


@atexit.register
def _close_landmarkers() -> None:
    """Free the networks; where MediaPipe's threads are gone already, leave that to the system."""
    for landmarker in _opened:
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


@contextmanager
def _without_pyplot():
    """Keep MediaPipe from importing pyplot, half of its own import, for drawings that nothing here asks it for."""
    names = ("matplotlib", "matplotlib.pyplot")
    left_out = {name: ModuleType(name) for name in names} if not {"mediapipe", "matplotlib"} & {*sys.modules} else {}
    sys.modules.update(left_out)
    try:
        yield
    finally:
        for name in left_out:
            del sys.modules[name]


@contextmanager
def _native_stderr_silenced():
    """Keep MediaPipe, and what it imports, from writing to the terminal; what matters comes as an exception."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        kept = os.dup(2)
    except OSError:  # closed: there is no terminal to write to
        yield
        return
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)
