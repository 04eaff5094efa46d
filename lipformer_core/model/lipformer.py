"""LipFormer, Figure 2b: target upper half + reference + audio to a face that says the audio."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import Config
from .audio_encoder import AudioEncoder
from .autoencoder import FaceAutoencoder, split_halves
from .lip_reader import LipReader
from .precision import full_precision
from .regions import speaking_tokens
from .transformer import Attended, LipTransformer
from .warping import AdaptiveFaceWarping, Warped


class Reference(NamedTuple):
    """The reference's quantised halves H_RU and H_RB: (B or 1, d, h/2, w) each; computed once a clip."""

    upper: Tensor
    bottom: Tensor


class Seen(NamedTuple):
    """What the pictures alone give, from `LipFormer.look`; several sounds can share it.

    upper : (B, d, h/2, w), H_TU; warped : H^_RB; attended : the Transformer before any sound
    own : (B, d, h/2, w), H_TB, by the reference policy `own`, else None
    """

    upper: Tensor
    warped: Warped
    attended: Attended
    own: Tensor | None = None


def lip_codes(logits: Tensor, codes: Tensor, tau: float | None, expected: bool = False) -> Tensor:
    """H~_TB = onehot . C_B.

    logits : torch.Tensor, shape = (B, n, K)
    codes : torch.Tensor, shape = (K, d)
    tau : temperature of the straight-through Gumbel-softmax (training), or None: arg-max (inference)
    expected : the mean of all codes by their probability instead, in training and inference; ours
    returns (B, n, d), float32 also under autocast, noise included: rounded codes would be no codes of C_B
    """
    with full_precision(logits):
        logits, codes = logits.float(), codes.float()
        if expected:
            return logits.softmax(-1) @ codes
        if tau is None:
            return F.embedding(logits.argmax(-1), codes)
        return F.gumbel_softmax(logits, tau=tau, hard=True) @ codes


