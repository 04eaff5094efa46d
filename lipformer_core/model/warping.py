"""The Adaptive Face Warping Module: the pose change seen in the upper halves moves the reference's bottom half."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError

BOTTLENECK = 16  # channels that F_d keeps before its dense layers


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
            "newer Torch, train on the CPU (ACCELERATE_USE_CPU=true), or set lips.ablation=no_warping"
        ) from error


class AdaptiveFaceWarping(nn.Module):
    """F_e, F_d and bilinear sampling: ``G_RB = F_d(F_e(H_TU) - F_e(H_RU))``, ``H^_RB = sample(H_RB, G_RB)``.

    F_d has no biases, so equal upper halves give exactly the identity grid. Its last layers are dense over the
    token grid: where a bottom token moves depends on the whole upper half, not on the tokens above it. Both
    are ours; the paper (as we hold it) does not describe the two networks.
    """

    def __init__(self, rows: int, columns: int, code_dim: int, width: int):
        """rows, columns : of tokens in one half; width : channels of F_e and F_d."""
        super().__init__()
        self.rows, self.columns = rows, columns
        tokens = rows * columns
        self.extract = nn.Sequential(  # F_e
            nn.Conv2d(code_dim, width, 3, padding=1),
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
        self.register_buffer("identity", identity_grid(rows, columns), persistent=False)

    def grid(self, target_upper: Tensor, reference_upper: Tensor) -> Tensor:
        """G_RB from H_TU and H_RU, (B, d, h/2, w) each; returns (B, h/2, w, 2) in [-1, 1] (x, y)."""
        difference = self.extract(target_upper) - self.extract(reference_upper)  # K_TU - K_RU: (B, width, h/2, w)
        shift = self.displace(difference).view(-1, self.rows, self.columns, 2)  # (B, h/2, w, 2)
        return self.identity + torch.tanh(shift)  # at most half the half's width

    def forward(self, target_upper: Tensor, reference_upper: Tensor, reference_bottom: Tensor) -> tuple[Tensor, Tensor]:
        """Warp H_RB to the target's pose.

        all inputs : torch.Tensor, shape = (B, d, h/2, w), quantised encodings; the reference's also (1, d, h/2, w)
        returns (the warped reference bottom (B, d, h/2, w), grid (B, h/2, w, 2))
        """
        grid = self.grid(target_upper, reference_upper)  # (B, h/2, w, 2)
        return bilinear_sample(reference_bottom.expand(len(grid), -1, -1, -1), grid), grid
