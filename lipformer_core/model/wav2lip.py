"""A generator after Wav2Lip (Prajwal et al. 2020), the baseline of the tables: no codes, a U-net from pixels to pixels.

Written from the paper's description. Ours: the sound is heard by LipFormer's own audio encoder, in the same window;
norms are per sample; the discriminator of its second variant is left out.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import Config
from .audio_encoder import AudioEncoder
from .autoencoder import split_halves, stack_halves
from .lipformer import Reference
from .syncnet import Residual

LEAST_SIDE = 3  # pixels: the encoder halves the picture down to it
WIDEST = 32  # times the first level's channels


class Wav2Lip(nn.Module):
    """The target without its lower half, the reference stacked on it, and a sound, to a face that says the sound."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.audio_encoder = AudioEncoder(config.audio, config.lips.audio_width)
        # LipFormer's 256 in the preset `paper` beside Wav2Lip's 16; norms need eights
        width = 8 * max(1, config.lips.width // 128)
        self.net = FaceUNet(config.data.size, width, config.lips.audio_width)

    def encode_reference(self, image: Tensor) -> Reference:
        """The halves of reference faces (B, 3, S, S) in [-1, 1], as `LipFormer.encode_reference`, but of pixels."""
        return Reference(*split_halves(image))

    def look(self, target: Tensor, reference: Reference) -> Tensor:
        """What the pictures give, (B, 6, S, S): faces (B, 3, S, S) whose lower half is masked, over their reference."""
        upper, bottom = split_halves(target)
        masked = stack_halves(upper, torch.zeros_like(bottom))
        return torch.cat([masked, stack_halves(*reference).expand_as(target)], 1)

    def say(self, seen: Tensor, audio: Tensor) -> Tensor:
        """The faces (B, 3, S, S) in [-1, 1] of what `look` gave, driven by sound (B, audio.window, columns)."""
        return self.net(seen, self.audio_encoder(audio))

    def forward(self, target: Tensor, audio: Tensor, reference: Reference) -> Tensor:
        """`look` and `say`, with gradients."""
        return self.say(self.look(target, reference), audio)


class FaceUNet(nn.Module):
    """Encoder to one vector, joined with the sound's, and a decoder that sees every level of the encoder again."""

    def __init__(self, size: int, width: int, condition: int):
        """size : side of the crops; width : channels at full size, a multiple of 8; condition : of F_Aud."""
        super().__init__()
        sides, channels = [size], [width]
        while sides[-1] > LEAST_SIDE:
            sides.append(-(-sides[-1] // 2))
            channels.append(min(2 * channels[-1], WIDEST * width))
        last = channels[-1]
        self.down = nn.ModuleList(
            block(before, after, 1 + bool(level))
            for level, (before, after) in enumerate(zip([6, *channels[:-1]], channels, strict=True))
        )
        self.gather = nn.Conv2d(last, last, sides[-1])
        self.spread = nn.ConvTranspose2d(last + condition, last, sides[-1])
        above = [last, *channels[:0:-1]]
        self.up = nn.ModuleList(block(deep + skip, skip, 1) for deep, skip in zip(above, channels[::-1], strict=True))
        self.out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, seen: Tensor, condition: Tensor) -> Tensor:
        """seen : (B, 6, S, S); condition : (B, condition), F_Aud; returns (B, 3, S, S) in [-1, 1]."""
        x, skips = seen, []
        for level in self.down:
            x = level(x)  # (B, C, s, s)
            skips.append(x)
        x = torch.cat([self.gather(x), condition[:, :, None, None]], 1)  # (B, C + condition, 1, 1)
        x = self.spread(x)  # (B, C, s, s)
        for level, skip in zip(self.up, skips[::-1], strict=True):
            x = level(torch.cat([F.interpolate(x, skip.shape[-2:]), skip], 1))  # (B, C, s, s)
        return torch.tanh(self.out(x))


def block(before: int, after: int, stride: int) -> nn.Sequential:
    """A convolution, halving with stride 2, and a residual one: (B, before, h, w) to (B, after, h / stride, …)."""
    first = nn.Conv2d(before, after, 3, stride=stride, padding=1)
    return nn.Sequential(first, nn.GroupNorm(8, after), nn.SiLU(), Residual(after))


# width, kernel, stride of the first convolution of each level, and how many residual ones follow: as published
SEES = ((16, 7, 1, 0), (32, 3, 2, 2), (64, 3, 2, 3), (128, 3, 2, 2), (256, 3, 2, 2), (512, 3, 2, 1))
HEARS = ((32, 3, 1, 2), (64, 3, (3, 1), 2), (128, 3, 3, 2), (256, 3, (3, 2), 1))
SHOWS = ((512, 1, 1), (512, 2, 2), (384, 2, 2), (256, 2, 2), (128, 2, 2), (64, 2, 2))  # width, stride, residual ones


class PublishedWav2Lip(nn.Module):
    """The generator as Wav2Lip's authors published it, 36 million parameters and 7.9 GFLOP a frame, to measure time.

    Its batch norms are left out: at inference they are part of the convolutions. Random weights are all it ever has.
    """

    def __init__(self) -> None:
        super().__init__()
        self.down, before = nn.ModuleList(), 6
        for width, kernel, stride, more in SEES:
            self.down.append(_level(nn.Conv2d(before, width, kernel, stride, kernel // 2), width, more))
            before = width
        self.down.append(nn.Sequential(*_to_one(before, 512)))
        hear, before = [], 1
        for width, kernel, stride, more in HEARS:
            hear.append(_level(nn.Conv2d(before, width, kernel, stride, 1), width, more))
            before = width
        self.hear = nn.Sequential(*hear, *_to_one(before, 512))
        self.up = nn.ModuleList([_level(nn.Conv2d(512, 512, 1), 512, 0)])
        before = 1024
        for (width, stride, more), (skip, *_) in zip(SHOWS, SEES[::-1], strict=True):
            padding = stride - 1
            first = nn.ConvTranspose2d(before, width, 3, stride, padding, padding)
            self.up.append(_level(first, width, more))
            before = width + skip
        self.out = nn.Sequential(nn.Conv2d(before, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 3, 1), nn.Sigmoid())

    def forward(self, seen: Tensor, sound: Tensor) -> Tensor:
        """seen : (B, 6, 96, 96); sound : (B, 1, 80, 16), mel bands by frames; returns (B, 3, 96, 96) in [0, 1]."""
        skips = []
        for level in self.down:
            seen = level(seen)
            skips.append(seen)
        x = self.hear(sound)  # (B, 512, 1, 1)
        for level, skip in zip(self.up, skips[::-1], strict=True):
            x = torch.cat([level(x), skip], 1)
        return self.out(x)


class _Again(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.convolution(x))


def _level(first: nn.Module, width: int, more: int) -> nn.Sequential:
    return nn.Sequential(first, nn.ReLU(), *(_Again(width) for _ in range(more)))


def _to_one(before: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(before, width, 3), nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU()]
