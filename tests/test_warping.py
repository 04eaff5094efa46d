"""Adaptive face warping: the grid means what it says."""

import torch

from lipformer_core.model.build import build
from lipformer_core.model.lipformer import Reference
from lipformer_core.model.ours.lipformer import PicturedReference
from lipformer_core.model.ours.warping import move_picture
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
    module = AdaptiveFaceWarping(6, 12, 32, 8)
    torch.nn.init.normal_(module.displace[-1].weight)
    upper, other, bottom = (torch.randn(2, 32, 6, 12) for _ in range(3))
    warped, grid = module(upper, upper, bottom)
    assert torch.equal(grid, module.identity.expand_as(grid))
    torch.testing.assert_close(warped, bottom)
    assert not torch.allclose(module(upper, other, bottom)[0], bottom)


def test_a_picture_is_read_where_the_grid_says():
    torch.manual_seed(0)
    picture, grid = torch.rand(1, 3, 48, 48), identity_grid(3, 6)
    torch.testing.assert_close(move_picture(picture, grid), picture[:, :, 24:])
    shifted = grid.clone()
    shifted[..., 0] += 2 * 5 / 48  # five pixels to the right
    shifted[..., 1] -= 2 * 3 / 24  # and three above, beyond the bottom half's edge
    torch.testing.assert_close(move_picture(picture, shifted)[..., :-5], picture[:, :, 21:-3, 5:])


def reference_of(config, count=1):
    codes = (count, config.codebook.dim, *config.token_grid)
    picture = torch.rand(count, 3, config.data.size, config.data.size) * 2 - 1
    return PicturedReference(torch.randn(codes), torch.randn(codes), picture)


def test_our_warping_hears_and_sees_the_mouth_that_it_moves(tiny_config):
    torch.manual_seed(0)
    model, reference = build(tiny_config).eval(), reference_of(tiny_config)
    torch.nn.init.normal_(model.warping.displace[-1].weight)
    upper, condition = torch.randn_like(reference.upper), torch.randn(1, tiny_config.lips.audio_width)
    one = model.warp(upper, reference, condition)[1]
    for changed in (
        (upper, reference, condition + 1),
        (upper, reference._replace(bottom=reference.bottom.flip(0, 2)), condition),
        (upper, reference._replace(upper=reference.upper.flip(2)), condition),
        (upper + torch.randn_like(upper), reference, condition),
    ):
        assert not torch.allclose(model.warp(*changed)[1], one, atol=1e-4)
    assert torch.equal(model.warp(upper, reference._replace(picture=-reference.picture), condition)[1], one)


def test_one_reference_serves_a_whole_batch(tiny_config):
    torch.manual_seed(0)
    model, reference = build(tiny_config).eval(), reference_of(tiny_config)
    torch.nn.init.normal_(model.warping.displace[-1].weight)
    upper, condition = torch.randn(3, *reference.upper.shape[1:]), torch.randn(3, tiny_config.lips.audio_width)
    together = model.warp(upper, reference, condition)[0]
    alone = torch.cat([model.warp(u[None], reference, c[None])[0] for u, c in zip(upper, condition, strict=True)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    paper = build(tiny_config.replace({"lips.design": "paper"})).eval()
    torch.nn.init.normal_(paper.warping.displace[-1].weight)
    plain = Reference(*reference[:2])
    together = paper.warp(upper, plain)[0]
    torch.testing.assert_close(
        together, torch.cat([paper.warp(u[None], plain)[0] for u in upper]), atol=1e-5, rtol=1e-4
    )


def test_without_warping_the_reference_stays_where_it_is(tiny_config):
    model = build(tiny_config.replace({"lips.ablation": "no_warping"}))
    assert not list(model.warping.parameters())
    reference = reference_of(tiny_config, 2)
    warped, grid = model.warp(reference.upper, reference, torch.randn(2, tiny_config.lips.audio_width))
    assert torch.equal(warped, reference.picture[:, :, tiny_config.data.size // 2 :])
    assert torch.equal(grid, identity_grid(*tiny_config.token_grid).expand_as(grid))


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
