"""LipFormer, Figure 2b: target upper half + reference + audio to a face that says the audio."""

from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import HEAD_WIDTH, Config
from .audio_encoder import AudioEncoder
from .autoencoder import FaceAutoencoder, split_halves
from .codebook import largest
from .precision import full_precision
from .transformer import LipTransformer, fold
from .warping import AdaptiveFaceWarping


class Reference(NamedTuple):
    """The reference's quantised halves H_RU and H_RB: (B or 1, d, h/2, w) each; computed once a clip."""

    upper: Tensor
    bottom: Tensor


class Seen(NamedTuple):
    """What the pictures alone give, from `LipFormer.look`; several sounds can share it.

    upper : (B, d, h/2, w), H_TU; warped : (B, d, h/2, w), H^_RB
    """

    upper: Tensor
    warped: Tensor


def lip_codes(logits: Tensor, codes: Tensor, tau: float | None) -> Tensor:
    """H~_TB = onehot . C_B.

    logits : torch.Tensor, shape = (B, n, K)
    codes : torch.Tensor, shape = (K, d)
    tau : temperature of the straight-through Gumbel-softmax (training), or None: arg-max (inference)
    returns (B, n, d), float32 also under autocast, noise included: rounded codes would be no codes of C_B
    """
    with full_precision(logits):
        logits, codes = logits.float(), codes.float()
        if tau is None:
            return F.embedding(largest(logits), codes)
        return F.gumbel_softmax(logits, tau=tau, hard=True) @ codes


