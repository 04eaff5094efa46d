"""Stage 2 (Figure 2b): with Enc, C_U and C_B frozen, the warping, E_aud, the Transformer and Dec learn to speak.

Three phases, each a resumable stage of its own under the run folder:

- `warping`: F_e and F_d alone, supervised by rigid landmarks and the target's own bottom features;
- `cached`: warping, E_aud and Transformer by cross entropy to the target's own bottom codes, all codes cached;
- `lipformer`: everything end to end, straight-through Gumbel-softmax codes through the decoder being fine-tuned.

The paper trains end to end at once; the first two phases are ours, and have no steps in the preset `paper`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import checkpoint
from ..config import Config
from ..data.audio import SILENCE
from ..data.clips import Clip, PreparedCorpus
from ..data.references import draw_reference, draw_twin
from ..errors import ConfigError
from ..model.discriminator import PatchDiscriminator, adaptive_weight, discriminator_loss, generator_loss
from ..model.lipformer import LipFormer, Reference, lip_codes
from .cache import cache_codes
from .codebook import train_codebook
from .looks import Looks, clip_looks
from .loop import finished, run_stage
from .losses import (
    bottom_coordinates,
    mouth_pixels,
    mouth_tokens,
    perceptual_loss,
    reconstruction_loss,
    warp_landmark_loss,
)
from .sampling import FrameSampler, Key, sample_rng, to_tensor
from .stage import Stage, describe_frames, make_accelerator

VALIDATION_ROUNDS = 4  # batches of 64 fixed pairs
CLOSED = 0.03  # inter-ocular distances: lips that touch, give or take the landmarks' error
LIP_SCALE = 0.2  # inter-ocular distances: about the spread of lip openings
PHASES = ("warping", "cached", "lipformer")


def train_lipformer(
    config: Config,
    data: Path | str,
    run: Path | str,
    progress: bool = True,
    until: str = "lipformer",
    start: Path | str | None = None,
) -> LipFormer:
    """Train stage 2 on a prepared corpus over the finished stage 1 of the same run. Resumes.

    Stage 1 comes first, on the same corpus, where `run`/codebook is not finished; where it is, it may have been trained
    on another corpus (the paper: FFHQ).

    until : the last phase to train, one of PHASES; its LipFormer is returned, in evaluation mode
    start : a run whose trained warping, audio encoder and Transformer, of the same architecture, are gone on from
    raises DataError, CheckpointError, WeightsMissing as `train_codebook`; ConfigError if `until` has no steps
    """
    corpus, run = PreparedCorpus(data), Path(run)
    steps = {
        "warping": config.warp_steps if config.warping else 0,
        "cached": config.cached_steps,
        "lipformer": config.joint_steps,
    }
    if not steps[until]:
        raise ConfigError(f"until: the phase {until!r} has no steps in these settings")
    phases = [p for p in PHASES[: PHASES.index(until) + 1] if steps[p]]
    if not finished(run / "codebook", config):
        train_codebook(config, data, run, progress, start)
    autoencoder = checkpoint.load_codebook(run)
    sampler = origin = None
    for number, phase in enumerate(phases):
        if finished(run / phase, config, corpus.hash):
            continue
        if sampler is None:
            torch.manual_seed(config.seed)
            model = LipFormer(config, autoencoder)
            if start is not None:
                earlier = checkpoint.load_lipformer(start)
                origin = checkpoint.fingerprint(earlier)
            with make_accelerator(config).main_process_first():  # one writes the codes, all read them
                sampler = [PairSampler(model, corpus, split, run / "codebook") for split in ("train", "val")]
        if number:
            model.load_state_dict(checkpoint.load(run / phases[number - 1] / "model.safetensors")[1])
        elif start is not None:
            for name, module in model.named_children():
                if name != "autoencoder":
                    checkpoint.fill(module, getattr(earlier, name))
        stage = LipFormerStage(model, phase, steps[phase], *sampler)
        stage.start = origin
        run_stage(run / phase, stage, corpus.hash, progress)
    return checkpoint.load_lipformer(run, phases[-1])


@dataclass
class PairBatch:
    """One step's material. Shapes: codes (B, h/2, w) int64; audio (B, window, 80); points (B, 68, 2) crop pixels."""

    target_upper: Tensor
    target_bottom: Tensor
    pose_upper: Tensor  # what the warping sees of the target: its own upper half, or a pose twin's
    reference_upper: Tensor
    reference_bottom: Tensor
    audio: Tensor
    target_points: Tensor
    reference_points: Tensor
    yaw_gap: Tensor  # (B,) degrees
    lips: Tensor  # (B, 2) opening, and width less the clip's mean width, in units of LIP_SCALE
    frames: list  # (ClipInfo, target frame)
    looks: Looks  # how the target frames look in this batch


