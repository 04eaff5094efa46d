"""Whose face it is: cosine similarity of a recognition network's embeddings of the generated and the true face."""

import numpy as np
from numpy.typing import NDArray

from lipformer_core import weights

SFACE = "face_recognition_sface_2021dec.onnx"
CORNERS = (48, 54)  # of the mouth, in 68 landmarks


class Identity:
    """SFace (Zhong et al. 2021) as OpenCV runs it: five points to 112 x 112, 128 numbers a face.

    Raises WeightsMissing, WeightsCorrupt.
    """

    def __init__(self) -> None:
        import cv2

        self.network = cv2.FaceRecognizerSF.create(str(weights.find(SFACE)), "")

    def align(self, image: NDArray[np.uint8], landmarks: NDArray) -> NDArray[np.uint8]:
        """A crop (S, S, 3) with its landmarks (68, 2) as the network sees it: (112, 112, 3)."""
        return self.network.alignCrop(image, np.r_[np.zeros(4), five_points(landmarks).ravel(), 1.0].astype(np.float32))

    def embed(self, images: NDArray[np.uint8], landmarks: NDArray) -> NDArray[np.float64]:
        """uint8 (n, S, S, 3) and crop pixels (n, 68, 2) -> (n, 128), each of length 1."""
        faces = zip(images, landmarks, strict=True)
        found = [self.network.feature(self.align(np.ascontiguousarray(x[..., ::-1]), p)).ravel() for x, p in faces]
        found = np.array(found, np.float64)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def five_points(landmarks: NDArray) -> NDArray[np.float64]:
    """Centres of the eyes, tip of the nose, corners of the mouth, the picture's left ones first: (68, 2) -> (5, 2)."""
    points = np.asarray(landmarks, np.float64)
    return np.stack([points[36:42].mean(0), points[42:48].mean(0), points[30], *points[[*CORNERS]]])
