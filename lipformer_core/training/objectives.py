"""What each phase of stage 2 minimises: one module each, so that a distributed wrapper sees one forward."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import Config
from ..model.autoencoder import split_halves
from ..model.lipformer import LipFormer, Reference, lip_codes
from ..model.syncnet import SyncNet
from ..model.warping import Warped
from .losses import bottom_coordinates, perceptual_loss, reconstruction_loss, warp_landmark_loss
from .pairs import PairBatch

FEWEST_ROWS = 32  # of a picture that the discriminator can judge


class WarpObjective(nn.Module):
    """Supervision of F_e and F_d: rigid landmarks, and the target's features away from the mouth."""

    def __init__(self, model: LipFormer, mouth: Tensor):
        super().__init__()
        self.model, self.rigid = model, ~mouth

    def forward(self, batch: PairBatch, image: None, tau: None) -> tuple[Tensor, dict[str, Tensor], None]:
        """Returns (loss, figures to log, no picture)."""
        _, pose, reference, truth = look_up(self.model, batch)
        warped, grid = self.model.warping(pose, *reference)
        loss, logged = warp_loss(self.model.config, batch, warped.bottom, grid, truth, self.rigid)
        plain = reference.bottom
        logged["plain_feature"] = feature_error(plain, truth, self.rigid)
        wide = batch.yaw_gap > 10
        if wide.any():
            with_warping, without = (feature_error(x[wide], truth[wide], self.rigid) for x in (warped.bottom, plain))
            logged["error_ratio"] = with_warping / without
        return loss, {k: v.detach() for k, v in logged.items()}, None