class PairSampler:
    """Draws targets with references and sound from cached codes."""

    def __init__(self, model: LipFormer, corpus: PreparedCorpus, split: str, folder: Path):
        self.config, self.corpus = model.config, corpus
        self.looks = self.config.looks if split == "train" else 1
        self.frames = FrameSampler(corpus, split, model.config, stills=False)
        key = f"{corpus.hash} {checkpoint.fingerprint(model.autoencoder.encoder)}"
        self.cache = cache_codes(model.autoencoder, corpus, split, folder, key, self.looks)

    def draw(self, key: Key, count: int, first: int = 0) -> PairBatch:
        """Samples `first` to `first + count` of a key; the reference is another frame of the same clip."""
        pairs = self.frames.draw(key, count, first)
        codes, points, audio, gaps, lips, looks = [], [], [], [], [], []
        for sample, (info, target) in enumerate(pairs, first):
            rng, clip = sample_rng(key, sample, use=1), self.corpus.open(info.clip_id)
            looks.append(int(rng.integers(self.looks)))
            reference = draw_reference(rng, clip.pose[:, 0], clip.valid, target, clip.opening)
            twin = target
            if self.config.pose_twin and rng.random() < self.config.pose_twin:
                twin = draw_twin(rng, clip.pose, clip.valid, target)
            codes.append([self.cache.read(info.clip_id, frame, looks[-1]) for frame in (target, reference, twin)])
            points.append(clip.landmarks[[target, reference]])
            audio.append(self._sound(clip, target, rng))
            gaps.append(abs(clip.pose[target, 0] - clip.pose[reference, 0]))
            width = clip.width[target] - clip.width[clip.valid].mean()
            lips.append([clip.opening[target] / LIP_SCALE, width / LIP_SCALE])
        indices = torch.from_numpy(np.asarray(codes).astype(np.int64))  # (B, 3, 2, h/2, w)
        target, reference, twin = indices.unbind(1)
        seen = clip_looks([info.clip_id for info, _ in pairs], looks, self.config)
        both = seen.points(torch.from_numpy(np.stack(points)).float().flatten(1, 2), self.config.crop_size)
        target_points, reference_points = both.unflatten(1, (2, -1)).unbind(1)
        return PairBatch(
            *target.unbind(1),
            twin[:, 0],
            *reference.unbind(1),
            torch.from_numpy(np.stack(audio)),
            target_points,
            reference_points,
            torch.tensor(gaps),
            torch.tensor(np.asarray(lips, np.float32)),
            pairs,
            seen,
        )

    def _sound(self, clip: Clip, target: int, rng: np.random.Generator) -> np.ndarray:
        """Log-mel (window, 80) around a frame; silence instead, in some samples, where the lips are closed anyway."""
        config = self.config
        sound = clip.audio_windows([target], config.audio_window)[0]
        if config.silent_closed and clip.opening[target] <= CLOSED and rng.random() < config.silent_closed:
            sound = np.full_like(sound, SILENCE)
        return sound


