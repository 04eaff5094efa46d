"""The Wav2Lip-style baseline's training: L1, and the run's own sync expert, on the frames that stage 2 trains on."""

from pathlib import Path

import torch
from torch import Tensor, nn

from .. import checkpoint
from ..config import Config
from ..data.prepared.clips import Data, PreparedCorpus, open_corpus
from ..model.autoencoder import split_halves
from ..model.regions import mouth_pixels
from ..model.syncnet import FRAMES, SyncNet
from ..model.wav2lip import Wav2Lip
from .loop import finished, run_stage
from .losses import reconstruction_loss
from .pairs import Material, PairBatch, PairSampler
from .stage import Stage
from .sync import train_sync

COUNT = 4 * FRAMES  # targets of a batch and process: runs of FRAMES consecutive ones, each run with one reference
LR, BETAS = 5e-4, (0.5, 0.999)
SYNC = 0.03  # weight of the expert's distance beside L1, as in Wav2Lip


def train_wav2lip(config: Config, data: Data, run: Path | str, progress: bool = True) -> Wav2Lip:
    """Train the baseline on a prepared corpus, or several, into `run`/wav2lip; resumes, or returns at once if finished.

    The sync expert comes first where `run`/sync is not finished. Nothing of LipFormer's is needed.

    raises DataError, CheckpointError as `train_sync`
    """
    corpus, folder = open_corpus(data), Path(run) / "wav2lip"
    if not finished(folder, config, corpus.hash):
        expert = train_sync(config, data, run, progress)
        torch.manual_seed(config.seed)
        run_stage(folder, Wav2LipStage(config, corpus, expert), corpus.hash, progress)
    return checkpoint.load_wav2lip(run)


class Wav2LipStage(Stage):
    """The state and the step of the baseline's training."""

    rounds = 12

    def __init__(self, config: Config, corpus: PreparedCorpus, expert: SyncNet):
        super().__init__(config)
        self.steps = config.wav2lip.steps
        self.model = Wav2Lip(config).to(self.device, memory_format=torch.channels_last)
        self.objective = Wav2LipObjective(self.model, expert).to(self.device)
        self.wrapped = [self.wrap(self.objective)]
        optimiser = torch.optim.Adam(self.model.parameters(), lr=LR, betas=BETAS, fused=self.fused)
        self.optimisers = [self.accelerator.prepare(optimiser)]
        self.train, self.val = (PairSampler(self.model, corpus, split, None) for split in ("train", "val"))
        self.train.frames.keep(self.device)

    def material(self, number: int) -> Material:
        """The runs of one batch and their pixels."""
        batch = self.train.draw((self.config.seed, number), COUNT, self.accelerator.process_index * COUNT, FRAMES)
        return batch, self.train.pixels(batch, True)

    def losses(self, number: int, material: Material) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The loss, and figures to log."""
        loss, figures = self.wrapped[0](self.train.show(*material, self.device))
        return [loss], figures

    def validate(self, number: int) -> dict[str, Tensor]:
        """The figures on fixed runs of the validation split; `score` is minus the loss."""
        batch = self.val.draw((number,), COUNT, run=FRAMES)
        loss, figures = self.objective.forward(self.val.show(batch, self.val.pixels(batch, True), self.device))
        return {**figures, "score": -loss}


class Wav2LipObjective(nn.Module):
    """L1 over the face, the mouth counting as in LipFormer's own loss, and the distance that the sync expert sees."""

    def __init__(self, model: Wav2Lip, expert: SyncNet):
        super().__init__()
        self.model, self.expert = model, expert.requires_grad_(False).eval()
        self.register_buffer("mouth", mouth_pixels(model.config.data.size), persistent=False)

    def forward(self, batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns (loss, figures to log) of runs of FRAMES consecutive targets."""
        model = self.model
        generated = model(batch.image, batch.audio, model.encode_reference(batch.lent)).float()
        image = reconstruction_loss(generated, batch.image, model.config.stage1.mouth_weight, self.mouth)
        bottoms = split_halves(generated)[1].unflatten(0, (-1, FRAMES))  # (runs, FRAMES, 3, S/2, S)
        sync = 1 - self.expert(bottoms, batch.window_sounds).mean()
        return image + SYNC * sync, {"image": image.detach(), "sync": sync.detach()}
