"""The Adaptive Face Warping Module: the pose change seen in the upper halves moves the reference's bottom half."""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import Config
from ..errors import ConfigError

BOTTLENECK = 16  # channels that F_d keeps before its dense layers


class Warped(NamedTuple):
    """H^_RB (B, d, h/2, w), and with `config.warp_corners` what `corner_samples` says of it, else None."""

    bottom: Tensor
    corners: Tensor | None = None

    def hide(self, where: Tensor) -> "Warped":
        """Zeros at the tokens `where`, which broadcasts to (B, 1, h/2, w)."""
        return Warped(*(None if x is None else x.masked_fill(where, 0.0) for x in self))

    def surround(self, own: Tensor, where: Tensor) -> "Warped":
        """The target's own tokens (B, d, h/2, w) at `where` (h/2, w), as if each had been read exactly there."""
        if self.corners is None:
            return Warped(torch.where(where, own, self.bottom))
        corners = torch.cat([own, own, own, own, own.new_zeros(len(own), 2, *own.shape[2:])], 1)
        return Warped(torch.where(where, own, self.bottom), torch.where(where, corners, self.corners))


def identity_grid(rows: int, columns: int) -> Tensor:
    """Sampling grid that changes nothing: (1, rows, columns, 2), (x, y) in [-1, 1], pixel centres."""
    y = (torch.arange(rows) + 0.5) * 2 / rows - 1
    x = (torch.arange(columns) + 0.5) * 2 / columns - 1
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]


def bilinear_sample(features: Tensor, grid: Tensor) -> Tensor:
    """Read features (B, d, h, w) at grid (B, h, w, 2) in [-1, 1] (x, y), bilinearly, edges repeated."""
    return F.grid_sample(features, grid, mode="bilinear", padding_mode="border", align_corners=False)


def require_sampling(device: torch.device) -> None:
    """Nothing, where `bilinear_sample` can be trained on the device: not every Torch can do it on every one.

    raises ConfigError before any work where it cannot
    """
    place = torch.zeros(1, 1, 1, 2, device=device, requires_grad=True)
    try:
        bilinear_sample(torch.zeros(1, 1, 2, 2, device=device), place).sum().backward()
    except RuntimeError as error:
        raise ConfigError(
            f"warping cannot be trained on the device {device.type} with Torch {torch.__version__} ({error}); take a "
            "newer Torch, train on the CPU (ACCELERATE_USE_CPU=true), or set warping to false"
        ) from error


def corner_samples(features: Tensor, grid: Tensor) -> Tensor:
    """The four tokens that `bilinear_sample` reads between, and where between.

    A token stands for a patch of pixels, and the mean of two neighbours is not the patch between them. With these a
    network can find it.

    features : torch.Tensor, shape = (B, d, h, w)
    grid : torch.Tensor, shape = (B, h, w, 2) in [-1, 1] (x, y)
    returns (B, 4 d + 2, h, w): the tokens upper left, upper right, lower left, lower right, edges repeated, then how
        far to the right and down of the first one the place lies, in [0, 1] tokens
    """
    rows, columns = features.shape[2:]
    place = (grid + 1) * grid.new_tensor([columns, rows]) / 2 - 0.5
    corner = place.floor()
    x, y = corner.long().unbind(-1)  # (B, h, w)
    tokens = features.flatten(2)
    corners = []
    for down, right in itertools.product((0, 1), repeat=2):
        index = (y + down).clamp(0, rows - 1) * columns + (x + right).clamp(0, columns - 1)
        index = index.flatten(1)[:, None].expand(-1, features.shape[1], -1)
        corners.append(tokens.gather(2, index).unflatten(2, (rows, columns)))
    return torch.cat([*corners, (place - corner).permute(0, 3, 1, 2)], 1)


class AdaptiveFaceWarping(nn.Module):
    """F_e, F_d and bilinear sampling: ``G_RB = F_d(F_e(H_TU) - F_e(H_RU))``, ``H^_RB = sample(H_RB, G_RB)``.

    F_d has no biases, so equal upper halves give exactly the identity grid. Its last layers are dense over the
    token grid: where a bottom token moves depends on the whole upper half, not on the tokens above it. Both
    are ours; the paper (as we hold it) does not describe the two networks.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.rows, self.columns = config.token_grid
        width, tokens = config.warp_width, self.rows * self.columns
        self.corners = config.warp_corners
        self.extract = nn.Sequential(  # F_e
            nn.Conv2d(config.code_dim, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.displace = nn.Sequential(  # F_d
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.SiLU(),
            nn.Conv2d(width, BOTTLENECK, 1, bias=False),
            nn.Flatten(),
            nn.Linear(BOTTLENECK * tokens, 2 * width, bias=False),
            nn.SiLU(),
            nn.Linear(2 * width, 2 * tokens, bias=False),
        )
        nn.init.normal_(self.displace[-1].weight, std=1e-3)
        self.register_buffer("identity", identity_grid(self.rows, self.columns), persistent=False)

    def grid(self, target_upper: Tensor, reference_upper: Tensor) -> Tensor:
        """G_RB from H_TU and H_RU, (B, d, h/2, w) each; returns (B, h/2, w, 2) in [-1, 1] (x, y)."""
        difference = self.extract(target_upper) - self.extract(reference_upper)  # K_TU - K_RU
        shift = self.displace(difference).view(-1, self.rows, self.columns, 2)
        return self.identity + torch.tanh(shift)  # at most half the half's width

    def forward(self, target_upper: Tensor, reference_upper: Tensor, reference_bottom: Tensor) -> tuple[Warped, Tensor]:
        """Warp H_RB to the target's pose.

        all inputs : torch.Tensor, shape = (B, d, h/2, w), quantised encodings
        returns (the warped reference bottom, grid (B, h/2, w, 2))
        """
        grid = self.grid(target_upper, reference_upper)
        corners = corner_samples(reference_bottom, grid) if self.corners else None
        return Warped(bilinear_sample(reference_bottom, grid), corners), grid