class LipFormerStage(Stage):
    """The state and the steps of one phase of stage 2."""

    score = "val_score"

    def __init__(self, model: LipFormer, phase: str, steps: int, train: PairSampler, val: PairSampler):
        super().__init__(model.config)
        config = self.config
        self.phase, self.steps, self.train, self.val = phase, steps, train, val
        self.model = model.train().to(self.device, memory_format=torch.channels_last)
        mouth = mouth_tokens(config).to(self.device)  # (h/2, w)
        if phase == "warping":
            parameters, rate = model.warping.parameters(), config.warp_lr
            self.objective: nn.Module = WarpObjective(model, mouth)
        elif phase == "cached":
            parameters, rate = model.predictor_parameters(), config.stage2_lr
            self.objective = CodeObjective(model, mouth)
        else:
            parameters, rate = model.predictor_parameters(), config.joint_lr
            self.objective = ImageObjective(model, mouth, mouth_pixels(config.crop_size).to(self.device))
        self.objective.to(self.device)
        optimisers = [torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=config.weight_decay)]
        self.wrapped, self.discriminator = [self.accelerator.prepare(self.objective)], None
        if phase == "lipformer":
            decoder = list(model.autoencoder.decoder.parameters())
            optimisers[0].add_param_group({"params": decoder, "lr": config.decoder_lr, "weight_decay": 0.0})
            if config.joint_adversarial_weight:
                self.discriminator = PatchDiscriminator(config.discriminator_width).to(self.device)
                trained = self.discriminator.parameters()
                optimisers.append(torch.optim.Adam(trained, lr=rate, betas=(0.5, 0.9)))
                self.wrapped.append(self.accelerator.prepare(self.discriminator))
        self.optimisers = [self.accelerator.prepare(o) for o in optimisers]

    def material(self, number: int) -> tuple[PairBatch, np.ndarray | None]:
        """The pairs of one batch and, in the last phase, the target frames, uint8 (B, S, S, 3)."""
        joint = self.phase == "lipformer"
        count = self.config.joint_batch if joint else self.config.cached_batch
        batch = self.train.draw((self.config.seed, number), count, self.accelerator.process_index * count)
        return batch, self.train.frames.pixels(batch.frames) if joint else None

    def describe(self, material: tuple[PairBatch, np.ndarray | None]) -> str:
        return describe_frames(material[0].frames)

    def losses(self, number: int, material: tuple[PairBatch, np.ndarray | None]) -> tuple[list, dict[str, Tensor]]:
        """Losses of the generator and, where there is one, of the discriminator."""
        config = self.config
        batch, pixels = self.to_device(material[0]), material[1]
        batch.audio = augment_audio(batch.audio, config.audio_gain, config.audio_noise)
        image = None if pixels is None else batch.looks.images(to_tensor(pixels).to(self.device))
        tau = config.gumbel_tau_start * (config.gumbel_tau_end / config.gumbel_tau_start) ** (number / self.steps)
        loss, logged, generated = self.wrapped[0](batch, image, tau)
        if self.discriminator is None:
            return [loss], logged
        fooled = generator_loss(self.discriminator, generated)
        weight = adaptive_weight(loss, fooled, self.model.autoencoder.decoder.last_layer.weight)
        judged = discriminator_loss(self.wrapped[1], image, generated)
        logged |= {"discriminator": judged.detach(), "adversarial": fooled.detach(), "adaptive_weight": weight}
        return [loss + config.joint_adversarial_weight * weight * fooled, judged], logged

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The phase's losses on fixed validation pairs; val_score is minus the loss."""
        self.model.eval()
        seen: dict[str, list[float]] = {}
        with torch.random.fork_rng(devices=[]):
            for number in range(VALIDATION_ROUNDS):
                batch = self.to_device(self.val.draw((number,), 64))
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


