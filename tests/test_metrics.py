"""The scores against independent libraries, and the mistakes of published evaluation scripts as traps."""

import numpy as np
import pytest
from scipy import stats
from scipy.ndimage import convolve, gaussian_filter
from scipy.spatial.distance import cdist
from skimage.metrics import peak_signal_noise_ratio

from lipformer_core.evaluation.metrics import (
    MetricError,
    bootstrap_interval,
    border_step,
    gradient_energy,
    jitter,
    lmd,
    mouth_boxes,
    partial_correlation,
    pearson,
    picture_scores,
    psnr,
    ssim_map,
)


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """Two stacks of 4 smooth pictures that differ by noise, (4, 64, 64, 3) uint8."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (4, 9, 9, 3)).repeat(8, axis=1).repeat(8, axis=2)[:, :64, :64]
    noisy = np.clip(coarse + rng.normal(0, 12, coarse.shape), 0, 255)
    return coarse.astype(np.uint8), noisy.astype(np.uint8)


def _face(n: int = 5, size: int = 64) -> np.ndarray:
    points = np.zeros((n, 68, 2))
    points[:, 36:42], points[:, 42:48] = (0.35 * size, 0.28 * size), (0.65 * size, 0.28 * size)
    points[:, 48:68] = (0.5 * size, 0.69 * size)
    return points


def test_psnr_agrees_with_scikit_image(pair):
    for a, b, mine in zip(*pair, psnr(*pair), strict=True):
        assert mine == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255), abs=1e-9)


def test_ssim_is_the_published_one(pair):
    """Wang et al. 2004, by hand at one place: a Gaussian window of 11 x 11, sigma 1.5, no sample covariance."""
    a, b = (stack[0].astype(float) for stack in pair)
    offsets = np.arange(-5, 6)
    line = np.exp(-0.5 * (offsets / 1.5) ** 2)
    window = np.outer(line, line)[..., None] / line.sum() ** 2
    x, y = a[10:21, 20:31], b[10:21, 20:31]
    mean_x, mean_y = (window * x).sum((0, 1)), (window * y).sum((0, 1))
    var_x, var_y = (window * x * x).sum((0, 1)) - mean_x**2, (window * y * y).sum((0, 1)) - mean_y**2
    covariance = (window * x * y).sum((0, 1)) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    truth = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    truth /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    assert ssim_map(pair[0], pair[1])[0, 10, 20] == pytest.approx(truth.mean(), abs=1e-6)


def test_uint8_differences_do_not_wrap():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    wrapped = 10 * np.log10(255**2 / np.mean(((a - b) ** 2).astype(float)))  # the published mistake
    assert psnr(a, b) < 12 < wrapped
    assert psnr(a, b) == psnr(b, a)


def test_known_noise_gives_known_psnr():
    rng = np.random.default_rng(2)
    grey = np.full((128, 128, 3), 128.0)
    noisy = grey + rng.normal(0, 20, grey.shape)
    assert psnr(grey, noisy, peak=255) == pytest.approx(20 * np.log10(255 / 20), abs=0.1)


def test_what_cannot_be_compared_is_refused(pair):
    a, b = pair
    with pytest.raises(MetricError, match="shapes"):
        psnr(a, b[:, :32])
    with pytest.raises(MetricError, match="types"):
        psnr(a, b.astype(np.float32))
    with pytest.raises(MetricError, match="peak"):
        ssim_map(a.astype(float), b.astype(float))
    with pytest.raises(MetricError, match="11x11"):
        ssim_map(a[:, :8], b[:, :8])
    with pytest.raises(MetricError, match="equally long"):
        pearson(np.zeros(5), np.zeros(6))
    with pytest.raises(MetricError, match="finite"):
        bootstrap_interval([1.0, float("nan")])


def test_region_scores_are_those_of_the_cut_pictures(pair):
    a, b = pair
    boxes = mouth_boxes(_face(4), 64)
    scores = picture_scores(a, b, boxes)
    top, bottom, left, right = boxes[2]
    np.testing.assert_allclose(scores["bottom_ssim"], ssim_map(a[:, 32:], b[:, 32:]).mean((1, 2)))
    cut = np.s_[2, top:bottom, left:right]
    np.testing.assert_allclose(scores["mouth_ssim"][2], ssim_map(a[cut], b[cut]).mean())
    np.testing.assert_allclose(scores["mouth_psnr"][2], psnr(a[cut], b[cut]))


def test_mouth_boxes_have_one_size_and_stay_in_the_bottom_half():
    rng = np.random.default_rng(3)
    top, bottom, left, right = mouth_boxes(rng.uniform(-20, 120, (50, 68, 2)), 96).T
    assert set(bottom - top) == {35} and set(right - left) == {42}
    assert top.min() >= 48 and bottom.max() <= 96 and left.min() >= 0 and right.max() <= 96


def test_the_step_over_the_border_grows_where_the_halves_differ():
    truth = np.tile(np.arange(64, dtype=np.uint8)[None, :, None, None] * 2, (2, 1, 64, 3))
    edged = truth.copy()
    edged[:, 32:] += 20
    np.testing.assert_allclose(border_step(truth), 2)
    np.testing.assert_allclose(border_step(edged), 22)
    noise = np.random.default_rng(9).integers(0, 256, (2, 64, 64, 3))
    across = np.abs(convolve(noise.astype(float), np.array([1, -1]).reshape(1, 2, 1, 1)))[:, 31]
    np.testing.assert_allclose(border_step(noise.astype(np.uint8)), across.mean((1, 2)), rtol=1e-12)


def test_gradient_energy_is_that_of_convolved_bottom_halves(pair):
    for picture, energy in zip(pair[1], gradient_energy(pair[1]), strict=True):
        bottom = picture[32:].astype(float)
        across = convolve(bottom, np.array([1.0, -1.0]).reshape(1, 2, 1))[:, :-1]
        down = convolve(bottom, np.array([1.0, -1.0]).reshape(2, 1, 1))[:-1]
        assert energy == pytest.approx((across**2).mean() + (down**2).mean(), rel=1e-12)


def test_blur_loses_gradient_energy_and_the_upper_half_does_not_count(pair):
    truth = pair[1]
    blurred = gaussian_filter(truth, (0, 1, 1, 0))
    assert (gradient_energy(blurred) < 0.6 * gradient_energy(truth)).all()
    changed = truth.copy()
    changed[:, :32] = 0
    np.testing.assert_array_equal(gradient_energy(changed), gradient_energy(truth))


def test_unrelated_pictures_are_below_12_db_and_the_truth_is_best_in_every_column(pair):
    """A scorer that gives strangers a good mark is wrong, whatever else it agrees with."""
    rng = np.random.default_rng(8)
    truth, blurred = pair[1], gaussian_filter(pair[1], (0, 1, 1, 0))
    unrelated = rng.uniform(0, 255, (4, 8, 8, 3)).repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)
    boxes = mouth_boxes(_face(4), 64)
    best, soft, worst = (picture_scores(shown, truth, boxes) for shown in (truth, blurred, unrelated))
    for column in best:
        assert (best[column] > soft[column]).all() and (soft[column] > worst[column]).all(), column
        assert (worst[column] < (12 if "psnr" in column else 0.5)).all(), column
        assert best[column] == pytest.approx(10 * np.log10(255**2 * 12) if "psnr" in column else 1)


def test_lmd_ignores_the_place():
    points = np.random.default_rng(4).normal(size=(3, 20, 2))
    assert lmd(points + [3, 4], points) == pytest.approx(0, abs=1e-12)
    other = np.random.default_rng(5).normal(size=(3, 20, 2))
    theirs = [np.diag(cdist(a - a.mean(0), b - b.mean(0))).mean() for a, b in zip(points, other, strict=True)]
    assert lmd(points, other) == pytest.approx(np.mean(theirs), rel=1e-12)


def test_partial_correlation_is_the_correlation_of_regression_residuals():
    rng = np.random.default_rng(5)
    z = rng.normal(size=200)
    y = 0.6 * z + rng.normal(size=200)
    x = 0.5 * z + 0.4 * y + rng.normal(size=200)
    design = np.stack([z, np.ones_like(z)], axis=1)
    residuals = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y)]
    assert partial_correlation(x, y, z) == pytest.approx(np.corrcoef(*residuals)[0, 1], abs=1e-12)


def test_leak_of_a_copy_is_one_and_of_what_follows_the_audio_none():
    rng = np.random.default_rng(6)
    shared = np.sin(np.arange(400) / 7)  # two sentences of one timing: a plain correlation flatters or damns
    original, driving = shared + rng.normal(0, 1, 400), shared + rng.normal(0, 1, 400)
    assert pearson(driving, original) > 0.2
    assert partial_correlation(original, original, driving) == pytest.approx(1)
    assert abs(partial_correlation(driving + rng.normal(0, 0.3, 400), original, driving)) < 0.15
    assert partial_correlation(2 * driving + 1, original, driving) == 0
    assert partial_correlation(np.ones(400), original, driving) == 0
    assert np.isnan(partial_correlation(original, driving, driving))


def test_correlation_with_a_still_mouth_does_not_exist():
    assert np.isnan(pearson(np.full(9, 0.1), np.arange(9)))
    assert pearson(np.arange(9), -2 * np.arange(9)) == pytest.approx(-1)
    x, y = np.random.default_rng(10).normal(size=(2, 40))
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)


def test_jitter_ignores_steady_motion():
    assert jitter(3 * np.arange(10)) == 0
    assert jitter([0, 1, 0, 1]) == 2
    series = np.random.default_rng(9).normal(size=50)
    assert jitter(series) == pytest.approx(np.abs(convolve(series, [1, -2, 1])[1:-1]).mean(), rel=1e-12)


def test_bootstrap_is_deterministic_and_covers():
    rng = np.random.default_rng(7)
    hits = 0
    for k in range(100):
        mean, low, high = bootstrap_interval(rng.normal(3, 1, 30), seed=k, draws=500)
        assert low <= mean <= high
        hits += low <= 3 <= high
    assert hits >= 85
    values = rng.normal(size=12)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_bootstrap_of_a_ratio_is_a_ratio_of_means():
    mean, low, high = bootstrap_interval([1.0, 2.0, 3.0], [10.0, 10.0, 40.0])
    assert mean == pytest.approx(0.1) and low <= mean <= high
    assert np.isnan(bootstrap_interval([5.0])[1])