class LipFormer(nn.Module):
    """Frozen Enc, C_U, C_B; trainable F_e, F_d, E_aud and Transformer; fine-tuned Dec. As in the paper.

    `model.ours.OurLipFormer` is what goes beyond it; `model.build` chooses by the settings.
    """

    def __init__(self, config: Config, autoencoder: FaceAutoencoder | None = None):
        super().__init__()
        self.config = config
        self.autoencoder = autoencoder or FaceAutoencoder(config)
        for frozen in (self.autoencoder.encoder, self.autoencoder.upper_codebook, self.autoencoder.bottom_codebook):
            frozen.requires_grad_(False)
        lips, code_dim = config.lips, config.codebook.dim
        self.warping: nn.Module = AdaptiveFaceWarping(*config.token_grid, code_dim, lips.width // 2)
        self.audio_encoder = AudioEncoder(config.audio, lips.audio_width)
        self.transformer: nn.Module = self.make_transformer()

    def make_transformer(self) -> nn.Module:
        """The Transformer as the settings want it."""
        lips, codebook = self.config.lips, self.config.codebook
        sizes = (lips.width, lips.layers, lips.width // HEAD_WIDTH, lips.ffn_width, lips.audio_width)
        return LipTransformer(*sizes, codebook.dim, codebook.size)

    def train(self, mode: bool = True) -> Self:
        """As of every module; keys and values of the codebook are constants only while nothing trains."""
        fold(self, None)
        return super().train(mode)

    def ready(self) -> Self:
        """In evaluation mode, with keys and values of the codebook computed once."""
        self.eval()
        fold(self, self.codes)
        return self

    @property
    def codes(self) -> Tensor:
        """C_B: (K, d)."""
        return self.autoencoder.bottom_codebook.weight

    # --- encodings ------------------------------------------------------------------------------
    @torch.no_grad()
    def encode_upper(self, upper: Tensor) -> Tensor:
        """H_U of upper halves (B, 3, S/2, S) in [-1, 1]: (B, d, h/2, w)."""
        codebook = self.autoencoder.upper_codebook
        return codebook.lookup(codebook.indices(self.autoencoder.encoder(upper)))

    @torch.no_grad()
    def encode_bottom(self, bottom: Tensor) -> Tensor:
        """H_B of bottom halves (B, 3, S/2, S) in [-1, 1]: (B, d, h/2, w)."""
        codebook = self.autoencoder.bottom_codebook
        return codebook.lookup(codebook.indices(self.autoencoder.encoder(bottom)))

    def encode_reference(self, image: Tensor) -> Reference:
        """H_RU and H_RB of reference faces (B, 3, S, S) in [-1, 1]."""
        upper, bottom = split_halves(image)
        return Reference(self.encode_upper(upper), self.encode_bottom(bottom))

    # --- the way of Figure 2b -------------------------------------------------------------------
    def warp(self, target_upper: Tensor, reference: Reference) -> tuple[Tensor, Tensor]:
        """H^_RB, the reference's bottom codes in the pose of H_TU (B, d, h/2, w), and the grid (B, h/2, w, 2)."""
        return self.warping(target_upper, *reference)

    def warp_to(self, target_upper: Tensor, reference: Reference, audio: Tensor) -> tuple[Tensor, Tensor]:
        """As `warp`, for a sound for each face, which by the paper has no part in it."""
        return self.warp(target_upper, reference)

    def predict(self, warped: Tensor, condition: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (B, h/2 * w, K) of the lip codes from `warp` and F_Aud (B, audio_width); no latents in the paper."""
        return self.transformer(warped, self.codes, condition), None

    def choose(self, logits: Tensor, tau: float | None) -> Tensor:
        """H~_TB as tokens (B, h/2 * w, d), of logits (B, h/2 * w, K); tau as in `lip_codes`."""
        return lip_codes(logits, self.codes, tau)

    def decode(self, upper: Tensor, lips: Tensor, warped: Tensor, bottom_only: bool = False) -> Tensor:
        """I_Gen = Dec(H_TU stacked on H~_TB): codes (B, d, h/2, w) and tokens (B, h/2 * w, d) to (B, 3, S, S).

        bottom_only : the bottom half of that alone, (B, 3, S/2, S)
        """
        decode = self.autoencoder.decode_bottom if bottom_only else self.autoencoder.decode
        return decode(upper.expand(len(lips), -1, -1, -1), self.bottom(lips, warped))

    def bottom(self, lips: Tensor, warped: Tensor) -> Tensor:
        """H~_TB (B, d, h/2, w) of tokens (B, h/2 * w, d); of H^_RB nothing stays."""
        return lips.transpose(1, 2).unflatten(2, self.config.token_grid)

    def look(self, target: Tensor, reference: Reference) -> Seen:
        """The part of `forward` that no sound changes. Shapes as in `generate`."""
        upper = self.encode_upper(split_halves(target)[0])  # H_TU: (B, d, h/2, w)
        return Seen(upper, self.warp(upper, reference)[0])

    def hear(self, seen: Seen, audio: Tensor) -> tuple[Tensor, Tensor]:
        """H^_RB (B, d, h/2, w) and F_Aud (B, audio_width) of what was seen and of a sound for each of its faces."""
        return seen.warped, self.audio_encoder(audio)

    def say(self, seen: Seen, audio: Tensor, tau: float | None = None, bottom_only: bool = False) -> Tensor:
        """The rest of `forward`: what was seen, driven by a sound for each of its faces; bottom_only as in `decode`."""
        warped, condition = self.hear(seen, audio)
        logits, _ = self.predict(warped, condition)  # (B, h/2 * w, K)
        return self.decode(seen.upper, self.choose(logits, tau), warped, bottom_only)  # I_Gen

    def forward(self, target: Tensor, audio: Tensor, reference: Reference, tau: float | None = None) -> Tensor:
        """I_Gen with gradients; tau as in `lip_codes`. Shapes as in `generate`."""
        return self.say(self.look(target, reference), audio, tau)

    # --- inference ------------------------------------------------------------------------------
    @torch.no_grad()
    def generate(self, target: Tensor, audio: Tensor, reference: Reference) -> Tensor:
        """The face that says the audio.

        target : torch.Tensor, shape = (B, 3, S, S) in [-1, 1]; of its bottom half nothing is seen, or by the policy
            `own` what speech does not change
        audio : torch.Tensor, shape = (B, audio.window, 80), log-mel, and 288 columns more with `audio.speech_encoder`
            (`data.audio.speech.sound_rows`); less `data.audio.band_means` of the recording with `audio.mean_normalise`
        reference : from `encode_reference`, one for the batch or one a frame
        returns (B, 3, S, S) in [-1, 1]
        """
        return self(target, audio, reference).clamp(-1, 1)

    @torch.no_grad()
    def reconstruct(self, image: Tensor) -> Tensor:
        """Encode, quantise and decode (B, 3, S, S) in [-1, 1]: the ceiling of what `generate` can show."""
        return self.autoencoder.decode(*self.encode_reference(image)[:2]).clamp(-1, 1)

    def warped(self, seen: Seen, audio: Tensor) -> Tensor:
        """The codes of H^_RB (B, d, h/2, w)."""
        return seen.warped

    @torch.no_grad()
    def show(self, seen: Seen, bottom_codes: Tensor) -> Tensor:
        """The upper half that was seen over any bottom codes (B, d, h/2, w): (B, 3, S, S) in [-1, 1].

        With `warped` that is the warped reference without the Transformer, with the target's own bottom codes what
        `reconstruct` gives.
        """
        return self.autoencoder.decode(seen.upper, bottom_codes).clamp(-1, 1)
