"""What each phase of stage 2 minimises: one module each, so that a distributed wrapper sees one forward."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..model.autoencoder import split_halves
from ..model.lipformer import LipFormer, Reference
from ..model.ours.lipformer import PicturedReference, expected_codes
from ..model.regions import mouth_pixels, mouth_tokens
from ..model.syncnet import SyncNet
from .judges import Judges
from .losses import (
    LIP_POINTS,
    RIGID_POINTS,
    bottom_coordinates,
    perceptual_loss,
    reconstruction_loss,
    warp_landmark_loss,
)
from .pairs import PairBatch

FEWEST_ROWS = 32  # of a picture that the discriminator can judge
WARP = 0.1  # weight of the paper's warp's own supervision after its phase, so that it stays a warp
LATENT = 1.0  # weight of the latents' regression to the target's codes
ARTICULATION, LIPS = 1.0, 5.0  # weights of lips read from F_Aud, and from the predicted codes
MOUTH, CHANGED = 3.0, 1.5  # weights of a moved picture's mouth, and of tokens whose code differs from the reference's

Figures = dict[str, Tensor]


class Lookup(NamedTuple):
    """Codes of a batch's indices, (B, d, h/2, w) each: H_TU, H_TU as the warping sees it, H_RU and H_RB, H_TB."""

    upper: Tensor
    pose: Tensor
    reference: Reference
    truth: Tensor


class Predicted(NamedTuple):
    """Logits (B, m, K), latents (B, m, d) or None, H_TU and H^_RB (B, d, h/2, w), and losses by name."""

    logits: Tensor
    latents: Tensor | None
    upper: Tensor
    warped: Tensor
    auxiliary: Figures


class Objective(nn.Module):
    """What the phases have in common: the model, its judges where lips are supervised, and the mouth."""

    def __init__(self, model: LipFormer, judges: Judges | None):
        super().__init__()
        self.model, self.judges, self.config = model, judges, model.config
        mouth = mouth_tokens(self.config.data.size, self.config.codebook.downsampling)
        self.register_buffer("mouth", mouth, persistent=False)  # (h/2, w)
        self.register_buffer("region", mouth_pixels(self.config.data.size), persistent=False)
        self.warps = any(True for _ in model.warping.parameters())  # not without warping

    def warp(self, batch: PairBatch, seen: Lookup, condition: Tensor) -> tuple[Tensor, Figures]:
        """H^_RB as the warping gives it, codes or by our design a picture, and the terms of its supervision."""
        size = self.config.data.size
        points = [bottom_coordinates(p, size) for p in (batch.target_points, batch.reference_points)]
        if batch.lent is None:
            warped, grid = self.model.warp(seen.pose, seen.reference)
            apart = (warped - seen.truth).square().mean(1)
            terms = {"feature": mean_where(apart, ~self.mouth)}  # away from the mouth
            which = RIGID_POINTS
        else:
            reference = PicturedReference(*seen.reference, batch.lent)
            warped, grid = self.model.warp(seen.pose, reference, condition)
            truth = split_halves(batch.image)[1]
            terms = {"picture": reconstruction_loss(warped, truth, MOUTH, split_halves(self.region)[1])}
            which = RIGID_POINTS + LIP_POINTS
        if not self.warps:
            return warped, {}
        return warped, terms | {"landmark": warp_landmark_loss(grid, *points, which)}

    def articulation_error(self, condition: Tensor, batch: PairBatch) -> Tensor:
        """Smooth L1 of the lips' opening and width, read from F_Aud (B, audio_width), against the target's."""
        return F.smooth_l1_loss(self.judges.articulation(condition), batch.lips)


class ApartObjective(Objective):
    """F_e and F_d by landmarks and by features away from the mouth, ours by pictures; E_aud by the lips it tells."""

    def forward(self, batch: PairBatch, tau: None) -> tuple[Tensor, Figures, None]:
        """Returns (loss, figures to log, no picture)."""
        terms: Figures = {}
        condition = self.model.audio_encoder(batch.audio)
        if self.judges is not None:
            terms["articulation"] = self.articulation_error(condition, batch)
        if self.warps:
            terms |= self.warp(batch, look_up(self.model, batch), condition)[1]
        return sum(terms.values()), {k: v.detach() for k, v in terms.items()}, None


