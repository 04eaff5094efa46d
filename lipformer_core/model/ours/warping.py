"""The warping that also hears: the reference's picture is moved to the target's pose and to what the sound says."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..warping import BOTTLENECK, AdaptiveFaceWarping, bilinear_sample, identity_grid


class HearingWarping(AdaptiveFaceWarping):
    """As AdaptiveFaceWarping, but F_d also sees the reference's bottom half and hears the sound.

    So lips and jaw move as well, and not only the head. The picture is moved, not its codes: a code stands for a patch
    of pixels, and between two codes lies no patch; moved pixels are encoded again.
    """

    def __init__(self, rows: int, columns: int, code_dim: int, width: int, audio_dim: int):
        """rows, columns : of tokens in one half; width : channels; audio_dim : numbers of F_Aud."""
        super().__init__(rows, columns, code_dim, width)
        tokens = rows * columns
        self.shape = nn.Sequential(
            nn.Conv2d(code_dim, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, BOTTLENECK, 3, padding=1)
        )
        self.move = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, BOTTLENECK, 1), nn.Flatten()
        )
        self.displace = nn.Sequential(
            nn.Linear(2 * BOTTLENECK * tokens + audio_dim, 4 * width),
            nn.SiLU(),
            nn.Linear(4 * width, 4 * width),
            nn.SiLU(),
            nn.Linear(4 * width, 2 * tokens),
        )
        nn.init.normal_(self.displace[-1].weight, std=1e-3)
        nn.init.zeros_(self.displace[-1].bias)

    def grid(self, target_upper: Tensor, reference_upper: Tensor, reference_bottom: Tensor, audio: Tensor) -> Tensor:
        """G_RB from H_TU, H_RU, H_RB, (B, d, h/2, w) each, and F_Aud (B, audio_dim); as `AdaptiveFaceWarping.grid`.

        One reference for all, (1, d, h/2, w), is looked at once.
        """
        difference = self.extract(target_upper) - self.extract(reference_upper)  # K_TU - K_RU: (B, width, h/2, w)
        shape = self.shape(reference_bottom).flatten(1).expand(len(difference), -1)
        seen = torch.cat([self.move(difference), shape, audio], 1)
        shift = self.displace(seen).view(-1, self.rows, self.columns, 2)  # (B, h/2, w, 2)
        return self.identity + torch.tanh(shift)  # at most half the half's width

    def forward(
        self, target_upper: Tensor, reference_upper: Tensor, reference_bottom: Tensor, picture: Tensor, audio: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Move the reference's picture (B or 1, 3, S, S) to the target's pose and lips.

        returns (its bottom half, moved (B, 3, S/2, S), grid (B, h/2, w, 2))
        """
        grid = self.grid(target_upper, reference_upper, reference_bottom, audio)
        return move_picture(picture, grid), grid


class NoWarping(nn.Module):
    """The ablation: the reference's bottom half stays where it is."""

    def __init__(self, rows: int, columns: int):
        super().__init__()
        self.register_buffer("identity", identity_grid(rows, columns), persistent=False)

    def forward(
        self, target_upper: Tensor, reference_upper: Tensor, reference_bottom: Tensor, picture: Tensor, audio: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `HearingWarping`."""
        bottom = picture[:, :, picture.shape[2] // 2 :].expand(len(audio), -1, -1, -1)
        return bottom, self.identity.expand(len(audio), -1, -1, -1)


def move_picture(picture: Tensor, grid: Tensor) -> Tensor:
    """Read a picture (B, 3, S, S) where a grid of its bottom half's tokens (B, h/2, w, 2) in [-1, 1] says.

    Between the tokens the grid is interpolated. returns (B, 3, S/2, S)
    """
    size = picture.shape[-1]
    fine = F.interpolate(grid.permute(0, 3, 1, 2), size=(size // 2, size), mode="bilinear", align_corners=False)
    x, y = fine.permute(0, 2, 3, 1).unbind(-1)
    # the outermost half token has no neighbour to be interpolated with: its shift is held, its place goes on
    place = F.interpolate(
        identity_grid(*grid.shape[1:3]).to(grid).permute(0, 3, 1, 2), size=(size // 2, size), mode="bilinear"
    )
    pixel = identity_grid(size // 2, size).to(grid)
    x, y = x - place[:, 0] + pixel[..., 0], y - place[:, 1] + pixel[..., 1]
    return bilinear_sample(picture.expand(len(grid), -1, -1, -1), torch.stack([x, (y + 1) / 2], -1))
