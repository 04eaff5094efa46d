"""LPIPS, FID and landmarks with their published weights, or a plain word that these are not there.

A score carries its standard name only if it was computed with the standard network. Where a file is missing, the
opener raises WeightsMissing and the protocol reports null with the reason; nothing is substituted.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipformer_core import weights
from lipformer_core.data.faces.landmarks import Tracker
from lipformer_core.errors import WeightsCorrupt, WeightsMissing
from lipformer_core.training.losses import LPIPS_TRUNKS, lpips_network

from .metrics import MetricError

LPIPS_TRUNK = LPIPS_TRUNKS["alex"]
FID_INCEPTION = "pt_inception-2015-12-05-6726825d.pth"
FID_DIMENSIONS = 2048
SCALE = 3  # landmark networks are made for larger faces than a crop of 96 pixels
MARGIN = 0.25  # of the side, grey, all round: detectors want to see where a face ends


def why_not(file: str, error: WeightsMissing | WeightsCorrupt) -> str:
    """The reason that a report gives for a missing score; it names the file, and no folder of this machine."""
    if isinstance(error, WeightsCorrupt):
        return f"not available: {file} is not the published file (its hash differs)"
    if file in str(error):
        return f"not available: {file} is neither in {weights.FOLDER_VARIABLE} nor in torch hub's cache"
    return f"not available: {error}"


class Lpips:
    """LPIPS 0.1 with the AlexNet trunk (Zhang et al. 2018); lower is nearer.

    Raises WeightsMissing where the package or the trunk is not there.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.network = lpips_network("alex").to(self.device)

    @torch.no_grad()
    def __call__(self, generated: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.float64]:
        """uint8 (n, S, S, 3) twice -> (n,)."""
        a, b = (_pixels(x, self.device) * 2 - 1 for x in (generated, truth))
        return self.network(a, b).flatten().cpu().double().numpy()


class FidStatistics:
    """Running mean and covariance of Inception features, so that no picture has to be kept."""

    def __init__(self, dimensions: int = FID_DIMENSIONS) -> None:
        self.count = 0
        self.total = np.zeros(dimensions)
        self.products = np.zeros((dimensions, dimensions))

    def add(self, features: NDArray) -> None:
        """Take in (n, dimensions)."""
        features = np.asarray(features, dtype=np.float64)
        self.count += len(features)
        self.total += features.sum(axis=0)
        self.products += features.T @ features

    def moments(self) -> tuple[NDArray, NDArray]:
        """Mean (d,) and covariance (d, d)."""
        if self.count < 2:
            raise MetricError(f"FID needs at least 2 pictures, not {self.count}")
        mean = self.total / self.count
        return mean, (self.products - self.count * np.outer(mean, mean)) / (self.count - 1)


class Fid:
    """FID with the TensorFlow Inception features of pytorch-fid (Heusel et al. 2017); biased upwards on few pictures.

    Raises WeightsMissing where the package or the network is not there.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        path = weights.find(FID_INCEPTION)
        try:
            from pytorch_fid import inception
        except ImportError as error:
            raise WeightsMissing("the package pytorch-fid is not installed (pip install pytorch-fid)") from error
        with _as_downloaded(path):
            self.network = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[FID_DIMENSIONS]])
        self.device = torch.device(device)
        self.network.to(self.device).eval()

    @torch.no_grad()
    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """uint8 (n, S, S, 3) -> (n, 2048)."""
        return self.network(_pixels(images, self.device))[0].flatten(1).cpu().double().numpy()

    @staticmethod
    def distance(generated: FidStatistics, truth: FidStatistics) -> float:
        """Frechet distance of two sets' features."""
        from pytorch_fid.fid_score import calculate_frechet_distance

        return float(calculate_frechet_distance(*generated.moments(), *truth.moments()))


def read_landmarks(tracker: Tracker, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Landmarks of aligned crops (n, S, S, 3), a second opinion beside the mouth meter: (n, 68, 2) in crop pixels.

    tracker : from `data.faces.open_tracker`; nan where it finds no face
    """
    import cv2

    found = np.full((len(images), 68, 2), np.nan)
    for row, image in zip(found, images, strict=True):
        border = round(MARGIN * image.shape[0])
        framed = cv2.copyMakeBorder(image, *[border] * 4, cv2.BORDER_CONSTANT, value=(128, 128, 128))
        framed = cv2.resize(framed, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC)
        faces = tracker.detect(framed)
        if faces:  # of several, the one nearest to filling the crop
            points = max((points for points, _ in faces), key=lambda p: np.ptp(p[:, 0]))
            row[:] = (points + 0.5) / SCALE - 0.5 - border  # pixel centres, before and after the resize
    return found


@contextmanager
def _as_downloaded(path: Path) -> Iterator[None]:
    """Let pytorch-fid, which knows its weights by an address only, find the file in torch hub's cache."""
    cache = torch.hub.get_dir()
    with TemporaryDirectory() as folder:
        (Path(folder) / "checkpoints").mkdir()
        (Path(folder) / "checkpoints" / path.name).symlink_to(path.resolve())
        torch.hub.set_dir(folder)
        try:
            yield
        finally:
            torch.hub.set_dir(cache)


def _pixels(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(n, S, S, 3) uint8 -> (n, 3, S, S) float in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 255
