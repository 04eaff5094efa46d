"""LipFormer with a warping that hears, our Transformer, and the reference policy `own`."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...config import HEAD_WIDTH, Config
from ..autoencoder import FaceAutoencoder, split_halves, stack_halves
from ..lipformer import LipFormer, lip_codes
from ..precision import full_precision
from ..regions import mouth_tokens, speaking_pixels
from .transformer import OurTransformer, likeness
from .warping import HearingWarping, NoWarping

SHARPNESS = 2.0  # of the codes' probabilities: the mean of the likeliest


class PicturedReference(NamedTuple):
    """As `Reference`, and the reference face itself: (B or 1, 3, S, S) in [-1, 1]."""

    upper: Tensor
    bottom: Tensor
    picture: Tensor


class SeenPictures(NamedTuple):
    """What `look` gives: H_TU (B, d, h/2, w), the reference, and the target, its bottom half by the policy `own`."""

    upper: Tensor
    reference: PicturedReference
    above: Tensor  # (B, 3, S/2, S)
    around: Tensor | None  # (B, 3, S/2, S)


class OurLipFormer(LipFormer):
    """As LipFormer; what differs is said at each method."""

    def __init__(self, config: Config, autoencoder: FaceAutoencoder | None = None):
        super().__init__(config, autoencoder)
        lips, size = config.lips, config.data.size
        if lips.ablation == "no_warping":
            self.warping = NoWarping(*config.token_grid)
        else:
            sizes = (config.codebook.dim, lips.width // 2, lips.audio_width)
            self.warping = HearingWarping(*config.token_grid, *sizes)
        # the tokens that the Transformer predicts, of the bottom half's h/2 * w: around them the warping is enough
        mouth = mouth_tokens(size, config.codebook.downsampling)
        self.register_buffer("places", mouth.flatten().nonzero()[:, 0], persistent=False)
        own = lips.reference == "own"
        self.register_buffer("moving", speaking_pixels(size) if own else None, persistent=False)

    def make_transformer(self) -> nn.Module:
        lips, codebook = self.config.lips, self.config.codebook
        sizes = (lips.width, lips.layers, lips.width // HEAD_WIDTH, lips.ffn_width, lips.audio_width)
        return OurTransformer(self.config.token_grid, *sizes, codebook.dim, codebook.size, lips.ablation)

    def encode_reference(self, image: Tensor) -> PicturedReference:
        return PicturedReference(*super().encode_reference(image), image)

    def warp(self, target_upper: Tensor, reference: PicturedReference, condition: Tensor) -> tuple[Tensor, Tensor]:
        """The reference's bottom half in the target's pose with the lips of F_Aud (B, 3, S/2, S), and the grid."""
        count = len(condition)
        if self.config.lips.ablation == "no_reference":
            reference = PicturedReference(reference.upper, *(torch.zeros_like(part) for part in reference[1:]))
        return self.warping(target_upper.expand(count, -1, -1, -1), *reference, condition)

    def warp_to(self, target_upper: Tensor, reference: PicturedReference, audio: Tensor) -> tuple[Tensor, Tensor]:
        """The codes of the warped reference (B, d, h/2, w), and the grid: here the sound has a part in it."""
        picture, grid = self.warp(target_upper, reference, self.audio_encoder(audio))
        return self.nearest(self.encode_warped(picture)), grid

    @torch.no_grad()
    def encode_warped(self, warped: Tensor, around: Tensor | None = None) -> Tensor:
        """H^_RB: a moved picture (B, 3, S/2, S), by the policy `own` within the target's, encoded: (B, d, h/2, w)."""
        if around is not None:
            warped = self.within(around, warped)
        return self.autoencoder.encoder(warped.contiguous(memory_format=torch.channels_last)).float()

    def within(self, around: Tensor, moved: Tensor) -> Tensor:
        """A moved picture within the target's bottom half, (B, 3, S/2, S) both, by the policy `own`."""
        return around + self.moving * (moved - around)

    def predict(self, warped: Tensor, condition: Tensor, prior: float = 0.0) -> tuple[Tensor, Tensor]:
        """Logits (B, m, K) at the `places`, and the latents (B, m, d) of the residual head.

        prior : how much the warped reference weighs again, as `OurTransformer.forward`
        """
        return self.transformer(warped, self.codes, condition, self.places, prior)

    def choose(self, logits: Tensor, tau: float | None) -> Tensor:
        """The mean of the likeliest codes, by the squares of their probabilities: without noise, whatever tau is.

        A mouth has many likely codes. Pictures of drawn ones teach the decoder noise; the single likeliest flickers
        from frame to frame, and neighbouring tokens choose without each other. By ablations the mean of all codes, or
        the likeliest, with the mean's gradient at tau.
        """
        ablation = self.config.lips.ablation
        if ablation != "likeliest_codes":
            return expected_codes(logits, self.codes, 1.0 if ablation == "mean_codes" else SHARPNESS)
        lips = lip_codes(logits, self.codes, None)
        if tau is None:
            return lips
        soft = expected_codes(logits / tau, self.codes)
        return lips + soft - soft.detach()

    def nearest(self, encoding: Tensor) -> Tensor:
        """The codes of C_B nearest to an encoding (B, d, h/2, w)."""
        codebook = self.autoencoder.bottom_codebook
        return codebook.lookup(codebook.indices(encoding))

    def bottom(self, lips: Tensor, warped: Tensor) -> Tensor:
        """H~_TB (B, d, h/2, w) of the tokens (B, m, d) at the `places`, within the codes of H^_RB."""
        return self.placed(lips, self.nearest(warped))

    def placed(self, lips: Tensor, codes: Tensor) -> Tensor:
        """The tokens (B, m, d) at the `places` within codes (B, d, h/2, w), and in their form."""
        tokens = codes.flatten(2).transpose(1, 2)  # (B, n, d)
        tokens = tokens.index_copy(1, self.places, lips.to(tokens))
        return tokens.transpose(1, 2).unflatten(2, self.config.token_grid)

    def look(self, target: Tensor, reference: PicturedReference) -> SeenPictures:
        upper, bottom = split_halves(target)
        return SeenPictures(self.encode_upper(upper), reference, upper, None if self.moving is None else bottom)

    def hear(self, seen: SeenPictures, audio: Tensor) -> tuple[Tensor, Tensor]:
        picture, condition = self.move(seen, audio)
        return self.encode_warped(picture), condition

    def move(self, seen: SeenPictures, audio: Tensor) -> tuple[Tensor, Tensor]:
        """The reference's bottom half with the sound's lips in its place (B, 3, S/2, S), and F_Aud (B, audio_width)."""
        condition = self.audio_encoder(audio)
        picture, _ = self.warp(seen.upper, seen.reference, condition)
        return picture if seen.around is None else self.within(seen.around, picture), condition

    def say(self, seen: SeenPictures, audio: Tensor, tau: float | None = None, bottom_only: bool = False) -> Tensor:
        """With `lips.keep_reference` the moved reference weighs again, and what codes cannot say of it is added.

        Not in training. The Transformer knows the colours of few people; a stranger's lips keep their own, and so do
        skin and beard: codes say what changes, I_Gen less the reference by its codes, both in the reference's hues.
        Where the sound changes much, as in a mouth that opens over teeth, the reference's detail goes. The upper half
        stays the target's.
        """
        if self.training or not self.config.lips.keep_reference:
            return super().say(seen, audio, tau, bottom_only)
        picture, condition = self.move(seen, audio)
        warped = self.encode_warped(picture)
        logits, latents = self.predict(warped, condition, self.config.lips.keep_reference)
        lips = self.choose(logits, tau)
        upper = seen.upper.expand(len(warped), -1, -1, -1)
        codes, decode = self.nearest(warped), self.autoencoder.decode_bottom
        hues = nearby_hues(picture)
        said = tinted(decode(upper, self.placed(lips, codes)).float(), hues)
        detail = picture - tinted(decode(upper, codes).float(), hues)
        bottom = said + self.kept(latents, warped) * detail
        return bottom if bottom_only else stack_halves(seen.above.expand(len(bottom), -1, -1, -1), bottom)

    def kept(self, latents: Tensor, warped: Tensor) -> Tensor:
        """How much of the moved reference's detail stays at each pixel, (B, 1, S/2, S): all where nothing changes.

        latents : torch.Tensor, shape = (B, m, d), of the tokens at the `places`; warped : (B, d, h/2, w)
        """
        size = self.config.data.size // 2, self.config.data.size
        tokens = warped.flatten(2).transpose(1, 2)  # (B, n, d)
        like = likeness(latents, tokens[:, self.places].float(), self.codes)
        share = torch.ones_like(tokens[..., 0]).index_copy(1, self.places, like)
        return F.interpolate(share.unflatten(1, self.config.token_grid)[:, None], size=size, mode="bilinear")

    def warped(self, seen: SeenPictures, audio: Tensor) -> Tensor:
        return self.nearest(self.hear(seen, audio)[0])


