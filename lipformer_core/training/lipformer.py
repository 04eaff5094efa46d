"""Stage 2 (Figure 2b): with Enc, C_U and C_B frozen, the warping, E_aud, the Transformer and Dec learn to speak.

Up to four phases, each a resumable stage of its own under the run folder:

- `warping`: F_e and F_d alone, supervised by rigid landmarks and the target's own bottom features;
- `listening`: E_aud alone, opening and width of the lips read from F_Aud by a linear map; its step is cheap;
- `cached`: warping, E_aud and Transformer by cross entropy to the target's own bottom codes, all codes cached;
- `lipformer`: everything end to end, straight-through Gumbel-softmax codes through the decoder being fine-tuned.

The paper trains end to end at once; the phases before `lipformer` are ours, and have no steps in the preset `paper`.
"""

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import checkpoint
from ..config import Config
from ..data.prepared.joined import Data, open_corpus
from ..errors import ConfigError
from ..model.discriminator import PatchDiscriminator, adaptive_weight, discriminator_loss, generator_loss
from ..model.lipformer import LipFormer
from ..model.regions import mouth_pixels, mouth_tokens
from ..model.syncnet import SyncNet
from ..model.warping import require_sampling
from .codebook import train_codebook
from .loop import finished, run_stage, take_over
from .objectives import CodeObjective, ImageObjective, SoundObjective, WarpObjective, lower_face
from .pairs import PairBatch, PairSampler, without_speech
from .stage import Stage, as_configured, describe_frames, make_accelerator

VALIDATION_ROUNDS = 4  # batches of 64 fixed pairs
PHASES = ("warping", "listening", "cached", "lipformer")


