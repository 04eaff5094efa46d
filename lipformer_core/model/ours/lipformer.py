"""LipFormer with a finer warping, our Transformer, and the reference policy `own`."""

import torch
from torch import Tensor, nn

from ...config import HEAD_WIDTH, Config
from ..autoencoder import FaceAutoencoder, split_halves
from ..lipformer import LipFormer, Reference, Seen
from ..precision import full_precision
from .transformer import OurTransformer
from .warping import NoWarping, fine, unmoved


class OurLipFormer(LipFormer):
    """As LipFormer; what differs is said at each method."""

    def __init__(self, config: Config, autoencoder: FaceAutoencoder | None = None):
        super().__init__(config, autoencoder)
        if config.lips.ablation == "no_warping":
            self.warping = NoWarping(*config.token_grid)

    def make_transformer(self) -> nn.Module:
        lips, codebook = self.config.lips, self.config.codebook
        sizes = (lips.width, lips.layers, lips.width // HEAD_WIDTH, lips.ffn_width, lips.audio_width)
        return OurTransformer(self.config.token_grid, *sizes, codebook.dim, codebook.size, lips.ablation)

    def warp(self, target_upper: Tensor, reference: Reference) -> tuple[Tensor, Tensor]:
        """`fine` (B, 5 d + 2, h/2, w) in place of H^_RB alone."""
        if self.config.lips.ablation == "no_reference":
            reference = Reference(reference.upper, torch.zeros_like(reference.bottom))
        warped, grid = super().warp(target_upper, reference)
        bottom = reference.bottom.expand(len(target_upper), -1, -1, -1)
        return fine(bottom, warped, grid), grid

    def predict(self, warped: Tensor, condition: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits, and the latents (B, h/2 * w, d) of the residual head."""
        return self.transformer(warped, self.codes, condition)

    def choose(self, logits: Tensor, tau: float | None) -> Tensor:
        """With `lips.expected_codes` the mean of all codes by their probability, in training and inference."""
        return expected_codes(logits, self.codes) if self.config.lips.expected_codes else super().choose(logits, tau)

    def surround(self, warped: Tensor, own: Tensor | None) -> Tensor:
        """By the policy `own`, the target's own tokens H_TB (B, d, h/2, w) around what speech changes."""
        return warped if own is None else torch.where(self.speaking, warped, unmoved(own))

    def bottom(self, lips: Tensor, own: Tensor | None = None) -> Tensor:
        """H~_TB, within H_TB (B, d, h/2, w) if that is given: it stays where speech changes nothing."""
        tokens = super().bottom(lips)
        return tokens if own is None else torch.where(self.speaking, tokens, own)

    def look(self, target: Tensor, reference: Reference) -> Seen:
        upper, warped, _ = super().look(target, reference)
        own = self.encode_bottom(split_halves(target)[1]) if self.config.lips.reference == "own" else None
        return Seen(upper, self.surround(warped, own), own)


def expected_codes(logits: Tensor, codes: Tensor) -> Tensor:
    """The mean of the codes (K, d) by their probability, (B, n, d), of logits (B, n, K); always float32."""
    with full_precision(logits):
        return logits.float().softmax(-1) @ codes.float()