def augment_audio(audio: Tensor, gain: float, noise: float) -> Tensor:
    """A random level for each sample and noise on every band: log-mel (B, window, 80); the floor stays at -1.

    gain : largest shift of a sample's level, mel units; noise : deviation, mel units
    """
    if gain:
        audio = audio + gain * (2 * torch.rand(len(audio), 1, 1, device=audio.device) - 1)
    if noise:
        audio = audio + noise * torch.randn_like(audio)
    return audio.clamp(min=SILENCE)


# --- objectives: one module each, so that a distributed wrapper sees one forward ------------------
class WarpObjective(nn.Module):
    """Supervision of F_e and F_d: rigid landmarks, and the target's features away from the mouth."""

    def __init__(self, model: LipFormer, mouth: Tensor):
        super().__init__()
        self.model, self.rigid = model, ~mouth

    def forward(self, batch: PairBatch, image: None, tau: None) -> tuple[Tensor, dict[str, Tensor], None]:
        """Returns (loss, figures to log, no picture)."""
        _, pose, reference, truth = look_up(self.model, batch)
        warped, grid = self.model.warping(pose, *reference)
        loss, logged = warp_loss(self.model.config, batch, warped, grid, truth, self.rigid)
        plain = reference.bottom
        logged["plain_feature"] = feature_error(plain, truth, self.rigid)
        wide = batch.yaw_gap > 10
        if wide.any():
            with_warping, without = (feature_error(x[wide], truth[wide], self.rigid) for x in (warped, plain))
            logged["error_ratio"] = with_warping / without
        return loss, {k: v.detach() for k, v in logged.items()}, None


