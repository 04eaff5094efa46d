"""Stage 2 (Figure 2b): with Enc, C_U and C_B frozen, the warping, E_aud, the Transformer and Dec learn to speak.

Up to three phases, each a resumable stage of its own under the run folder:

- `warping`: the parts apart: F_e and F_d by rigid landmarks and the target's own bottom features, E_aud by the lips'
  opening and width, read from F_Aud by a linear map;
- `cached`: warping, E_aud and Transformer by cross entropy to the target's own bottom codes, all codes cached;
- `lipformer`: everything end to end through the decoder being fine-tuned: straight-through Gumbel-softmax codes by the
  paper, by our design the mean of the likeliest.

The paper trains end to end at once; the phases before `lipformer` are ours, and have no steps in the preset `paper`.
"""

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import checkpoint
from ..config import PHASES, Config, from_dict
from ..data.prepared.clips import Data, open_corpus
from ..errors import ConfigError
from ..model.autoencoder import FaceAutoencoder
from ..model.build import build
from ..model.lipformer import LipFormer
from ..model.syncnet import FRAMES, SyncNet
from ..model.warping import require_sampling
from .codebook import train_codebook
from .judges import Judges
from .loop import finished, run_stage, take_over
from .objectives import ApartObjective, CodeObjective, ImageObjective, lower_face
from .pairs import Material, PairSampler
from .stage import Stage, make_accelerator

APART_LR = 2e-3
DECODER_LR = 0.05  # share of the last phase's rate; at half of it reconstructions lost a decibel
WEIGHT_DECAY = 0.01
TAU = (1.0, 0.3)  # temperature of the Gumbel-softmax at the first and at the last step; geometric between them


def train_lipformer(
    config: Config,
    data: Data,
    run: Path | str,
    progress: bool = True,
    until: str = "lipformer",
    start: Path | str | None = None,
    codebook: Path | str | None = None,
) -> LipFormer:
    """Train stage 2 on a prepared corpus, or several, over the finished stage 1 of the same run. Resumes.

    Stage 1 comes first, on the same corpus, where `run`/codebook is not finished; where it is, it may have been trained
    on another corpus (the paper: FFHQ).

    until : the last phase to train, one of config.PHASES; its LipFormer is returned, in evaluation mode
    With `stage2.joint.sync_weight` the run's sync expert must be there (`train_sync`).

    codebook : a run whose finished stage 1 is taken over where `run` has none; the codes of all frames are then cached
        there, for other runs too, if its folder can be written; "pretrained": the one that comes with the package, in
        which nothing is written
    start : a run whose trained warping, audio encoder and Transformer, of the same architecture, are gone on from

    Over a finished stage 1 its own settings hold: the parts `codebook` and `stage1`, and `data.size`.

    raises DataError, CheckpointError, WeightsMissing as `train_codebook`; ConfigError if `until` has no steps
    """
    corpus, run, phases = open_corpus(data), Path(run), phases_of(config, until)
    if codebook is not None:
        with make_accelerator(config).main_process_first():
            if not finished(run / "codebook"):
                take_over(checkpoint.run_folder(codebook) / "codebook", run / "codebook")
    if not finished(run / "codebook"):
        train_codebook(config, data, run, progress, start)
    config = over_codebook(config, run)
    autoencoder = checkpoint.load_codebook(run)
    # where many runs share a stage 1, its codes are computed once
    shared = None if codebook is None else checkpoint.run_folder(codebook)
    codes = shared if shared not in (None, checkpoint.SHIPPED) and os.access(shared / "codebook", os.W_OK) else run
    expert = checkpoint.load_sync(run) if config.stage2.joint.sync_weight and until == "lipformer" else None
    stage = None
    for number, phase in enumerate(phases):
        if finished(run / phase, config, corpus.hash):
            continue
        if stage is None:
            torch.manual_seed(config.seed)
            trained = Trained(config, autoencoder)
            if start is not None:
                earlier = Trained.load(start)
                trained.fill(earlier)
            accelerator = make_accelerator(config)
            trained.to(accelerator.device)
            where = codes / "codebook"
            drawn = (trained.lipformer, corpus)
            sampler = [PairSampler(*drawn, split, where, accelerator, progress) for split in ("train", "val")]
        if number:
            trained.load_state_dict(checkpoint.load(run / phases[number - 1] / "model.safetensors")[1])
        stage = LipFormerStage(trained, phase, *sampler, expert)
        stage.start = None if start is None else checkpoint.fingerprint(earlier.lipformer)
        run_stage(run / phase, stage, corpus.hash, progress)
    return checkpoint.load_lipformer(run, phases[-1])