def nearby_hues(picture: Tensor) -> Tensor:
    """What hue a picture (B, 3, H, W) has around each place, of length 1, and how saturated it is there at most.

    returns (B, 4, H, W)
    """
    coarse = F.avg_pool2d(picture, max(picture.shape[-1] // 64, 1))
    chroma = coarse - coarse.mean(1, keepdim=True)
    near = {"kernel_size": 5, "stride": 1, "padding": 2}  # about the height of a lip
    hue = F.avg_pool2d(chroma, **near)
    most = F.max_pool2d(chroma.norm(dim=1, keepdim=True), **near)
    both = torch.cat([F.normalize(hue, dim=1), most], 1)
    return F.interpolate(both, size=picture.shape[2:], mode="bilinear")


def tinted(said: Tensor, hues: Tensor) -> Tensor:
    """A picture (B, 3, H, W) with its own light, and with the hues of another one around each place (B, 4, H, W).

    It is nowhere more saturated than the other is nearby: lips that open or close keep their colour.
    """
    light = said.mean(1, keepdim=True)
    return light + hues[:, :3] * torch.minimum((said - light).norm(dim=1, keepdim=True), hues[:, 3:])


def expected_codes(logits: Tensor, codes: Tensor, sharpness: float = 1.0) -> Tensor:
    """The mean of the codes (K, d) by their probability, (B, n, d), of logits (B, n, K); always float32.

    sharpness : the power to which probabilities are raised first
    """
    with full_precision(logits):
        logits, codes = logits.float(), codes.float()
        if torch.is_grad_enabled() or logits.device.type != "cpu":
            return (sharpness * logits).softmax(-1) @ codes
        # one after another: all weights at once fall out of the cache, and take three times as long
        return torch.stack([(sharpness * each).softmax(-1) @ codes for each in logits])