def warp_loss(
    config: Config, batch: PairBatch, warped: Tensor, grid: Tensor, truth: Tensor, rigid: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Supervision of a grid (B, h/2, w, 2) and of what it read, warped against truth (B, d, h/2, w)."""
    points = [bottom_coordinates(p, config.crop_size) for p in (batch.target_points, batch.reference_points)]
    landmark = warp_landmark_loss(grid, *points)
    feature = feature_error(warped, truth, rigid)
    loss = config.warp_landmark_weight * landmark + config.warp_feature_weight * feature
    return loss, {"landmark": landmark, "feature": feature}


class CodeObjective(nn.Module):
    """Cross entropy to the target's own bottom codes."""

    def __init__(self, model: LipFormer, mouth: Tensor):
        super().__init__()
        self.model, self.mouth = model, mouth

    def predict(self, batch: PairBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(logits (B, n, K), H_TU (B, d, h/2, w), auxiliary losses), the reference's mouth hidden in some samples."""
        config, model = self.model.config, self.model
        target, pose, reference, truth = look_up(model, batch)
        auxiliary, warped = {}, reference.bottom
        if model.warping is not None:
            warped, grid = model.warping(pose, *reference)
            if config.warp_supervision:  # keeps the warp a warp
                loss, _ = warp_loss(config, batch, warped, grid, truth, ~self.mouth)
                auxiliary["warp"] = config.warp_supervision * loss
        if self.training and config.reference_mouth_dropout:
            hide = torch.rand(len(warped), 1, 1, 1, device=warped.device) < config.reference_mouth_dropout
            warped = warped.masked_fill(hide & self.mouth, 0.0)
        condition = model.audio_encoder(batch.audio)
        logits, latent = model.transformer(warped, model.codes, condition)
        if config.latent_weight:
            error = (latent - truth.flatten(2).transpose(1, 2)).square().sum(-1) / model.codes.var(0).sum()  # (B, n)
            weight = self.token_weights(batch)
            auxiliary["latent"] = config.latent_weight * (error * weight).sum() / weight.sum()
        if model.articulation is not None:
            error = F.smooth_l1_loss(model.articulation(condition), batch.lips)
            auxiliary["articulation"] = config.articulation_weight * error
        return logits, target, auxiliary

    def token_weights(self, batch: PairBatch) -> Tensor:
        """How much each bottom token counts, (B, n): more in the mouth, and where the reference has another code."""
        config = self.model.config
        truth = batch.target_bottom.flatten(1)
        weight = torch.where(self.mouth.flatten(), config.mouth_token_weight, 1.0).expand(truth.shape)
        changed = batch.reference_bottom.flatten(1) != truth
        return torch.where(changed, weight * config.changed_token_weight, weight)

    def cross_entropy(self, logits: Tensor, batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted cross entropy, and the figures to log."""
        truth = batch.target_bottom.flatten(1)  # (B, n)
        mouth, weight = self.mouth.flatten(), self.token_weights(batch)
        each = F.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="none").view_as(truth)
        right = (logits.argmax(-1) == truth).float()
        figures = {"cross_entropy": each.mean(), "mouth_cross_entropy": each[:, mouth].mean()}
        figures |= {"accuracy": right.mean(), "mouth_accuracy": right[:, mouth].mean()}
        return (each * weight).sum() / weight.sum(), {k: v.detach() for k, v in figures.items()}

    def forward(self, batch: PairBatch, image: None, tau: None) -> tuple[Tensor, dict[str, Tensor], None]:
        """Returns (loss, figures to log, no picture)."""
        logits, _, auxiliary = self.predict(batch)
        loss, logged = self.cross_entropy(logits, batch)
        loss = loss + sum(auxiliary.values())
        logged |= {name: value.detach() for name, value in auxiliary.items()}
        return loss, logged, None


class ImageObjective(CodeObjective):
    """End to end: the generated face against the target, over the full frame, plus the cross entropy."""

    def __init__(self, model: LipFormer, mouth: Tensor, mouth_region: Tensor):
        super().__init__(model, mouth)
        self.region = mouth_region
        self.perceptual = perceptual_loss(model.config, model.config.joint_perceptual_weight)

    def forward(self, batch: PairBatch, image: Tensor, tau: float | None) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Returns (loss, figures to log, I_Gen (B, 3, S, S))."""
        config, model = self.model.config, self.model
        logits, upper, auxiliary = self.predict(batch)
        code_loss, logged = self.cross_entropy(logits, batch)
        code_loss = code_loss + sum(auxiliary.values())
        logged |= {name: value.detach() for name, value in auxiliary.items()}
        generated = model.decode(upper, lip_codes(logits, model.codes, tau))
        pixel = reconstruction_loss(generated, image, config.mouth_weight, self.region)
        loss = config.cross_entropy_weight * code_loss + config.image_weight * pixel
        logged["image"] = pixel.detach()
        if self.perceptual is not None:
            perceptual = self.perceptual(generated, image)
            loss = loss + config.joint_perceptual_weight * perceptual
            logged["perceptual"] = perceptual.detach()
        square = ((generated.detach().clamp(-1, 1) - image) / 2).square()
        logged["mouth_psnr"] = -10 * torch.log10((square * self.region).sum((1, 2, 3)) / (3 * self.region.sum())).mean()
        return loss, logged, generated


def look_up(model: LipFormer, batch: PairBatch) -> tuple[Tensor, Tensor, Reference, Tensor]:
    """(H_TU, H_TU as the warping sees it, reference, H_TB) of a batch's code indices, (B, d, h/2, w) each."""
    upper, bottom = model.autoencoder.upper_codebook, model.autoencoder.bottom_codebook
    reference = Reference(upper.lookup(batch.reference_upper), bottom.lookup(batch.reference_bottom))
    target, pose = upper.lookup(batch.target_upper), upper.lookup(batch.pose_upper)
    return target, pose, reference, bottom.lookup(batch.target_bottom)


def feature_error(features: Tensor, truth: Tensor, where: Tensor) -> Tensor:
    """Mean squared distance of feature maps (B, d, h/2, w) over the tokens `where` (h/2, w)."""
    return (features - truth).square().mean(1)[:, where].mean()
