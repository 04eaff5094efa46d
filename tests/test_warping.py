"""Adaptive face warping: the grid means what it says."""

import torch

from lipformer_core.model.build import build
from lipformer_core.model.lipformer import Reference
from lipformer_core.model.ours.warping import fine, unmoved
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


def test_corners_and_fractions_make_the_bilinear_sample():
    torch.manual_seed(0)
    features = torch.randn(2, 5, 6, 12)
    grid = (identity_grid(6, 12) + 0.3 * torch.randn(2, 6, 12, 2)).clamp(-1.2, 1.2)  # beyond the edges too
    warped = bilinear_sample(features, grid)
    first, *corners, fraction = fine(features, warped, grid).split([5, 5, 5, 5, 5, 2], 1)
    assert torch.equal(first, warped)
    assert fraction.min() >= 0 and fraction.max() <= 1
    right, down = fraction[:, :1], fraction[:, 1:]
    upper, lower = (a * (1 - right) + b * right for a, b in (corners[:2], corners[2:]))
    torch.testing.assert_close(upper * (1 - down) + lower * down, warped, atol=1e-5, rtol=1e-4)


def test_unmoved_features_are_read_where_they_are():
    features = torch.randn(2, 5, 6, 12)
    own = unmoved(features)
    assert own.shape == fine(features, features, identity_grid(6, 12).expand(2, -1, -1, -1)).shape
    *tokens, fraction = own.split([5, 5, 5, 5, 5, 2], 1)
    assert all(torch.equal(token, features) for token in tokens) and not fraction.any()


def test_our_transformer_hears_of_the_corners_and_the_papers_gets_none(tiny_config):
    """Half a token's shift of two-coloured tokens: their means are all alike, their corners are not."""
    torch.manual_seed(0)
    model = build(tiny_config).eval()
    torch.nn.init.normal_(model.transformer.head.weight)
    rows, columns = tiny_config.token_grid
    dim = tiny_config.codebook.dim
    stripes = torch.ones(1, dim, rows, columns)
    stripes[..., ::2] = -1
    condition = model.audio_encoder(torch.zeros(1, tiny_config.audio.window, 80))
    grid = identity_grid(rows, columns).clone()
    grid[..., 0] += 1 / columns
    seen = [fine(s, bilinear_sample(s, grid), grid) for s in (stripes, -stripes)]
    torch.testing.assert_close(seen[0][:, :dim, :, :-1], seen[1][:, :dim, :, :-1])
    with torch.no_grad():
        logits = [model.predict(w, condition)[0].unflatten(1, (rows, columns))[:, :, 0] for w in seen]
    assert not torch.allclose(*logits, atol=1e-3)
    reference = Reference(stripes, stripes)
    paper = build(tiny_config.replace({"lips.design": "paper"}))
    for one, channels in ((model, 5 * dim + 2), (paper, dim)):
        warped, read_at = one.warp(stripes, reference)
        assert warped.shape == (1, channels, rows, columns) and read_at.shape == (1, rows, columns, 2)


def test_one_reference_serves_a_whole_batch(tiny_config):
    torch.manual_seed(0)
    model = build(tiny_config)
    torch.nn.init.normal_(model.warping.displace[-1].weight)
    shape = (tiny_config.codebook.dim, *tiny_config.token_grid)
    upper, reference = torch.randn(3, *shape), Reference(torch.randn(1, *shape), torch.randn(1, *shape))
    together = model.warp(upper, reference)[0]
    alone = torch.cat([model.warp(one[None], reference)[0] for one in upper])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_without_warping_the_reference_stays_where_it_is(tiny_config):
    model = build(tiny_config.replace({"lips.ablation": "no_warping"}))
    assert not list(model.warping.parameters())
    shape = (2, tiny_config.codebook.dim, *tiny_config.token_grid)
    upper, reference = torch.randn(shape), Reference(torch.randn(shape), torch.randn(shape))
    warped, grid = model.warp(upper, reference)
    assert torch.equal(warped[:, : shape[1]], reference.bottom)
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
