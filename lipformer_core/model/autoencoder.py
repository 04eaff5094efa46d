"""Enc and Dec of Figure 2a: ONE encoder for each half of the face, ONE decoder over the two halves stacked."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import CodebookSettings, Config
from .codebook import Codebook


def to_tensor(images: np.ndarray | Tensor) -> Tensor:
    """uint8 (B, S, S, 3) to float (B, 3, S, S) in [-1, 1], channels last in memory."""
    return (torch.as_tensor(images).float() / 127.5 - 1).permute(0, 3, 1, 2)


def to_images(batch: Tensor) -> np.ndarray:
    """float (B, 3, S, S) in [-1, 1] to uint8 (B, S, S, 3)."""
    return ((batch.detach().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


class ChannelNorm(nn.Module):
    """Root-mean-square norm over the channels of each pixel; local, unlike GroupNorm."""

    def __init__(self, channels: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6) * self.scale


def _norm(local: bool, channels: int) -> nn.Module:
    return ChannelNorm(channels) if local else nn.GroupNorm(32, channels, eps=1e-6)


class ResBlock(nn.Module):
    """norm, SiLU, 3x3 convolution, twice, plus the input."""

    def __init__(self, channels: int, out_channels: int, local: bool):
        super().__init__()
        self.norm1 = _norm(local, channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = _norm(local, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(y)))


class SpatialAttention(nn.Module):
    """Single-head self-attention over all positions, as at VQGAN's lowest resolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = _norm(False, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, -1)  # (B, hw, c) each
        y = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.out(y.transpose(1, 2).reshape(b, c, h, w))


def _middle(channels: int) -> list[nn.Module]:
    """VQGAN's lowest resolution."""
    return [ResBlock(channels, channels, False), SpatialAttention(channels), ResBlock(channels, channels, False)]


