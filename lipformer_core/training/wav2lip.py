"""The Wav2Lip-style baseline's training: L1, and the run's own sync expert, on the frames that stage 2 trains on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .. import checkpoint
from ..config import Config
from ..data.prepared.joined import Corpus, Data, open_corpus
from ..model.autoencoder import split_halves
from ..model.regions import mouth_pixels
from ..model.syncnet import AUDIO_WINDOW, FRAMES, SyncNet
from ..model.wav2lip import Wav2Lip
from .looks import Looks, clip_looks
from .loop import finished, run_stage
from .losses import reconstruction_loss
from .pairs import draw_lender, run_around, without_speech
from .sampling import FrameSampler, Key, sample_rng
from .stage import Stage, describe_frames
from .sync import train_sync

RUNS = 4  # of FRAMES consecutive targets, each with one reference: a batch and process
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


@dataclass
class Windows:
    """Runs of consecutive target frames, N of them in all, each run with one reference and the sound of its middle."""

    frames: list  # (ClipInfo, frame), the N targets, then a reference a run
    pictures: Tensor  # what `FrameSampler.pictures` needs of them
    audio: Tensor  # (N, window, columns)
    window_sounds: Tensor  # (runs, AUDIO_WINDOW, 80)
    looks: Looks  # of all frames


class Wav2LipStage(Stage):
    """The state and the step of the baseline's training."""

    rounds = 12

    def __init__(self, config: Config, corpus: Corpus, expert: SyncNet):
        super().__init__(config)
        self.steps, self.corpus = config.wav2lip.steps, corpus
        self.model = Wav2Lip(config).to(self.device, memory_format=torch.channels_last)
        self.objective = Wav2LipObjective(self.model, expert).to(self.device)
        self.wrapped = [self.wrap(self.objective)]
        optimiser = torch.optim.Adam(self.model.parameters(), lr=LR, betas=BETAS, fused=self.fused)
        self.optimisers = [self.accelerator.prepare(optimiser)]
        self.train, self.val = (FrameSampler(corpus, split, stills=False) for split in ("train", "val"))
        self.train.keep(self.device)

    def draw(self, sampler: FrameSampler, key: Key, first: int = 0, looks: int = 1) -> Windows:
        """Runs `first` to `first + RUNS` of a key; references as stage 2 draws them."""
        targets, lenders, drawn, audio, sounds = [], [], [], [], []
        for sample, (info, anchor) in enumerate(sampler.draw(key, RUNS, first), first):
            rng, clip = sample_rng(key, sample, use=1), self.corpus.open(info.clip_id)
            drawn.append(int(rng.integers(looks)))
            lenders.append((info, draw_lender(rng, clip, anchor, self.config.lips.reference)))
            start = run_around(info, anchor, FRAMES)
            run = range(start, start + FRAMES)
            targets += [(info, frame) for frame in run]
            audio.append(clip.heard(run, self.config.audio, needed=True))
            sounds.append(clip.audio_windows([start + FRAMES // 2], AUDIO_WINDOW)[0])
        frames = targets + lenders
        look = clip_looks([i.clip_id for i, _ in frames], np.repeat(drawn, FRAMES).tolist() + drawn, self.config.stage1)
        heard = torch.from_numpy(np.concatenate(audio))
        return Windows(frames, sampler.material(frames), heard, torch.from_numpy(np.stack(sounds)), look)

    def material(self, number: int) -> Windows:
        """The runs of one batch."""
        first = self.accelerator.process_index * RUNS
        return self.draw(self.train, (self.config.seed, number), first, self.config.stage2.looks)

    def describe(self, material: Windows) -> str:
        return describe_frames(material.frames)

    def tensors(self, sampler: FrameSampler, windows: Windows) -> tuple[Tensor, ...]:
        """What the objective sees of runs, on the device."""
        images = windows.looks.images(sampler.pictures(windows.pictures, self.device))
        targets, references = images.split([len(windows.audio), RUNS])
        audio = windows.audio
        if self.config.audio.speech_encoder != "none" and sampler is self.train:
            audio = without_speech(audio)
        sounds = (audio.to(self.device), windows.window_sounds.to(self.device))
        return targets, references.repeat_interleave(FRAMES, 0), *sounds

    def losses(self, number: int, material: Windows) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The loss, and figures to log."""
        loss, figures = self.wrapped[0](*self.tensors(self.train, material))
        return [loss], figures

    def validate(self, number: int) -> dict[str, Tensor]:
        """The figures on fixed runs of the validation split; `score` is minus the loss."""
        loss, figures = self.objective.forward(*self.tensors(self.val, self.draw(self.val, (number,))))
        return {**figures, "score": -loss}


class Wav2LipObjective(nn.Module):
    """L1 over the face, the mouth counting as in LipFormer's own loss, and the distance that the sync expert sees."""

    def __init__(self, model: Wav2Lip, expert: SyncNet):
        super().__init__()
        self.model, self.expert = model, expert.requires_grad_(False).eval()
        self.register_buffer("mouth", mouth_pixels(model.config.data.size), persistent=False)

    def forward(
        self, target: Tensor, reference: Tensor, audio: Tensor, window_sounds: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns (loss, figures to log). target, reference : (N, 3, S, S); audio, window_sounds as in `Windows`."""
        model = self.model
        generated = model(target, audio, model.encode_reference(reference)).float()
        image = reconstruction_loss(generated, target, model.config.stage1.mouth_weight, self.mouth)
        bottoms = split_halves(generated)[1].unflatten(0, (len(window_sounds), -1))  # (runs, FRAMES, 3, S/2, S)
        sync = 1 - self.expert(bottoms, window_sounds).mean()
        return image + SYNC * sync, {"image": image.detach(), "sync": sync.detach()}