class LipFormer(nn.Module):
    """Frozen Enc, C_U, C_B; trainable F_e, F_d, E_aud and Transformer; fine-tuned Dec."""

    def __init__(self, config: Config, autoencoder: FaceAutoencoder | None = None):
        super().__init__()
        self.config = config
        self.autoencoder = autoencoder or FaceAutoencoder(config)
        self.warping = AdaptiveFaceWarping(config) if config.warping else None
        self.audio_encoder = AudioEncoder(config)
        self.transformer = LipTransformer(config)
        # training only: opening and width of the lips, read from F_Aud, and from bottom codes
        self.articulation = nn.Linear(config.audio_dim, 2) if config.articulation_weight else None
        self.lip_reader = LipReader(config) if config.lip_reading_weight else None
        # what is generated; outside of it, by the policy `own`, a frame keeps its own tokens
        self.register_buffer("speaking", speaking_tokens(config), persistent=False)
        self.freeze()

    def freeze(self) -> None:
        """Fix Enc, C_U and C_B: no gradient reaches them, so no optimiser can move them."""
        frozen = (self.autoencoder.encoder, self.autoencoder.upper_codebook, self.autoencoder.bottom_codebook)
        for module in frozen:
            module.requires_grad_(False)

    def predictor_parameters(self) -> list[nn.Parameter]:
        """Parameters of F_e, F_d, E_aud and the Transformer."""
        modules = (self.warping, self.audio_encoder, self.transformer, self.articulation, self.lip_reader)
        modules = [m for m in modules if m is not None]
        return [p for m in modules for p in m.parameters()]

    @property
    def codes(self) -> Tensor:
        """C_B: (K, d)."""
        return self.autoencoder.bottom_codebook.codes()

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
    def warp(self, target_upper_codes: Tensor, reference: Reference, own: Tensor | None = None) -> Warped:
        """H^_RB: the reference's bottom codes in the target's pose; with `own`, H_TB, only what speech changes."""
        batch = len(target_upper_codes)
        upper, bottom = (codes.expand(batch, -1, -1, -1) for codes in reference)
        warped = Warped(bottom) if self.warping is None else self.warping(target_upper_codes, upper, bottom)[0]
        return warped if own is None else warped.surround(own, ~self.speaking)

    def lip_logits(self, warped: Warped, audio: Tensor) -> Tensor:
        """Logits (B, h/2 * w, K) from the warped reference and the sound, as in `generate`."""
        return self.transformer(warped, self.codes, self.audio_encoder(audio))[0]

    @torch.no_grad()
    def lips_heard(self, audio: Tensor) -> Tensor | None:
        """What the sound alone tells of the lips: the training's linear map from F_Aud, without any picture.

        audio : as in `generate`
        returns (B, 2), opening and width in units of `training.pairs.LIP_SCALE`, the width less the clip's mean; None
            where `config.articulation_weight` is 0, for then nothing was trained to read them
        """
        return None if self.articulation is None else self.articulation(self.audio_encoder(audio))

    def decode(self, upper_codes: Tensor, lip_tokens: Tensor, own: Tensor | None = None) -> Tensor:
        """I_Gen = Dec(H_TU stacked on H~_TB): codes (B, d, h/2, w) and tokens (B, h/2 * w, d) to (B, 3, S, S).

        own : H_TB (B, d, h/2, w), which then stays where speech changes nothing
        """
        return self.autoencoder.decode(upper_codes, self.bottom(lip_tokens, own))

    def bottom(self, lip_tokens: Tensor, own: Tensor | None = None) -> Tensor:
        """H~_TB (B, d, h/2, w) of tokens (B, h/2 * w, d), and of H_TB where it stays; shapes as in `decode`."""
        tokens = self.as_grid(lip_tokens)
        return tokens if own is None else torch.where(self.speaking, tokens, own)

    def as_grid(self, tokens: Tensor) -> Tensor:
        """Tokens (B, h/2 * w, d) as a map (B, d, h/2, w)."""
        return tokens.transpose(1, 2).unflatten(2, self.config.token_grid)

    def forward(self, target: Tensor, audio: Tensor, reference: Reference, tau: float | None = None) -> Tensor:
        """I_Gen with gradients; tau as in `lip_codes`. Shapes as in `generate`."""
        return self.say(self.look(target, reference), audio, tau)

    def look(self, target: Tensor, reference: Reference) -> Seen:
        """The part of `forward` that no sound changes. Shapes as in `generate`."""
        upper = self.encode_upper(split_halves(target)[0])
        own = self.encode_bottom(split_halves(target)[1]) if self.config.reference == "own" else None
        warped = self.warp(upper, reference, own)
        return Seen(upper, warped, self.transformer.attend(warped, self.codes), own)

    def say(self, seen: Seen, audio: Tensor, tau: float | None = None) -> Tensor:
        """The rest of `forward`: what was seen, driven by a sound for each of its faces."""
        logits = self.transformer.listen(seen.attended, self.codes, self.audio_encoder(audio))[0]
        return self.decode(seen.upper, lip_codes(logits, self.codes, tau, self.config.expected_codes), seen.own)

    # --- inference ------------------------------------------------------------------------------
    @torch.no_grad()
    def generate(self, target: Tensor, audio: Tensor, reference: Reference) -> Tensor:
        """The face that says the audio, by arg-max codes, or by expected ones (`config.expected_codes`).

        target : torch.Tensor, shape = (B, 3, S, S) in [-1, 1]; of its bottom half nothing is seen, or by the policy
            `own` what speech does not change
        audio : torch.Tensor, shape = (B, audio_window, 80), log-mel, and 288 columns more with `config.speech_encoder`
            (`data.audio.speech.sound_rows`); less `data.audio.band_means` of the recording with
            `config.mean_normalise_audio`
        reference : from `encode_reference`, one for the batch or one a frame
        returns (B, 3, S, S) in [-1, 1]
        """
        return self(target, audio, reference).clamp(-1, 1)

    @torch.no_grad()
    def reconstruct(self, image: Tensor) -> Tensor:
        """Encode, quantise and decode (B, 3, S, S) in [-1, 1]: the ceiling of what `generate` can show."""
        upper, bottom = self.encode_reference(image)
        return self.autoencoder.decode(upper, bottom).clamp(-1, 1)

    @torch.no_grad()
    def show(self, seen: Seen, bottom_codes: Tensor) -> Tensor:
        """The upper half that was seen over any bottom codes (B, d, h/2, w): (B, 3, S, S) in [-1, 1].

        With `seen.warped.bottom` that is the warped reference without the Transformer, with the target's own bottom
        codes what `reconstruct` gives.
        """
        return self.autoencoder.decode(seen.upper, bottom_codes).clamp(-1, 1)
