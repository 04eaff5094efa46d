"""A mouth meter: a small network that reads lip opening and mouth width from pixels.

Generated pictures have no landmarks, and a landmark tracker imposes its own idea of a mouth on blurred crops. The
meter is trained on true crops only, sees only the bottom half, and its own agreement with the truth on people it
has never seen stands beside every number that it produces.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from lipformer_core.errors import DataError

from ..checkpoint import write
from ..model.syncnet import SEEN, see
from ..progress import tqdm

READ_BATCH = 128


@dataclass(frozen=True)
class MeterConfig:
    """How the meter is trained; a saved meter is reused only if every field agrees."""

    seed: int = 0
    steps: int = 1000  # at most; the best state on other people is kept
    batch: int = 48
    lr: float = 2e-3
    max_crops: int = 10_000  # drawn evenly over the clips of the split
    max_val_crops: int = 600
    check_every: int = 100
    patience: int = 3  # checks without a better state before training stops


class MouthMeter(nn.Module):
    """Bottom half of a crop -> (opening, width), both in inter-ocular distances."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width, 4 * width]
        blocks: list[nn.Module] = []
        for before, after in zip(channels, channels[1:], strict=False):
            blocks += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.SiLU()]
        self.trunk = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * width * 3 * 4, 64), nn.SiLU(), nn.Linear(64, 2))
        self.register_buffer("target_mean", torch.zeros(2))
        self.register_buffer("target_std", torch.ones(2))
        self.report: dict[str, Any] = {}  # config, corpus and scores on the validation people

    def forward(self, bottom: Tensor) -> Tensor:
        """(B, 3, 48, 64) in [0, 1] -> (B, 2) in units of the training crops' deviation."""
        spread, mean = torch.std_mean(bottom, dim=(1, 2, 3), keepdim=True)
        return self.head(self.trunk((bottom - mean) / (spread + 0.02)))

    @torch.no_grad()
    def read(self, images: NDArray) -> NDArray[np.float64]:
        """Measure whole crops: (n, S, S, 3) uint8, or float in [-1, 1] -> (n, 2) float64: opening, width."""
        self.eval()
        readings = []
        for start in range(0, len(images), READ_BATCH):
            bottom = bottom_halves(images[start : start + READ_BATCH])
            reading = self(bottom.to(self.target_mean.device)) * self.target_std + self.target_mean
            readings.append(reading.cpu().double().numpy())
        return np.concatenate(readings) if readings else np.empty((0, 2))

    def save(self, folder: Path) -> None:
        """Write meter.safetensors and meter.json; the JSON last, so that an interrupted save is seen as none."""
        write(folder / "meter.safetensors", self.state_dict(), self.report)

    @classmethod
    def load(cls, folder: Path) -> "MouthMeter":
        """Read what `save` wrote; raises DataError naming the folder where there is none."""
        if not (folder / "meter.json").is_file() or not (folder / "meter.safetensors").is_file():
            raise DataError(f"no mouth meter in {folder}; evaluation trains one")
        meter = cls()
        meter.load_state_dict(load_file(folder / "meter.safetensors"))
        meter.report = json.loads((folder / "meter.json").read_text())
        return meter.eval()


