"""The sync expert's training: which of many sounds belongs to this mouth, and which of many mouths to this sound.

Candidates are the windows of the other clips of the batch and, harder and more useful, the same clip's sound moved by
a few frames. Ours; the field's two-way loss stands at 0.69 for many thousand steps and does not say why, so the chance
line is logged beside this one.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import checkpoint
from ..config import Config
from ..data.prepared.clips import Data, PreparedCorpus, open_corpus
from ..model.precision import full_precision
from ..model.syncnet import FRAMES, SyncNet, windows
from .loop import finished, run_stage
from .stage import Stage
from .sync_sampling import Stretches, StretchSampler, augment_pictures, augment_sounds, seen_frames, soften

WEIGHT_DECAY = 0.01
SCALE_RATE = 10.0  # how much faster the temperature learns than the towers


def train_sync(config: Config, data: Data, run: Path | str, progress: bool = True) -> SyncNet:
    """Train the sync expert on a prepared corpus into `run`/sync; resumes, and returns at once if it is finished.

    raises DataError for a corpus without sound or with too short clips, CheckpointError if the folder was trained with
        other settings or data
    """
    corpus, folder = open_corpus(data), Path(run) / "sync"
    if not finished(folder, config, corpus.hash):
        torch.manual_seed(config.seed)
        run_stage(folder, SyncStage(config, corpus), corpus.hash, progress)
    return checkpoint.load_sync(run)


class SyncStage(Stage):
    """The state and the step of the expert's training."""

    score, rounds = "val_wins", 12

    def __init__(self, config: Config, corpus: PreparedCorpus):
        super().__init__(config)
        self.steps = config.sync.steps
        self.model = SyncObjective(config.sync.width).to(self.device, memory_format=torch.channels_last)
        *weights, scale = sorted(self.model.parameters(), key=lambda p: p is self.model.net.log_scale)
        options = {"betas": (0.9, 0.98), "weight_decay": WEIGHT_DECAY, "fused": self.fused}
        optimiser = torch.optim.AdamW(weights, lr=config.sync.lr, **options)
        optimiser.add_param_group({"params": [scale], "lr": SCALE_RATE * config.sync.lr, "weight_decay": 0.0})
        self.wrapped = [self.wrap(self.model)]
        self.optimisers = [self.accelerator.prepare(optimiser)]
        self.train, self.val = (StretchSampler(corpus, split) for split in ("train", "val"))

    def material(self, number: int) -> Stretches:
        """The stretches of one batch; each process has candidates of its own."""
        rng = np.random.default_rng([self.config.seed, number, self.accelerator.process_index])
        return self.train.draw(rng, self.config.sync.batch)

    def describe(self, material: Stretches) -> str:
        return str(material)

    def losses(self, number: int, material: Stretches) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The loss, and figures to log."""
        seen = soften(augment_pictures(seen_frames(material.pixels)))
        sounds = augment_sounds(torch.from_numpy(material.sounds))
        lips = torch.from_numpy(material.lips)
        loss, figures = self.wrapped[0](*(x.to(self.device) for x in (seen, sounds, lips)))
        return [loss], figures

    def validate(self, number: int) -> dict[str, Tensor | float]:
        """The figures on fixed stretches of the validation split."""
        drawn = self.val.draw(np.random.default_rng(number), self.config.sync.batch)
        tensors = seen_frames(drawn.pixels), torch.from_numpy(drawn.sounds), torch.from_numpy(drawn.lips)
        return self.model.forward(*(x.to(self.device) for x in tensors))[1]


class SyncObjective(nn.Module):
    """Contrastive loss over all windows of a batch, both ways, and lips that must be readable from both embeddings."""

    def __init__(self, width: int):
        super().__init__()
        self.net = SyncNet(width)
        self.articulation = nn.Linear(4 * width, 2 * FRAMES)  # of either tower: one place, one mouth

    def forward(self, seen: Tensor, sounds: Tensor, lips: Tensor) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Returns (loss, figures to log).

        seen : (B, L, 3, 48, 64); sounds : (B, W, window, 80) of its W = L - FRAMES + 1 windows; lips : (B, L, 2)
        """
        faces = self.net.embed_faces(windows(seen, FRAMES).flatten(0, 1))  # (N, E), N = B W
        voices = self.net.embed_sounds(sounds.flatten(0, 1))  # (N, E)
        with full_precision(faces):
            similarity = faces @ voices.T  # (N, N)
        contrastive = info_nce(self.net.scale() * similarity)
        mouths = windows(lips, FRAMES).flatten(0, 1).flatten(1)  # (N, 2 T)
        read = self.articulation(torch.cat([faces, voices]))
        articulation = F.smooth_l1_loss(read, mouths.repeat(2, 1))
        figures = {"loss": contrastive.detach(), "chance": math.log(len(similarity)), "lips": articulation.detach()}
        figures |= wins(similarity.detach(), sounds.shape[1])
        return contrastive + articulation, figures


def info_nce(logits: Tensor) -> Tensor:
    """Cross entropy of the true pairs, on the diagonal of (N, N), along rows and columns; log N at chance."""
    truth = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2


def wins(similarity: Tensor, own: int) -> dict[str, Tensor]:
    """How well true pairs stand out of (N, N) similarities whose rows come in clips of `own` windows.

    accuracy : share of faces whose own sound is the best of all N (chance 1/N)
    shift_wins, foreign_wins : share of the same clip's moved sounds, and of the other clips', that the own one beats
        (chance 0.5); wins : the mean of the two. What a batch cannot show (one clip only, no shift) is left out
    """
    clip = torch.arange(len(similarity), device=similarity.device) // own
    same = clip[:, None] == clip
    beats = (similarity.diagonal()[:, None] > similarity).float()
    shifted = same & ~torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    parts = {"shift_wins": beats[shifted], "foreign_wins": beats[~same]}
    out = {name: values.mean() for name, values in parts.items() if len(values)}
    right = similarity.argmax(1) == torch.arange(len(similarity), device=similarity.device)
    return {"accuracy": right.float().mean(), "wins": torch.stack(list(out.values())).mean(), **out}