def over_codebook(config: Config, run: Path) -> Config:
    """The settings with those parts that a run's finished stage 1 decides."""
    theirs = from_dict(checkpoint.header_of(run, "codebook")["config"]).to_dict()
    return config.replace({"data.size": theirs["data"]["size"]}, codebook=theirs["codebook"], stage1=theirs["stage1"])


def phases_of(config: Config, until: str) -> list[str]:
    """The phases up to `until` that have steps. ConfigError if that one has none."""
    steps = phase_steps(config)
    if not steps[until]:
        raise ConfigError(f"until: the phase {until!r} has no steps in these settings")
    return [phase for phase in PHASES[: PHASES.index(until) + 1] if steps[phase]]


def phase_steps(config: Config) -> dict[str, int]:
    """Steps of each phase; the first one has none where there is nothing to learn apart."""
    stage2 = config.stage2
    apart = config.lips.ablation != "no_warping" or stage2.lip_supervision
    return {"warping": apart * stage2.apart.steps, "cached": stage2.cached.steps, "lipformer": stage2.joint.steps}


class Trained(nn.Module):
    """What stage 2 trains and keeps: `lipformer`, and `judges` where lips are supervised."""

    def __init__(self, config: Config, autoencoder: FaceAutoencoder | None = None):
        super().__init__()
        self.lipformer = build(config, autoencoder)
        self.judges = Judges(config) if config.stage2.lip_supervision else None

    @classmethod
    def load(cls, run: Path | str | None, phase: str = "lipformer") -> "Trained":
        """Of a run's finished phase, on the CPU, in evaluation mode. CheckpointError if there is none."""
        header, tensors = checkpoint.load(checkpoint.run_folder(run) / phase / "model.safetensors")
        return checkpoint.restore(cls(from_dict(header["config"])), tensors)

    def fill(self, other: "Trained") -> None:
        """Take the weights of another one's warping, audio encoder, Transformer and, if both have some, judges.

        An audio encoder that also hears speech features is taken without them.
        """
        for name, module in self.lipformer.named_children():
            if name != "autoencoder":
                theirs = getattr(other.lipformer, name)
                checkpoint.fill(module, theirs.hearing(module.columns) if name == "audio_encoder" else theirs)
        if self.judges is not None and other.judges is not None:
            checkpoint.fill(self.judges, other.judges)

    def predictor(self) -> list[nn.Parameter]:
        """Parameters of F_e, F_d, E_aud, the Transformer and the judges."""
        model = self.lipformer
        modules = [model.warping, model.audio_encoder, model.transformer, self.judges]
        return [p for m in modules if m is not None for p in m.parameters()]

    def apart(self) -> list[nn.Parameter]:
        """Parameters of the first phase: F_e, F_d and, with judges, E_aud and its linear map."""
        heard = [] if self.judges is None else [self.lipformer.audio_encoder, self.judges.articulation]
        return [p for m in (self.lipformer.warping, *heard) for p in m.parameters()]