def bottom_halves(images: NDArray) -> Tensor:
    """What the meter sees of crops: (n, S, S, 3) uint8, or float in [-1, 1] -> (n, 3, 48, 64) float32 in [0, 1]."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3:
        raise DataError(f"the mouth meter reads square crops (n, S, S, 3), not {images.shape}")
    bottom = torch.from_numpy(images[:, images.shape[1] // 2 :]).permute(0, 3, 1, 2).float()
    return see(bottom / 255 if images.dtype == np.uint8 else (bottom + 1) / 2)


def train_meter(corpus: Any, folder: Path, *, progress: bool = True, **settings: Any) -> MouthMeter:
    """The meter of a prepared corpus, from `folder` if the same one was trained before, else trained and saved there.

    The same: of these data, these settings and this very source file. corpus: PreparedCorpus; its `train` people
    teach, its `val` people decide when to stop.
    settings: fields of MeterConfig. Deterministic for a seed and a machine; about half a minute on two cores.
    """
    config = MeterConfig(**settings)
    sources = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    key = {"config": asdict(config), "corpus": corpus.hash, "sources": sources}
    if (folder / "meter.json").is_file():
        meter = MouthMeter.load(folder)
        if {name: meter.report.get(name) for name in key} == key:
            return meter
    val_split = "val" if corpus.clips("val") else "train"  # one person's own corpus has nobody else to stop by
    train = _gather(corpus, "train", config.max_crops)
    val = _gather(corpus, val_split, config.max_val_crops)
    meter = _fit(config, train, val, progress)
    meter.report |= key | {"train_crops": len(train[0]), "val_crops": len(val[0]), "val_split": val_split}
    meter.save(folder)
    return meter


def _gather(corpus: Any, split: str, limit: int) -> tuple[Tensor, Tensor]:
    """At most `limit` valid crops spread evenly over the clips of a split: (n, 3, 48, 64) uint8 and (n, 2)."""
    infos = corpus.clips(split)
    if not infos:
        raise DataError(f"the corpus has no clips in its split {split!r}; the mouth meter cannot be trained")
    infos = infos[:: max(1, len(infos) // limit)]
    crops, targets = [], []
    for info in infos:
        clip = corpus.open(info.clip_id)
        usable = np.flatnonzero(np.asarray(clip.valid) & np.isfinite(clip.opening) & np.isfinite(clip.width))
        share = max(1, limit // len(infos))
        if len(usable) > share:
            usable = usable[np.linspace(0, len(usable) - 1, share).round().astype(int)]
        if not len(usable):
            continue
        crops.append((bottom_halves(clip.frames(usable)) * 255).round().to(torch.uint8))
        targets.append(np.stack([np.asarray(clip.opening)[usable], np.asarray(clip.width)[usable]], axis=1))
    if not crops:
        raise DataError(f"no clip of the split {split!r} has a frame with a face; the mouth meter cannot be trained")
    return torch.cat(crops), torch.from_numpy(np.concatenate(targets)).float()


def _augment(bottom: Tensor, generator: torch.Generator) -> Tensor:
    """Shift, mirror, light, blur and noise, so that a decoder's softness and tint do not pass for lip movement.

    (B, 3, 48, 64) in [0, 1] -> the same. None of them changes opening or width in inter-ocular distances.
    """
    n = len(bottom)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    grid = torch.zeros(n, 2, 3)
    grid[:, 0, 0] = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    grid[:, 1, 1] = 1.0
    grid[:, 0, 2], grid[:, 1, 2] = uniform(-6 / SEEN[1], 6 / SEEN[1]), uniform(-6 / SEEN[0], 6 / SEEN[0])  # 3 px
    sampled = F.affine_grid(grid, list(bottom.shape), align_corners=False)
    bottom = F.grid_sample(bottom, sampled, padding_mode="border", align_corners=False)

    sigma = 0.3 + 1.9 * torch.rand(1, generator=generator)  # one a batch, in pixels of what is seen
    window = torch.exp(-0.5 * (torch.arange(-6, 7) / sigma) ** 2)
    window = (window / window.sum()).expand(3, 1, 1, 13)
    blurred = F.conv2d(F.pad(bottom, (6, 6, 6, 6), mode="replicate"), window, groups=3)
    blurred = F.conv2d(blurred, window.transpose(2, 3), groups=3)
    bottom = torch.where((torch.rand(n, generator=generator) < 0.6)[:, None, None, None], blurred, bottom)

    tint = 1 + 0.08 * torch.randn(n, 3, 1, 1, generator=generator)
    bottom = (bottom - 0.5) * uniform(0.8, 1.2)[:, None, None, None] + 0.5 + uniform(-0.1, 0.1)[:, None, None, None]
    noise = uniform(0, 0.03)[:, None, None, None] * torch.randn(bottom.shape, generator=generator)
    return (bottom * tint + noise).clamp(0, 1)


def _batches(n: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless shuffled indices, every crop once an epoch."""
    while True:
        order = torch.randperm(n, generator=generator)
        yield from order.split(batch)


def _fit(config: MeterConfig, train: tuple, val: tuple, progress: bool) -> MouthMeter:
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):  # the caller's random state stays its own
        torch.manual_seed(config.seed)
        meter = MouthMeter()
    crops, targets = train
    meter.target_mean.copy_(targets.mean(dim=0))
    meter.target_std.copy_(targets.std(dim=0).clamp_min(1e-4))
    wanted = (targets - meter.target_mean) / meter.target_std
    val_crops, val_targets = val[0].float() / 255, val[1]
    optimiser = torch.optim.AdamW(meter.parameters(), lr=config.lr, weight_decay=0.01)
    rise = max(0.1, min(0.6, 2 / config.steps))  # of few steps, two
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, total_steps=config.steps, pct_start=rise)
    best, state, stale = float("inf"), meter.state_dict(), 0
    batches = _batches(len(crops), config.batch, generator)
    bar = tqdm(range(1, config.steps + 1), desc="mouth meter", disable=not progress, leave=False)
    for step in bar:
        index = next(batches)
        meter.train()
        read = meter(_augment(crops[index].float() / 255, generator))
        loss = F.smooth_l1_loss(read, wanted[index], beta=0.3)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % config.check_every and step != config.steps:
            continue
        with torch.no_grad():
            meter.eval()
            error = torch.cat([meter(c) for c in val_crops.split(READ_BATCH)]) * meter.target_std + meter.target_mean
            error = (error - val_targets).abs().mean(dim=0)
        score = float((error / meter.target_std).sum())
        if score < best:
            best, stale = score, 0
            state = {name: value.clone() for name, value in meter.state_dict().items()}
            meter.report = {"steps": step, "val_mae": {"opening": float(error[0]), "width": float(error[1])}}
        else:
            stale += 1
        bar.set_postfix(val=f"{score:.3f}")
        if stale >= config.patience:
            break
    meter.load_state_dict(state)
    return meter.eval()
