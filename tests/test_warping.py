"""Adaptive face warping: the grid means what it says."""

import pytest
import torch

from lipformer_core.config import preset
from lipformer_core.errors import ConfigError
from lipformer_core.model.lipformer import LipFormer
from lipformer_core.model.warping import AdaptiveFaceWarping, Warped, bilinear_sample, corner_samples, identity_grid
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
    torch.testing.assert_close(warped.bottom, bottom)
    assert not torch.allclose(module(upper, other, bottom)[0].bottom, bottom)


def test_corners_and_fractions_make_the_bilinear_sample():
    torch.manual_seed(0)
    features = torch.randn(2, 5, 6, 12)
    grid = (identity_grid(6, 12) + 0.3 * torch.randn(2, 6, 12, 2)).clamp(-1.2, 1.2)  # beyond the edges too
    *corners, fraction = corner_samples(features, grid).split([5, 5, 5, 5, 2], 1)
    assert fraction.min() >= 0 and fraction.max() <= 1
    right, down = fraction[:, :1], fraction[:, 1:]
    upper, lower = (a * (1 - right) + b * right for a, b in (corners[:2], corners[2:]))
    torch.testing.assert_close(upper * (1 - down) + lower * down, bilinear_sample(features, grid), atol=1e-5, rtol=1e-4)


def test_hidden_tokens_show_nothing():
    where = torch.zeros(1, 1, 2, 4, dtype=torch.bool)
    where[..., 1, 2] = True
    hidden = Warped(torch.ones(3, 5, 2, 4), torch.ones(3, 22, 2, 4)).hide(where)
    for seen, channels in zip(hidden, (5, 22), strict=True):
        assert seen.sum() == 3 * channels * 7 and not seen[:, :, 1, 2].any()
    assert Warped(torch.ones(3, 5, 2, 4)).hide(where).corners is None


def test_the_transformer_hears_of_the_corners_only_where_asked(tiny_config):
    """Half a token's shift of two-coloured tokens: their means are all alike, their corners are not."""
    torch.manual_seed(0)
    model = LipFormer(tiny_config.replace(warp_corners=True)).eval()
    torch.nn.init.normal_(model.transformer.head.weight)
    rows, columns = tiny_config.token_grid
    stripes = torch.ones(1, tiny_config.codebook.dim, rows, columns)
    stripes[..., ::2] = -1
    audio = torch.zeros(1, tiny_config.audio.window, 80)
    grid = identity_grid(rows, columns).clone()
    grid[..., 0] += 1 / columns
    seen = [Warped(bilinear_sample(s, grid), corner_samples(s, grid)) for s in (stripes, -stripes)]
    torch.testing.assert_close(seen[0].bottom[..., :-1], seen[1].bottom[..., :-1])
    with torch.no_grad():
        logits = [model.lip_logits(w, audio).unflatten(1, (rows, columns))[:, :, 0] for w in seen]
    assert not torch.allclose(*logits, atol=1e-3)
    plain = LipFormer(tiny_config)
    assert plain.transformer.between is None and plain.warp(stripes, (stripes, stripes)).corners is None


def test_corners_need_the_warping(tiny_config):
    with pytest.raises(ConfigError, match="warp_corners"):
        tiny_config.replace(warp_corners=True, warping=False)


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