def warp_loss(
    config: Config, batch: PairBatch, warped: Tensor, grid: Tensor, truth: Tensor, rigid: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Supervision of a grid (B, h/2, w, 2) and of what it read, warped against truth (B, d, h/2, w)."""
    points = [bottom_coordinates(p, config.crop_size) for p in (batch.target_points, batch.reference_points)]
    landmark = warp_landmark_loss(grid, *points)
    feature = feature_error(warped, truth, rigid)
    return landmark + feature, {"landmark": landmark, "feature": feature}


class SoundObjective(nn.Module):
    """The lips from the sound alone: opening and width, by a linear map from F_Aud."""

    def __init__(self, model: LipFormer):
        super().__init__()
        self.model = model

    def forward(self, batch: PairBatch, image: None, tau: None) -> tuple[Tensor, dict[str, Tensor], None]:
        """Returns (loss, figures to log, no picture)."""
        loss = articulation_error(self.model, self.model.audio_encoder(batch.audio), batch)
        return loss, {"articulation": loss.detach()}, None


class CodeObjective(nn.Module):
    """Cross entropy to the target's own bottom codes."""

    def __init__(self, model: LipFormer, mouth: Tensor):
        super().__init__()
        self.model, self.mouth = model, mouth

    def predict(self, batch: PairBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(logits (B, n, K), H_TU (B, d, h/2, w), auxiliary losses), the reference's mouth hidden in some samples."""
        config, model = self.model.config, self.model
        target, pose, reference, truth = look_up(model, batch)
        auxiliary, warped = {}, Warped(reference.bottom)
        if model.warping is not None:
            warped, grid = model.warping(pose, *reference)
            if config.warp_supervision:  # keeps the warp a warp
                loss, _ = warp_loss(config, batch, warped.bottom, grid, truth, ~self.mouth)
                auxiliary["warp"] = config.warp_supervision * loss
        if model.training and config.reference_mouth_dropout:
            hide = torch.rand(len(truth), 1, 1, 1, device=truth.device) < config.reference_mouth_dropout
            warped = warped.hide(hide & self.mouth)
        own = truth if config.reference == "own" else None
        if own is not None:
            warped = warped.surround(own, ~model.speaking)
        condition = model.audio_encoder(batch.audio)
        logits, latent = model.transformer(warped, model.codes, condition)
        if config.latent_weight:
            error = (latent - truth.flatten(2).transpose(1, 2)).square().sum(-1) / model.codes.var(0).sum()  # (B, n)
            weight = self.token_weights(batch)
            auxiliary["latent"] = config.latent_weight * (error * weight).sum() / weight.sum()
        if model.articulation is not None:
            auxiliary["articulation"] = config.articulation_weight * articulation_error(model, condition, batch)
        if model.lip_reader is not None:
            predicted = model.bottom(lip_codes(logits, model.codes, None, expected=True), own)
            for name, read in ("lips_of_truth", model.lip_reader(truth)), ("lips", model.lip_reader.judge(predicted)):
                auxiliary[name] = config.lip_reading_weight * F.smooth_l1_loss(read, batch.lips)
        return logits, target, auxiliary

    def token_weights(self, batch: PairBatch) -> Tensor:
        """How much each bottom token counts, (B, n): more in the mouth, and where the reference has another code.

        By the policy `own`, which generates no others, only those that speech changes.
        """
        config = self.model.config
        truth = batch.target_bottom.flatten(1)
        weight = torch.where(self.mouth.flatten(), config.mouth_token_weight, 1.0).expand(truth.shape)
        changed = batch.reference_bottom.flatten(1) != truth
        weight = torch.where(changed, weight * config.changed_token_weight, weight)
        return weight * self.model.speaking.flatten() if config.reference == "own" else weight

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

    def __init__(self, model: LipFormer, mouth: Tensor, mouth_region: Tensor, expert: SyncNet | None = None):
        super().__init__(model, mouth)
        self.region = mouth_region
        self.expert = None if expert is None else expert.requires_grad_(False).eval()
        self.perceptual = perceptual_loss(model.config, model.config.joint_perceptual_weight)

    def forward(self, batch: PairBatch, image: Tensor, tau: float | None) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Returns (loss, figures to log, I_Gen (B, 3, S, S))."""
        config, model = self.model.config, self.model
        logits, upper, auxiliary = self.predict(batch)
        code_loss, logged = self.cross_entropy(logits, batch)
        code_loss = code_loss + sum(auxiliary.values())
        logged |= {name: value.detach() for name, value in auxiliary.items()}
        own = look_up(model, batch)[3] if config.reference == "own" else None
        generated = model.decode(upper, lip_codes(logits, model.codes, tau, config.expected_codes), own).float()
        pixel = reconstruction_loss(generated, image, config.mouth_weight, self.region)
        loss = code_loss + pixel
        logged["image"] = pixel.detach()
        if self.perceptual is not None:
            perceptual = self.perceptual(lower_face(generated), lower_face(image))
            loss = loss + config.joint_perceptual_weight * perceptual
            logged["perceptual"] = perceptual.detach()
        if self.expert is not None:
            bottoms = split_halves(generated)[1].unflatten(0, (len(batch.window_sounds), -1))  # (runs, T, 3, S/2, S)
            sync = 1 - self.expert(bottoms, batch.window_sounds).mean()
            loss = loss + config.joint_sync_weight * sync
            logged["sync"] = sync.detach()
        square = ((generated.detach().clamp(-1, 1) - image) / 2).square()
        logged["mouth_psnr"] = -10 * torch.log10((square * self.region).sum((1, 2, 3)) / (3 * self.region.sum())).mean()
        return loss, logged, generated


def lower_face(image: Tensor) -> Tensor:
    """What perceptual and adversarial loss of stage 2 see of (B, 3, S, S): the bottom half and a rim above it."""
    rows = image.shape[2] * 9 // 16
    return image[:, :, -max(rows, FEWEST_ROWS) :]


def look_up(model: LipFormer, batch: PairBatch) -> tuple[Tensor, Tensor, Reference, Tensor]:
    """(H_TU, H_TU as the warping sees it, reference, H_TB) of a batch's code indices, (B, d, h/2, w) each."""
    upper, bottom = model.autoencoder.upper_codebook, model.autoencoder.bottom_codebook
    reference = Reference(upper.lookup(batch.reference_upper), bottom.lookup(batch.reference_bottom))
    target, pose = upper.lookup(batch.target_upper), upper.lookup(batch.pose_upper)
    return target, pose, reference, bottom.lookup(batch.target_bottom)


def articulation_error(model: LipFormer, condition: Tensor, batch: PairBatch) -> Tensor:
    """Smooth L1 of the lips' opening and width, read from F_Aud (B, audio_dim), against the target's."""
    return F.smooth_l1_loss(model.articulation(condition), batch.lips)


def feature_error(features: Tensor, truth: Tensor, where: Tensor) -> Tensor:
    """Mean squared distance of feature maps (B, d, h/2, w) over the tokens `where` (h/2, w)."""
    return (features - truth).square().mean(1)[:, where].mean()