class LipFormerStage(Stage):
    """The state and the steps of one phase of stage 2."""

    rounds = 4  # of 64 fixed pairs

    def __init__(
        self, trained: Trained, phase: str, train: PairSampler, val: PairSampler, expert: SyncNet | None = None
    ):
        model, judges = trained.lipformer, trained.judges
        super().__init__(model.config)
        config, stage2 = self.config, self.config.stage2
        if config.lips.ablation != "no_warping":
            require_sampling(self.device)
        self.run = FRAMES if phase == "lipformer" and expert is not None else 1  # consecutive targets
        if expert is not None and stage2.joint.batch % FRAMES:
            raise ConfigError(f"stage2.joint.batch: {stage2.joint.batch} is no multiple of {FRAMES}, a sync window")
        self.phase, self.steps, self.train, self.val = phase, phase_steps(config)[phase], train, val
        self.model = trained.train().to(self.device, memory_format=torch.channels_last)
        if phase == "warping":
            parameters, rate = trained.apart(), APART_LR
            self.objective: nn.Module = ApartObjective(model, judges)
        elif phase == "cached":
            parameters, rate = trained.predictor(), stage2.cached.lr
            self.objective = CodeObjective(model, judges)
        else:
            parameters, rate = trained.predictor(), stage2.joint.lr
            self.objective = ImageObjective(model, judges, expert)
            if config.lips.ablation == "trained_codes":
                model.autoencoder.upper_codebook.requires_grad_(True)
                model.autoencoder.bottom_codebook.requires_grad_(True)
        self.objective.to(self.device)
        options = {"betas": (0.9, 0.98), "weight_decay": WEIGHT_DECAY, "fused": self.fused}
        optimisers = [torch.optim.AdamW(parameters, lr=rate, **options)]
        self.wrapped, self.discriminator = [self.wrap(self.objective)], None
        if phase == "lipformer":
            if config.lips.ablation == "frozen_decoder":
                model.autoencoder.decoder.requires_grad_(False)
            else:
                # Dec's, and the codes' by the ablation alone
                tuned = [p for p in model.autoencoder.parameters() if p.requires_grad]
                group = {"params": tuned, "lr": DECODER_LR * rate, "weight_decay": 0.0}
                optimisers[0].add_param_group(group)
            if stage2.joint.adversarial_weight:
                optimisers.append(self.add_discriminator(rate))
        if phase == "lipformer" or config.lips.design == "ours":
            train.frames.keep(self.device)
        self.optimisers = [self.accelerator.prepare(o) for o in optimisers]

    def material(self, number: int) -> Material:
        """The pairs of one batch and their pixels, as far as the phase looks at them."""
        stage2 = self.config.stage2
        count = stage2.joint.batch if self.phase == "lipformer" else stage2.cached.batch
        batch = self.train.draw((self.config.seed, number), count, self.accelerator.process_index * count, self.run)
        return batch, self.train.pixels(batch, self.phase == "lipformer")

    def losses(self, number: int, material: Material) -> tuple[list, dict[str, Tensor]]:
        """Losses of the generator and, where there is one, of the discriminator."""
        batch = self.train.show(*material, self.device)
        tau = TAU[0] * (TAU[1] / TAU[0]) ** (number / self.steps)
        loss, logged, generated = self.wrapped[0](batch, tau)
        if self.discriminator is None:
            return [loss], logged
        last = self.model.lipformer.autoencoder.decoder.last
        given = loss, self.config.stage2.joint.adversarial_weight, last if last.requires_grad else generated
        loss, judged, figures = self.adversarial(*given, lower_face(generated), lower_face(batch.image))
        return [loss, judged], logged | figures

    def validate(self, number: int) -> dict[str, Tensor]:
        """The phase's figures on fixed validation pairs; `score` is minus the loss."""
        batch = self.val.draw((number,), 64 // self.run * self.run, run=self.run)
        batch = self.val.show(batch, self.val.pixels(batch, self.phase == "lipformer"), self.device)
        loss, logged, _ = self.objective.forward(batch, None)  # not as compiled, which is for training
        return {**logged, "score": -loss}