class FaceEncoder(nn.Module):
    """Enc: one half of a face to its encoding."""

    def __init__(self, settings: CodebookSettings):
        super().__init__()
        widths, stem, local = settings.widths, settings.stem, settings.local
        layers: list[nn.Module] = []
        if stem > 1:
            layers.append(nn.PixelUnshuffle(stem))
        layers.append(nn.Conv2d(3 * stem**2, widths[0], 3, padding=1))
        previous = widths[0]
        for level, width in enumerate(widths):
            if level:
                layers.append(nn.Conv2d(previous, previous, 3, stride=2, padding=1))
            for _ in range(settings.res_blocks):
                layers.append(ResBlock(previous, width, local))
                previous = width
        if not local:
            layers += _middle(previous)
        layers += [_norm(local, previous), nn.SiLU(), nn.Conv2d(previous, settings.dim, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, half: Tensor) -> Tensor:
        """half : torch.Tensor, shape = (B, 3, S/2, S) in [-1, 1]; returns (B, d, h/2, w)."""
        return self.layers(half)


class FaceDecoder(nn.Module):
    """Dec: the two quantised halves, stacked along the height, to a face."""

    def __init__(self, settings: CodebookSettings):
        super().__init__()
        widths, stem, local = settings.widths[::-1], settings.stem, settings.local
        layers: list[nn.Module] = [nn.Conv2d(settings.dim, widths[0], 3, padding=1)]
        if not local:
            layers += _middle(widths[0])
        previous = widths[0]
        for level, width in enumerate(widths):
            if level:
                layers += [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(previous, previous, 3, padding=1)]
            for _ in range(settings.res_blocks):
                layers.append(ResBlock(previous, width, local))
                previous = width
        layers += [_norm(local, previous), nn.SiLU(), nn.Conv2d(previous, 3 * stem**2, 3, padding=1)]
        if stem > 1:
            layers.append(nn.PixelShuffle(stem))
        self.layers = nn.Sequential(*layers)
        self.rows_above = _rows_above(layers) if local else None

    def forward(self, codes: Tensor) -> Tensor:
        """codes : torch.Tensor, shape = (B, d, h, w); returns (B, 3, S, S), about [-1, 1]."""
        return self.layers(codes)

    @property
    def last(self) -> Tensor:
        """Weights of the last convolution."""
        return [layer for layer in self.layers if isinstance(layer, nn.Conv2d)][-1].weight

    def bottom(self, codes: Tensor) -> Tensor:
        """The bottom half of `forward`, (B, 3, S/2, S).

        Where all layers are local, each computes only the rows that the bottom half depends on; VQGAN's form, whose
        norms and attention see every pixel, has no such rows, and computes the whole.
        """
        if self.rows_above is None:
            return split_halves(self(codes))[1]
        x, half = codes, codes.shape[2] // 2
        for layer, above in zip(self.layers, self.rows_above, strict=True):
            columns = x.shape[3]
            x = layer(x[:, :, max(x.shape[2] - half - above, 0) :])
            half = half * x.shape[3] // columns
        return x[:, :, x.shape[2] - half :]


def _rows_above(layers: list[nn.Module]) -> list[int]:
    """How many rows of each layer's input above the middle the bottom half of the last one's output depends on."""
    above, rows = 0, []
    for layer in layers[::-1]:
        if isinstance(layer, nn.Upsample | nn.PixelShuffle):
            factor = layer.scale_factor if isinstance(layer, nn.Upsample) else layer.upscale_factor
            above = -(-above // int(factor))
        above += sum(part.padding[0] for part in layer.modules() if isinstance(part, nn.Conv2d))
        rows.append(above)
    return rows[::-1]


def split_halves(image: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, S, S) to its upper and bottom halves, (B, 3, S/2, S) each."""
    upper, bottom = image.chunk(2, dim=2)
    return upper, bottom


def stack_halves(upper: Tensor, bottom: Tensor) -> Tensor:
    """The paper's circled plus: two halves put back together along the height."""
    return torch.cat([upper, bottom], dim=2)


class FaceAutoencoder(nn.Module):
    """Stage 1 (Figure 2a): Enc, C_U, C_B, Dec."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        settings = config.codebook
        self.encoder, self.decoder = FaceEncoder(settings), FaceDecoder(settings)
        self.upper_codebook = Codebook(settings.size, settings.dim)
        self.bottom_codebook = self.upper_codebook if settings.shared else Codebook(settings.size, settings.dim)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Unquantised encodings of both halves. image: (B, 3, S, S) in [-1, 1]; returns 2 x (B, d, h/2, w)."""
        # one pass over both halves as a batch of 2B: the encoder is shared
        upper, bottom = self.encoder(torch.cat(split_halves(image))).chunk(2)
        return upper.float(), bottom.float()

    def decode(self, upper: Tensor, bottom: Tensor) -> Tensor:
        """Both halves' codes, (B, d, h/2, w) each, to a face (B, 3, S, S)."""
        return self.decoder(stack_halves(upper, bottom))

    def decode_bottom(self, upper: Tensor, bottom: Tensor) -> Tensor:
        """The bottom half (B, 3, S/2, S) of `decode`, for less where the design allows it."""
        return self.decoder.bottom(stack_halves(upper, bottom))

    def forward(self, image: Tensor, quantise: bool = True) -> dict[str, Tensor]:
        """Reconstruct a face.

        image : torch.Tensor, shape = (B, 3, S, S) in [-1, 1]
        quantise : without it the encodings go to the decoder as they are (warm-up before the codebooks exist)
        returns reconstruction (B, 3, S, S), vq_loss, upper/bottom encodings, upper/bottom indices (if quantised)
        """
        upper, bottom = self.encode(image)
        if not quantise:
            return {
                "reconstruction": self.decode(upper, bottom),
                "vq_loss": image.new_zeros(()),
                "upper": upper,
                "bottom": bottom,
            }
        upper_codes, upper_indices, upper_loss = self.upper_codebook(upper)
        bottom_codes, bottom_indices, bottom_loss = self.bottom_codebook(bottom)
        return {
            "reconstruction": self.decode(upper_codes, bottom_codes),
            "vq_loss": upper_loss + bottom_loss,
            "upper": upper,
            "bottom": bottom,
            "upper_indices": upper_indices,
            "bottom_indices": bottom_indices,
        }
