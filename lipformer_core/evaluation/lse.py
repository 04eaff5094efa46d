"""LSE-D and LSE-C: how far a mouth is from its sound, by the original SyncNet and its own preprocessing.

Chung and Zisserman 2016; the columns' names are Wav2Lip's. Crops, cepstra, windows and offsets are those of SyncNet's
published code (five frames of 224 x 224 pixels against 20 steps of 13 MFCC, moved by up to 15 frames either way),
written anew. That code cuts faces out of whole frames; here the frame is the aligned crop, and what lies beyond it is
grey, as there beyond a frame's edge: rows can be compared with each other and with the ground truth's, not with
figures of whole videos.
"""

from collections import defaultdict
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lipformer_core import weights
from lipformer_core.data.faces.alignment import valid_runs
from lipformer_core.errors import WeightsMissing
from lipformer_core.timing import HOP, MEL_PER_FRAME, N_FFT, SAMPLE_RATE, SAMPLES_PER_FRAME, WINDOW

SYNCNET = "syncnet_v2.model"
DETECTOR = "s3fd-619a316812.pth"
COLUMNS = "lse_d", "lse_c"
FRAMES, STEPS = 5, 20  # of a window: pictures and cepstra, 0.2 s both
REACH = 15  # frames by which the sound is moved either way
LONG = 2 * REACH + FRAMES + 1  # frames in a row; of fewer, most distances would be to what lies beyond the ends
SIDE, MARGIN, GREY = 224, 0.4, 110  # of a crop: pixels, margin in sides of the face's box, what lies outside the frame
CONFIDENT, SMOOTH = 0.9, 13  # of a detection; frames of the median over time
CEPSTRA, BANDS, LIFTER = 13, 26, 22
BATCH = 8


class OriginalSyncNet(nn.Module):
    """SyncNet's two streams; parameters bear the published file's names."""

    def __init__(self) -> None:
        super().__init__()
        last = [(256, 3, 1, 1, None), (256, 3, 1, 1, None)]
        sound = [(64, 3, 1, 1, (1, 1)), (192, 3, 1, 1, (3, (1, 2))), (384, 3, 1, 1, None), *last]
        sound[-1] = (256, 3, 1, 1, (3, 2))
        self.netcnnaud = _trunk(1, [*sound, (512, (5, 4), 1, 0, None)], nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d)
        flat = (1, 3, 3), (1, 2, 2)  # a pooling that leaves time alone
        first = [(96, (5, 7, 7), (1, 2, 2), 0, flat), (256, (1, 5, 5), (1, 2, 2), (0, 1, 1), (*flat, (0, 1, 1)))]
        inner = (256, (1, 3, 3), 1, (0, 1, 1))
        lips = [*first, (*inner, None), (*inner, None), (*inner, flat), (512, (1, 6, 6), 1, 0, None)]
        self.netcnnlip = _trunk(3, lips, nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d)
        self.netfcaud, self.netfclip = (
            nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024)) for _ in range(2)
        )

    def embed_sounds(self, cepstra: Tensor) -> Tensor:
        """(B, 13, 20) -> (B, 1024)."""
        return self.netfcaud(self.netcnnaud(cepstra[:, None]).flatten(1))

    def embed_lips(self, pictures: Tensor) -> Tensor:
        """(B, 3, 5, 224, 224), blue first, 0 to 255 -> (B, 1024)."""
        return self.netfclip(self.netcnnlip(pictures).flatten(1))


def _trunk(width: int, blocks: list[tuple], conv: type, norm: type, pool: type) -> nn.Sequential:
    """Blocks of (channels, kernel, stride, padding, what pooling takes or None)."""
    layers: list[nn.Module] = []
    for channels, kernel, stride, padding, pooling in blocks:
        layers += [conv(width, channels, kernel, stride, padding), norm(channels), nn.ReLU()]
        layers += [pool(*pooling)] if pooling else []
        width = channels
    return nn.Sequential(*layers)


