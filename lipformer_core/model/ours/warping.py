"""What a bilinear read between tokens loses, kept beside it."""

import itertools

import torch
from torch import Tensor, nn

from ..warping import identity_grid


def fine(features: Tensor, warped: Tensor, grid: Tensor) -> Tensor:
    """The warped features, the four tokens that each place was read between, and where between.

    A token stands for a patch of pixels, and the mean of two neighbours is not the patch between them. With these a
    network can find it.

    features, warped : torch.Tensor, shape = (B, d, h, w), before and after `bilinear_sample` at `grid`
    grid : torch.Tensor, shape = (B, h, w, 2) in [-1, 1] (x, y)
    returns (B, 5 d + 2, h, w): warped; the tokens upper left, upper right, lower left, lower right, edges repeated; how
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
    return torch.cat([warped, *corners, (place - corner).permute(0, 3, 1, 2)], 1)


def unmoved(features: Tensor) -> Tensor:
    """`fine` of features (B, d, h, w) that were read exactly where they are."""
    return torch.cat([features] * 5 + [features.new_zeros(len(features), 2, *features.shape[2:])], 1)


class NoWarping(nn.Module):
    """The ablation: the reference's bottom half stays where it is."""

    def __init__(self, rows: int, columns: int):
        super().__init__()
        self.register_buffer("identity", identity_grid(rows, columns), persistent=False)

    def forward(self, target_upper: Tensor, reference_upper: Tensor, reference_bottom: Tensor) -> tuple[Tensor, Tensor]:
        """As `AdaptiveFaceWarping`."""
        return reference_bottom, self.identity.expand(len(reference_bottom), -1, -1, -1)