@as_configured
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

    until : the last phase to train, one of PHASES; its LipFormer is returned, in evaluation mode
    With `joint_sync_weight` the run's sync expert must be there (`train_sync`).

    codebook : a run whose finished stage 1, of the same settings, is taken over where `run` has none; the codes of all
        frames are then cached there, for other runs too, if its folder can be written; "pretrained": the one that comes
        with the package, in which nothing is written
    start : a run whose trained warping, audio encoder and Transformer, of the same architecture, are gone on from
    raises DataError, CheckpointError, WeightsMissing as `train_codebook`; ConfigError if `until` has no steps
    """
    corpus, run = open_corpus(data), Path(run)
    steps = {
        "warping": config.warp_steps if config.warping else 0,
        "listening": config.listen_steps,
        "cached": config.cached_steps,
        "lipformer": config.joint_steps,
    }
    if not steps[until]:
        raise ConfigError(f"until: the phase {until!r} has no steps in these settings")
    phases = [p for p in PHASES[: PHASES.index(until) + 1] if steps[p]]
    if codebook is not None:
        with make_accelerator(config).main_process_first():
            if not finished(run / "codebook", config):
                take_over(checkpoint.run_folder(codebook) / "codebook", run / "codebook", config)
    if not finished(run / "codebook", config):
        train_codebook(config, data, run, progress, start)
    autoencoder = checkpoint.load_codebook(run)
    # where many runs share a stage 1, its codes are computed once
    shared = None if codebook is None else checkpoint.run_folder(codebook)
    codes = shared if shared not in (None, checkpoint.SHIPPED) and os.access(shared / "codebook", os.W_OK) else run
    expert = checkpoint.load_sync(run) if config.joint_sync_weight and until == "lipformer" else None
    sampler = origin = None
    for number, phase in enumerate(phases):
        if finished(run / phase, config, corpus.hash):
            continue
        if sampler is None:
            torch.manual_seed(config.seed)
            model = LipFormer(config, autoencoder)
            if start is not None:
                earlier = checkpoint.load_lipformer(start, device="cpu")
                origin = checkpoint.fingerprint(earlier)
            accelerator = make_accelerator(config)
            model.to(accelerator.device)
            where = codes / "codebook"
            sampler = [PairSampler(model, corpus, s, where, accelerator, progress) for s in ("train", "val")]
        if number:
            model.load_state_dict(checkpoint.load(run / phases[number - 1] / "model.safetensors")[1])
        elif start is not None:
            for name, module in model.named_children():
                if name != "autoencoder":
                    checkpoint.fill(module, getattr(earlier, name))
        stage = LipFormerStage(model, phase, steps[phase], *sampler, expert)
        stage.start = origin
        run_stage(run / phase, stage, corpus.hash, progress)
    return checkpoint.load_lipformer(run, phases[-1])


class LipFormerStage(Stage):
    """The state and the steps of one phase of stage 2."""

    score = "val_score"

    def __init__(
        self,
        model: LipFormer,
        phase: str,
        steps: int,
        train: PairSampler,
        val: PairSampler,
        expert: SyncNet | None = None,
    ):
        super().__init__(model.config)
        config = self.config
        if model.warping is not None:
            require_sampling(self.device)
        self.run = config.sync_frames if phase == "lipformer" and expert is not None else 1  # consecutive targets
        self.phase, self.steps, self.train, self.val = phase, steps, train, val
        self.model = model.train().to(self.device, memory_format=torch.channels_last)
        mouth = mouth_tokens(config).to(self.device)  # (h/2, w)
        if phase == "warping":
            parameters, rate = model.warping.parameters(), config.warp_lr
            self.objective: nn.Module = WarpObjective(model, mouth)
        elif phase == "listening":
            parameters, rate = [*model.audio_encoder.parameters(), *model.articulation.parameters()], config.stage2_lr
            self.objective = SoundObjective(model)
        elif phase == "cached":
            parameters, rate = model.predictor_parameters(), config.stage2_lr
            self.objective = CodeObjective(model, mouth)
        else:
            parameters, rate = model.predictor_parameters(), config.joint_lr
            self.objective = ImageObjective(model, mouth, mouth_pixels(config.crop_size).to(self.device), expert)
        self.objective.to(self.device)
        options = {"betas": (0.9, 0.98), "weight_decay": config.weight_decay, "fused": self.fused}
        optimisers = [torch.optim.AdamW(parameters, lr=rate, **options)]
        self.wrapped, self.discriminator = [self.wrap(self.objective)], None
        if phase == "lipformer":
            decoder = list(model.autoencoder.decoder.parameters())
            optimisers[0].add_param_group({"params": decoder, "lr": config.decoder_lr, "weight_decay": 0.0})
            if config.joint_adversarial_weight:
                self.discriminator = PatchDiscriminator().to(self.device)
                trained = self.discriminator.parameters()
                optimisers.append(torch.optim.Adam(trained, lr=rate, betas=(0.5, 0.9), fused=self.fused))
                self.wrapped.append(self.wrap(self.discriminator))
        self.optimisers = [self.accelerator.prepare(o) for o in optimisers]
        if config.resident and phase == "lipformer":
            train.frames.keep(self.device)

    def material(self, number: int) -> tuple[PairBatch, Tensor | None]:
        """The pairs of one batch and, in the last phase, what `FrameSampler.pictures` needs of the target frames."""
        joint = self.phase == "lipformer"
        count = self.config.joint_batch if joint else self.config.cached_batch
        batch = self.train.draw((self.config.seed, number), count, self.accelerator.process_index * count, self.run)
        return batch, self.train.frames.material(batch.frames) if joint else None

    def describe(self, material: tuple[PairBatch, Tensor | None]) -> str:
        return describe_frames(material[0].frames)

    def losses(self, number: int, material: tuple[PairBatch, Tensor | None]) -> tuple[list, dict[str, Tensor]]:
        """Losses of the generator and, where there is one, of the discriminator."""
        config = self.config
        batch, pixels = self.to_device(material[0]), material[1]
        if config.speech_dropout:
            batch.audio = without_speech(batch.audio, config.speech_dropout)
        image = None if pixels is None else batch.looks.images(self.train.frames.pictures(pixels, self.device))
        tau = config.gumbel_tau_start * (config.gumbel_tau_end / config.gumbel_tau_start) ** (number / self.steps)
        loss, logged, generated = self.wrapped[0](batch, image, tau)
        if self.discriminator is None:
            return [loss], logged
        seen = lower_face(generated)
        fooled = generator_loss(self.discriminator, seen)
        weight = adaptive_weight(loss, fooled, generated)
        judged = discriminator_loss(self.wrapped[1], lower_face(image), seen)
        logged |= {"discriminator": judged.detach(), "adversarial": fooled.detach(), "adaptive_weight": weight}
        return [loss + config.joint_adversarial_weight * weight * fooled, judged], logged

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The phase's losses on fixed validation pairs, without any chance in them; val_score is minus the loss."""
        self.model.eval()
        seen: dict[str, list[float]] = {}
        for number in range(VALIDATION_ROUNDS):
            batch = self.to_device(self.val.draw((number,), 64 // self.run * self.run, run=self.run))
            image = self.val.frames.images(batch.frames).to(self.device) if self.phase == "lipformer" else None
            loss, logged, _ = self.objective(batch, image, None)
            for key, value in {**logged, "score": -loss}.items():
                seen.setdefault(f"val_{key}", []).append(float(value))
        self.model.train()
        return {key: sum(values) / len(values) for key, values in seen.items()}

    def to_device(self, batch: PairBatch) -> PairBatch:
        """The batch with all tensors on the accelerator's device."""
        values = [v.to(self.device) if isinstance(v, Tensor) else v for v in vars(batch).values()]
        return PairBatch(*values)