class Lse:
    """The network and the face detector of its preprocessing, both from their files.

    Raises WeightsMissing where a file or the package face-alignment is not there, WeightsCorrupt for another file.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        syncnet, detector = weights.find(SYNCNET), weights.find(DETECTOR)
        try:
            from face_alignment.detection.sfd import FaceDetector
        except ImportError as error:
            raise WeightsMissing("the package face-alignment is not installed (pip install face-alignment)") from error
        self.device = torch.device(device)
        self.network = OriginalSyncNet()
        self.network.load_state_dict(torch.load(syncnet, map_location="cpu", weights_only=True))
        self.network.to(self.device).eval()
        self.detector = FaceDetector(str(self.device), str(detector), filter_threshold=CONFIDENT)

    def detect(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Face boxes of (n, S, S, 3): (n, 4) left, top, right, bottom, nan where no face is found."""
        found = self.detector.detect_from_batch(torch.from_numpy(images).permute(0, 3, 1, 2))
        return np.array([boxes[0][:4] if len(boxes) else (np.nan,) * 4 for boxes in found], np.float64)

    @torch.inference_mode()
    def embed_lips(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Every window of consecutive crops (n, 224, 224, 3): (n - 4, 1024)."""
        pictures = torch.from_numpy(crops[..., ::-1].copy()).permute(3, 0, 1, 2).unfold(1, FRAMES, 1)  # (3, n-4, …, 5)
        parts = pictures.permute(1, 0, 4, 2, 3).split(BATCH)
        found = [self.network.embed_lips(part.to(self.device).float()).cpu() for part in parts]
        return torch.cat(found).numpy()

    @torch.inference_mode()
    def embed_sounds(self, sound: NDArray[np.int16]) -> NDArray[np.float32]:
        """The windows that begin with each frame of a sound, but its last five: (n - 5, 1024)."""
        cepstra = torch.from_numpy(mfcc(sound)).float().unfold(0, STEPS, MEL_PER_FRAME)  # (n - 4 or less, 13, 20)
        cepstra = cepstra[: len(sound) // SAMPLES_PER_FRAME - FRAMES]
        return self.network.embed_sounds(cepstra.to(self.device)).cpu().numpy()


def smooth_boxes(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Detections (n, 4), nan where there is none, as centre and half a side, (n, 3), steady over time.

    Gaps are bridged linearly; nan throughout where no frame has a face.
    """
    from scipy.signal import medfilt

    seen = np.flatnonzero(np.isfinite(boxes).all(1))
    if not len(seen):
        return np.full((len(boxes), 3), np.nan)
    left, top, right, bottom = (np.interp(np.arange(len(boxes)), seen, column) for column in boxes[seen].T)
    sides = (left + right) / 2, (top + bottom) / 2, np.maximum(right - left, bottom - top) / 2
    return np.stack([medfilt(values, SMOOTH) for values in sides], 1)


def cut(image: NDArray[np.uint8], x: float, y: float, half: float) -> NDArray[np.uint8]:
    """SyncNet's view of a face whose box has its centre at (x, y) and a side of 2 `half`: (224, 224, 3).

    The box and its margin at both sides and, twice as much, below it; above the box there is none.
    """
    import cv2

    wide = int(half * (1 + 2 * MARGIN))
    framed = cv2.copyMakeBorder(image, *[wide] * 4, cv2.BORDER_CONSTANT, value=(GREY,) * 3)
    x, y = x + wide, y + wide
    rows = slice(int(y - half), int(y + half * (1 + 2 * MARGIN)))
    columns = slice(int(x - half * (1 + MARGIN)), int(x + half * (1 + MARGIN)))
    return cv2.resize(framed[rows, columns], (SIDE, SIDE))


def mfcc(sound: NDArray[np.int16]) -> NDArray[np.float64]:
    """Mel cepstra of 16 kHz sound, one of 25 ms every 10 ms, the first of each its log energy: (k, 13).

    Not centred: row i begins with sample 160 i.
    """
    from scipy.fft import dct, rfft

    sound = np.asarray(sound, np.float64)
    count = 1 + max(0, -(-(len(sound) - WINDOW) // HOP))
    emphasised = np.append(sound[:1], sound[1:] - 0.97 * sound[:-1])
    emphasised = np.pad(emphasised, (0, WINDOW + (count - 1) * HOP - len(sound)))
    power = np.abs(rfft(np.lib.stride_tricks.sliding_window_view(emphasised, WINDOW)[::HOP], N_FFT)) ** 2 / N_FFT
    bands, energy = (np.where(x == 0, np.finfo(float).eps, x) for x in (power @ _triangles().T, power.sum(1)))
    cepstra = dct(np.log(bands), norm="ortho")[:, :CEPSTRA]
    cepstra *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(CEPSTRA) / LIFTER)
    cepstra[:, 0] = np.log(energy)
    return cepstra


@cache
def _triangles() -> NDArray[np.float64]:
    """The bands over the spectrum, each with a peak of 1: (26, 257)."""
    mels = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), BANDS + 2)
    bins = np.floor((N_FFT + 1) * 700 * (10 ** (mels / 2595) - 1) / SAMPLE_RATE)
    ends = zip(bins, bins[1:], bins[2:], strict=False)
    return np.stack([np.interp(np.arange(N_FFT // 2 + 1), end, (0, 1, 0), 0, 0) for end in ends])


def distances(lips: NDArray[np.float32], sounds: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean Euclidean distance of windows (n, E) to the sound k frames later, k from -15 to 15: (31,).

    Beyond the ends stand zeros, as in SyncNet's own code.
    """
    padded = np.pad(np.asarray(sounds, np.float64), ((REACH, REACH), (0, 0)))
    moved = (padded[k : k + len(lips)] for k in range(2 * REACH + 1))
    return np.array([np.linalg.norm(lips - sound + 1e-6, axis=1).mean() for sound in moved])


class Watched:
    """One clip's faces under every row as SyncNet sees them, cut by the boxes of the true ones.

    windows : row or case to its embedded windows; no picture is kept
    """

    def __init__(self, judge: Lse, clip: Any, frames: NDArray[np.int64]) -> None:
        parts = np.split(frames, range(BATCH, len(frames), BATCH))
        self.judge, self.frames = judge, frames
        self.boxes = smooth_boxes(np.concatenate([judge.detect(clip.frames(part)) for part in parts]))
        self.windows: dict[str, list[NDArray]] = defaultdict(list)
        self.last: dict[str, NDArray] = {}  # crops that the next windows begin with

    def add(self, name: str, images: NDArray[np.uint8], frames: NDArray[np.int64]) -> None:
        """The next pictures (k, S, S, 3) of a row, and which frames they are."""
        boxes = self.boxes[np.searchsorted(self.frames, frames)]
        if np.isfinite(boxes).all():
            crops = np.stack([cut(image, *box) for image, box in zip(images, boxes, strict=True)])
            crops = np.concatenate([self.last.get(name, crops[:0]), crops])
            self.last[name] = crops[1 - FRAMES :]
            if len(crops) >= FRAMES:
                self.windows[name].append(self.judge.embed_lips(crops))

    def scores(self, name: str, frames: NDArray[np.int64], sound: NDArray[np.int16]) -> tuple[float, ...]:
        """`scores` of a row that has had these frames, over their longest run; empty where all are too short."""
        first, last = max(valid_runs(np.isin(np.arange(frames[-1] + 1), frames)), key=lambda run: run[1] - run[0])
        sound = sound[first * SAMPLES_PER_FRAME : last * SAMPLES_PER_FRAME]
        if last - first < LONG or len(sound) < (last - first) * SAMPLES_PER_FRAME:
            return ()
        heard = self.judge.embed_sounds(sound)
        at = int(np.searchsorted(frames, first))
        return scores(distances(np.concatenate(self.windows[name])[at : at + len(heard)], heard))


def scores(curve: NDArray[np.float64]) -> tuple[float, float, int]:
    """LSE-D, LSE-C and the offset, in frames by which the sound is late, of what `distances` gave."""
    best = int(curve.argmin())
    return float(curve[best]), float(np.median(curve) - curve[best]), best - REACH
