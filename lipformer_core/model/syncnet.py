"""The sync expert: does this sound belong to this mouth? Ours, in the form of SyncNet (Chung and Zisserman 2016).

Two towers put the mouth of a few consecutive frames and the sound of the same moment on one unit sphere; their cosine
similarity says how well they belong together. A window is named by its first frame.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..timing import N_MELS

SEEN = (48, 64)  # rows and columns that the expert sees, whatever the crop: the bottom half without a sixth on a side
LEAST_TEMPERATURE = 0.02
LEAST_SPREAD = 0.05  # added to a window's deviation, so that a black picture stays finite
LEVELS = 4  # halvings of a tower
FRAMES = 5  # consecutive ones in a window: 0.2 s
AUDIO_WINDOW = 32  # mel frames around its middle: the same 0.2 s and 0.06 s on either side


class SyncNet(nn.Module):
    """`faces` and `sounds`, the two towers, and the learned temperature of their similarities.

    Embeddings are float32 also under autocast: neighbouring windows differ by less than bfloat16 tells apart.
    """

    def __init__(self, width: int):
        """width : channels at the first level of both towers; embeddings E have four times as many numbers."""
        super().__init__()
        self.faces = tower(3 * FRAMES, SEEN, width, 4 * width)
        self.sounds = tower(1, (AUDIO_WINDOW, N_MELS), width, 4 * width)
        self.log_scale = nn.Parameter(torch.zeros(()))  # a temperature of 1, at which untrained towers are at chance

    def embed_faces(self, seen: Tensor) -> Tensor:
        """Embeddings of windows of frames.

        seen : torch.Tensor, shape = (B, FRAMES, 3, 48, 64), from `see`
        returns (B, E), l2-normalised; a window's brightness and contrast do not matter
        """
        x = seen.flatten(1, 2)  # (B, 3 T, 48, 64)
        spread, mean = torch.std_mean(x, dim=(1, 2, 3), keepdim=True)
        return F.normalize(self.faces((x - mean) / (spread + LEAST_SPREAD)).float(), dim=-1)  # (B, E)

    def embed_sounds(self, sounds: Tensor) -> Tensor:
        """sounds : torch.Tensor, shape = (B, AUDIO_WINDOW, 80), log-mel; returns (B, E), l2-normalised."""
        return F.normalize(self.sounds(sounds[:, None]).float(), dim=-1)  # (B, E)

    def scale(self) -> Tensor:
        """One over the temperature: what a cosine similarity is multiplied with before a softmax."""
        return self.log_scale.exp().clamp(max=1 / LEAST_TEMPERATURE)

    def forward(self, bottoms: Tensor, sounds: Tensor) -> Tensor:
        """Cosine similarity of each window of frames with its sound, differentiable in the pictures.

        bottoms : torch.Tensor, shape = (B, FRAMES, 3, S/2, S), bottom halves in [-1, 1], of any crop size S
        sounds : torch.Tensor, shape = (B, AUDIO_WINDOW, 80), log-mel centred on the window's middle frame
        returns (B,) in [-1, 1]
        """
        seen = see(bottoms.flatten(0, 1)).unflatten(0, bottoms.shape[:2])  # (B, T, 3, 48, 64)
        return (self.embed_faces(seen) * self.embed_sounds(sounds)).sum(-1)  # (B,)


def see(bottoms: Tensor) -> Tensor:
    """What the expert sees of bottom halves: (N, 3, S/2, S) to (N, 3, 48, 64), a sixth cut off on either side."""
    side = bottoms.shape[-1]
    middle = bottoms[..., side // 6 : side - side // 6]
    if tuple(middle.shape[-2:]) == SEEN:
        return middle
    return F.interpolate(middle, SEEN, mode="bilinear", antialias=True, align_corners=False)


def windows(frames: Tensor, length: int) -> Tensor:
    """Every run of `length` consecutive frames: (B, L, …) to (B, L - length + 1, length, …)."""
    return frames.unfold(1, length, 1).movedim(-1, 2)


def tower(channels: int, size: tuple[int, int], width: int, out: int) -> nn.Sequential:
    """Strided convolutions, a residual block after all but the first, then one dense layer that knows where things are.

    (B, channels, *size) to (B, out); norms are per sample, so that a judged picture depends on no other.
    """
    layers: list[nn.Module] = []
    rows, columns = size
    for level in range(LEVELS):
        current = width * min(2**level, 4)
        layers += [nn.Conv2d(channels, current, 3, stride=2, padding=1), nn.GroupNorm(8, current), nn.SiLU()]
        if level:  # at full size it would cost as much as all others together
            layers.append(Residual(current))
        channels, rows, columns = current, -(-rows // 2), -(-columns // 2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * rows * columns, out))


class Residual(nn.Module):
    """x + convolution(x), normalised per sample."""

    def __init__(self, channels: int):
        super().__init__()
        self.convolution = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(8, channels), nn.SiLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same."""
        return x + self.convolution(x)
