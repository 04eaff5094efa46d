"""Adaptive face warping: the grid means what it says."""

import torch

from lipformer_core.config import preset
from lipformer_core.model.warping import AdaptiveFaceWarping, bilinear_sample, identity_grid
from lipformer_core.training.losses import bottom_coordinates, warp_landmark_loss


def test_identity_grid_changes_nothing():
    features = torch.randn(2, 5, 6, 12)
    torch.testing.assert_close(bilinear_sample(features, identity_grid(6, 12).expand(2, -1, -1, -1)), features)


def test_known_shift_shifts():
    features = torch.randn(1, 3, 6, 12)
    grid = identity_grid(6, 12).clone()
    grid[..., 0] += 2 * 2 / 12  # read two tokens to the right
    grid[..., 1] -= 2 / 6  # and one above
    warped = bilinear_sample(features, grid)
    torch.testing.assert_close(warped[:, :, 1:, :-2], features[:, :, :-1, 2:])


def test_equal_upper_halves_give_the_identity_exactly():
    torch.manual_seed(0)
    module = AdaptiveFaceWarping(preset("quick"))
    torch.nn.init.normal_(module.displace[-1].weight)
    upper, other, bottom = (torch.randn(2, 32, module.rows, module.columns) for _ in range(3))
    warped, grid = module(upper, upper, bottom)
    assert torch.equal(grid, module.identity.expand_as(grid))
    torch.testing.assert_close(warped, bottom)
    assert not torch.allclose(module(upper, other, bottom)[0], bottom)


def test_landmark_loss_is_zero_for_the_true_shift_and_only_then():
    size = 96
    target = torch.rand(1, 68, 2) * torch.tensor([60.0, 30.0]) + torch.tensor([14.0, 56.0])
    reference = target + torch.tensor([4.0, -3.0])
    points = [bottom_coordinates(p, size) for p in (target, reference)]
    grid = identity_grid(6, 12)
    true = grid + torch.tensor([4.0 * 2 / size, -3.0 * 4 / size])
    assert warp_landmark_loss(true, *points) < 1e-6
    assert warp_landmark_loss(grid, *points) > 1e-2


def test_bottom_coordinates():
    corners = torch.tensor([[-0.5, 47.5], [95.5, 95.5], [47.5, 71.5]])
    torch.testing.assert_close(bottom_coordinates(corners, 96), torch.tensor([[-1.0, -1], [1, 1], [0, 0]]))