class CodeObjective(Objective):
    """Cross entropy to the target's own bottom codes."""

    def predict(self, batch: PairBatch) -> Predicted:
        """The model's prediction, and losses that it takes to have it."""
        config, model = self.config, self.model
        seen = look_up(model, batch)
        condition = model.audio_encoder(batch.audio)
        auxiliary: Figures = {}
        warped, terms = self.warp(batch, seen, condition)
        if terms and batch.lent is not None:  # ours learns by nothing else: its picture is encoded without gradient
            auxiliary["warp"] = sum(terms.values())
        elif terms and config.stage2.apart.steps:
            auxiliary["warp"] = WARP * sum(terms.values())
        if batch.lent is not None:
            around = split_halves(batch.image)[1] if config.lips.reference == "own" else None
            warped = model.encode_warped(warped, around)
        logits, latents = model.predict(warped, condition)
        if self.judges is not None:
            auxiliary["articulation"] = ARTICULATION * self.articulation_error(condition, batch)
            predicted = model.bottom(expected_codes(logits, model.codes), warped)
            reader = self.judges.reader
            for name, read in ("lips_of_truth", reader(seen.truth)), ("lips", reader.judge(predicted)):
                auxiliary[name] = LIPS * F.smooth_l1_loss(read, batch.lips)
        return Predicted(logits, latents, seen.upper, warped, auxiliary)

    def latent_error(self, latents: Tensor, batch: PairBatch) -> Tensor:
        """Squared distance of latents (B, m, d) to the target's codes, in variances of the codes."""
        truth, weight = self.model.codes[self.at_places(batch.target_bottom)], self.token_weights(batch)
        error = (latents - truth).square().sum(-1) / self.model.codes.var(0).sum()  # (B, m)
        return (error * weight).sum() / weight.sum()

    def token_weights(self, batch: PairBatch) -> Tensor:
        """How much each predicted token counts, (B, m): in our design more where its code is not the reference's."""
        truth = self.at_places(batch.target_bottom)
        if self.config.lips.design == "paper":
            return torch.ones_like(truth, dtype=torch.float32)
        changed = self.at_places(batch.reference_bottom) != truth
        return torch.where(changed, CHANGED, 1.0)

    def at_places(self, tokens: Tensor) -> Tensor:
        """Those of (B, h/2, w) that the model predicts: (B, m)."""
        tokens = tokens.flatten(1)
        return tokens[:, self.model.places] if self.config.lips.design == "ours" else tokens

    def cross_entropy(self, logits: Tensor, batch: PairBatch) -> tuple[Tensor, Figures]:
        """Weighted cross entropy, and the figures to log."""
        truth, mouth = self.at_places(batch.target_bottom), self.at_places(self.mouth[None])[0]
        weight = self.token_weights(batch)
        each = F.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="none").view_as(truth)
        right = (logits.argmax(-1) == truth).float()
        figures = {"cross_entropy": each.mean(), "mouth_cross_entropy": mean_where(each, mouth)}
        figures |= {"accuracy": right.mean(), "mouth_accuracy": mean_where(right, mouth)}
        return (each * weight).sum() / weight.sum(), {k: v.detach() for k, v in figures.items()}

    def forward(self, batch: PairBatch, tau: None) -> tuple[Tensor, Figures, None]:
        """Returns (loss, figures to log, no picture)."""
        predicted = self.predict(batch)
        loss, logged = self.cross_entropy(predicted.logits, batch)
        auxiliary = predicted.auxiliary
        if predicted.latents is not None:
            auxiliary["latent"] = LATENT * self.latent_error(predicted.latents, batch)
        return loss + sum(auxiliary.values()), logged | {k: v.detach() for k, v in auxiliary.items()}, None


class ImageObjective(CodeObjective):
    """End to end: the generated face against the target, over the full frame; by the paper also the cross entropy."""

    def __init__(self, model: LipFormer, judges: Judges | None, expert: SyncNet | None = None):
        super().__init__(model, judges)
        self.expert = None if expert is None else expert.requires_grad_(False).eval()
        weight = self.config.stage2.joint.perceptual_weight
        self.perceptual = perceptual_loss(self.config.stage1.perceptual, weight)

    def forward(self, batch: PairBatch, tau: float | None) -> tuple[Tensor, Figures, Tensor]:
        """Returns (loss, figures to log, I_Gen (B, 3, S, S))."""
        joint, model, image = self.config.stage2.joint, self.model, batch.image
        logits, _, upper, warped, auxiliary = self.predict(batch)
        code_loss, logged = self.cross_entropy(logits, batch)
        generated = model.decode(upper, model.choose(logits, tau), warped).float()
        pixel = reconstruction_loss(generated, image, self.config.stage1.mouth_weight, self.region)
        loss = sum(auxiliary.values()) + pixel
        if self.config.lips.design == "paper":
            # ours begins as the warped reference; cross entropy asks for codes that nobody can know, and blurs it
            loss = loss + code_loss
        logged |= {k: v.detach() for k, v in auxiliary.items()} | {"image": pixel.detach()}
        if self.perceptual is not None:
            perceptual = self.perceptual(lower_face(generated), lower_face(image))
            loss = loss + joint.perceptual_weight * perceptual
            logged["perceptual"] = perceptual.detach()
        if self.expert is not None:
            bottoms = split_halves(generated)[1].unflatten(0, (len(batch.window_sounds), -1))  # (runs, T, 3, S/2, S)
            sync = 1 - self.expert(bottoms, batch.window_sounds).mean()
            loss = loss + joint.sync_weight * sync
            logged["sync"] = sync.detach()
        square = ((generated.detach().clamp(-1, 1) - image) / 2).square()
        logged["mouth_psnr"] = -10 * torch.log10((square * self.region).sum((1, 2, 3)) / (3 * self.region.sum())).mean()
        return loss, logged, generated


def lower_face(image: Tensor) -> Tensor:
    """What perceptual and adversarial loss of stage 2 see of (B, 3, S, S): the bottom half and a rim above it."""
    rows = image.shape[2] * 9 // 16
    return image[:, :, -max(rows, FEWEST_ROWS) :]


def look_up(model: LipFormer, batch: PairBatch) -> Lookup:
    """The codes of a batch."""
    upper, bottom = model.autoencoder.upper_codebook, model.autoencoder.bottom_codebook
    reference = Reference(upper.lookup(batch.reference_upper), bottom.lookup(batch.reference_bottom))
    target, pose = upper.lookup(batch.target_upper), upper.lookup(batch.pose_upper)
    return Lookup(target, pose, reference, bottom.lookup(batch.target_bottom))


def mean_where(values: Tensor, where: Tensor) -> Tensor:
    """The mean of values (B, …) over the tokens `where` (…), without indices whose number a compiler cannot know."""
    return (values * where).sum() / (len(values) * where.sum())
