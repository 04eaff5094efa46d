"""Pretrained files of others: where they are looked for, and what proves that they are the right ones.

Nothing is downloaded here. A file is looked for in the folder `LIPFORMER_WEIGHTS`, then in torch hub's cache.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .errors import WeightsCorrupt, WeightsMissing

FOLDER_VARIABLE = "LIPFORMER_WEIGHTS"


@dataclass(frozen=True)
class KnownFile:
    """A pretrained file: its name, its SHA-256 (or as many leading hex digits as are published), use and origin."""

    name: str
    sha256: str
    purpose: str
    source: str


KNOWN = {
    file.name: file
    for file in [
        KnownFile(
            "face_landmarker.task",
            "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
            "landmarks and pose (MediaPipe, Apache-2.0)",
            "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/"
            "face_landmarker.task",
        ),
        KnownFile(
            "2DFAN4-11f355bf06.pth.tar",
            "11f355bf06",
            "landmarks of the field's LMD (face-alignment, BSD-3)",
            "https://www.adrianbulat.com/downloads/python-fan/2DFAN4-11f355bf06.pth.tar",
        ),
        KnownFile(
            "s3fd-619a316812.pth",
            "619a316812",
            "face detector of face-alignment and of SyncNet",
            "https://www.adrianbulat.com/downloads/python-fan/s3fd-619a316812.pth",
        ),
        KnownFile(
            "face_detection_yunet_2023mar.onnx",
            "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
            "face detector (OpenCV zoo, MIT)",
            "https://github.com/opencv/opencv_zoo/tree/main/models/face_detection_yunet",
        ),
        KnownFile(
            "moonshine_tiny_en_encoder.ort",
            "e091ae52fc2a912197af8f7b7ae2e8365b656ff58463313e0660cce59d9e81d3",
            "speech features (Moonshine tiny, MIT)",
            "the wheel of moonshine-voice 0.0.4, where it is moonshine_voice/assets/tiny-en/encoder_model.ort",
        ),
        KnownFile(
            "squeezenet1_1_imagenet_onnxzoo.pth",
            "a191ec6ab36d229f89b8c85ef5260af6075393e6a6f7c976f7ac6dba4cbed6e3",
            "ImageNet features of the perceptual loss (not LPIPS)",
            "https://github.com/onnx/models/tree/main/validated/vision/classification/squeezenet",
        ),
        KnownFile(
            "alexnet-owt-7be5be79.pth",
            "7be5be79",
            "trunk of LPIPS",
            "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        ),
        KnownFile(
            "vgg16-397923af.pth",
            "397923af",
            "trunk of LPIPS as a loss (preset paper)",
            "https://download.pytorch.org/models/vgg16-397923af.pth",
        ),
        KnownFile(
            "pt_inception-2015-12-05-6726825d.pth",
            "6726825d",
            "features of FID",
            "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        ),
        KnownFile(
            "syncnet_v2.model",
            "",
            "the original SyncNet of LSE-C and LSE-D",
            "https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
        ),
    ]
}


def folders() -> list[Path]:
    """Folders that are searched, in order."""
    named = os.environ.get(FOLDER_VARIABLE)
    hub = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch"
    return ([Path(named)] if named else []) + [Path(hub) / "hub" / "checkpoints"]


def find(name: str) -> Path:
    """Return where a pretrained file lies, its hash checked where one is known.

    Raises:
        WeightsMissing: it is in none of the folders; the message names them and the file's origin.
        WeightsCorrupt: it is there, but is not the published file.
    """
    known = KNOWN.get(name)
    for folder in folders():
        path = folder / name
        if path.is_file():
            stat = path.stat()
            if known is not None and not _sha256(path, stat.st_size, stat.st_mtime_ns).startswith(known.sha256):
                raise WeightsCorrupt(f"{path}: its SHA-256 is not {known.sha256}…; fetch it again from {known.source}")
            return path
    where = ", ".join(str(folder) for folder in folders())
    origin = f"; it comes from {known.source}" if known else ""
    raise WeightsMissing(f"{name} is not present in {where}; put it there or set {FOLDER_VARIABLE}{origin}")


def status() -> list[dict[str, str]]:
    """One row for each known file: `name`, `purpose`, `state` (present, missing or corrupt) and `path`."""
    rows = []
    for file in KNOWN.values():
        path, state = "", "present"
        try:
            path = str(find(file.name))
        except WeightsMissing:
            state = "missing"
        except WeightsCorrupt:
            state = "corrupt"
        rows.append({"name": file.name, "purpose": file.purpose, "state": state, "path": path})
    return rows


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, modified_ns: int) -> str:  # size and time make a replaced file be read again
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
