"""Whose face it is: dlib's recognition network, and a person whom a picture shows, found again in other pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from ... import weights
from ...errors import NoFaceFound, NoVideoStream, WeightsMissing
from ..media import iter_frames
from .landmarks import Face, Tracker
from .tracking import track_faces

RECOGNITION_FILE = "dlib_face_recognition_resnet_model_v1.dat"
DOUBTFUL = 0.45  # distance from which on people who look alike have been taken for each other; its author draws at 0.6
SIDE, MARGIN = 150, 0.25  # what the network sees: pixels, and the share beyond the face on each side


class Recogniser:
    """dlib's ResNet (King 2017, public domain): 128 numbers a face, near each other for one person's.

    Raises WeightsMissing where its file or the package dlib is not there, WeightsCorrupt.
    """

    def __init__(self) -> None:
        path = weights.find(RECOGNITION_FILE)
        try:
            import dlib
        except ImportError as error:
            raise WeightsMissing("dlib is not installed: pip install dlib-bin face-recognition-models") from error
        self._dlib, self._network = dlib, dlib.face_recognition_model_v1(str(path))

    def align(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """A picture (H, W, 3) uint8 RGB with a face's landmarks (68, 2) as the network sees it: (150, 150, 3)."""
        points = [self._dlib.point(*place) for place in np.rint(landmarks).astype(int).tolist()]
        around = self._dlib.rectangle(0, 0, image.shape[1] - 1, image.shape[0] - 1)  # the points alone decide
        face = self._dlib.full_object_detection(around, points)
        return self._dlib.get_face_chip(np.ascontiguousarray(image), face, size=SIDE, padding=MARGIN)

    def embed(self, images: Sequence[np.ndarray], landmarks: Sequence[np.ndarray]) -> np.ndarray:
        """n pictures (H, W, 3) uint8 RGB with a face's landmarks (68, 2) each -> (n, 128) float64."""
        faces = [self.align(image, points) for image, points in zip(images, landmarks, strict=True)]
        return np.array(self._network.compute_face_descriptor(faces) if faces else np.empty((0, 128)), np.float64)


class Person:
    """Somebody whom a picture shows. Called with another picture and its faces, it says how far each is from theirs."""

    def __init__(self, picture: str | os.PathLike, tracker: Tracker) -> None:
        """picture : a photograph, or a video of which the first picture counts; of several faces the largest.

        Raises NoFaceFound, NoVideoStream, UnreadableMedia, WeightsMissing, WeightsCorrupt.
        """
        self.recogniser = Recogniser()
        image = next((image for _, image in iter_frames(picture, square=True)), None)
        if image is None:
            raise NoVideoStream(f"{picture}: no picture inside that can be decoded")
        try:
            found = track_faces([image], tracker)
        except NoFaceFound as error:
            raise NoFaceFound(f"{picture}: no face is found in it; give a picture of the person to dub") from error
        self.known = self.recogniser.embed([image], found.landmarks)[0]

    def __call__(self, picture: np.ndarray, faces: Sequence[Face]) -> np.ndarray:
        """Distances (n,) of the faces in a picture (H, W, 3) uint8 RGB; those of one person are mostly below 0.6."""
        found = self.recogniser.embed([picture] * len(faces), [points for points, _ in faces])
        return np.linalg.norm(found - self.known, axis=1)
