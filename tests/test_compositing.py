"""Pasting: what must not change does not, and no border is seen."""

import cv2
import numpy as np
import pytest
import torch
from material import draw_face, face_landmarks

from lipformer_core.checkpoint import load_codebook
from lipformer_core.data.faces.alignment import crop_transforms, invert, mouth_opening, transform_points, warp_crop
from lipformer_core.data.faces.tracking import track_faces
from lipformer_core.data.media import iter_frames
from lipformer_core.dubbing import grain
from lipformer_core.dubbing.compositing import TOP, lower_face_mask, match_colours, paste

SIZE = 96


def scene(distance: float, angle: float = 0.1, noise: float = 4.0):
    """A frame with a face, its landmarks, its crop transform, the landmarks in the crop, and the mask."""
    height, width = int(5 * distance), int(6 * distance)
    marks = face_landmarks((width / 2, height * 0.35), distance, 0.15, angle)
    grain = np.random.default_rng(0).normal(0, noise, (height, width, 3))
    frame = np.clip(draw_face(height, width, marks) + grain, 0, 255).astype(np.uint8)
    transform = crop_transforms(marks[None], np.ones(1, bool), SIZE)[0]
    inside = transform_points(transform, marks)
    return frame, marks, transform, inside, lower_face_mask(SIZE, inside)


def gradient(picture: np.ndarray) -> np.ndarray:
    dy, dx = np.gradient(picture.astype(float).mean(2))
    return np.hypot(dx, dy)


def test_mask_covers_mouth_and_chin_and_nothing_above():
    _, _, _, inside, mask = scene(40)
    assert mask.min() == 0 and mask.max() == pytest.approx(1, abs=1e-3)
    assert (mask[: int(TOP * SIZE)] == 0).all()
    assert (mask[:, [0, -1]] == 0).all() and (mask[-1] == 0).all()
    mouth = np.round(inside[48:68]).astype(int)
    assert mask[mouth[:, 1], mouth[:, 0]].min() > 0.95
    chin = np.round(inside[8]).astype(int)
    assert mask[chin[1], chin[0]] > 0.6
    assert np.abs(np.diff(mask, axis=0)).max() < 0.35 and np.abs(np.diff(mask, axis=1)).max() < 0.35


def test_mask_reaches_below_the_lowest_chin_of_the_clip():
    _, _, _, inside, mask = scene(40)
    low = lower_face_mask(SIZE, inside, lowest_chin=inside[8, 1] + 6)
    row = int(inside[8, 1]) + 5
    assert mask[row, 48] < 0.5 < low[row, 48]
    assert lower_face_mask(SIZE)[int(0.85 * SIZE), SIZE // 2] > 0.9


@pytest.mark.parametrize("distance", [15, 30, 40, 110])
def test_pasting_the_original_changes_nothing(distance):
    frame, _, transform, _, mask = scene(distance)
    result = paste(frame, warp_crop(frame, transform, SIZE), transform, mask)
    assert result is not frame
    assert np.abs(result.astype(int) - frame).max() <= 1


@pytest.mark.parametrize("distance", [15, 40, 110])
def test_outside_the_mask_every_bit_is_the_frames(distance):
    frame, _, transform, _, mask = scene(distance)
    before = frame.copy()
    noise = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    result = paste(frame, noise, transform, mask)
    np.testing.assert_array_equal(frame, before)
    rows, columns = np.mgrid[: frame.shape[0], : frame.shape[1]]
    place = transform_points(transform, np.stack([columns.ravel(), rows.ravel()], 1).astype(float))
    near = np.zeros(frame.shape[:2], bool).ravel()
    whole = np.floor(place).astype(int)
    for dx in (0, 1):
        for dy in (0, 1):
            x, y = whole[:, 0] + dx, whole[:, 1] + dy
            ok = (x >= 0) & (x < SIZE) & (y >= 0) & (y < SIZE)
            near[ok] |= mask[y[ok], x[ok]] > 0
    changed = (result != frame).any(2).ravel()
    assert changed.any() and not (changed & ~near).any()
    upper = place[:, 1] < TOP * SIZE - 1
    assert not changed[upper].any()


@pytest.mark.parametrize("distance", [15, 40, 110])
def test_a_plain_frame_stays_plain(distance):
    _, _, transform, _, mask = scene(distance)
    frame = np.full((int(5 * distance), int(6 * distance), 3), (150, 120, 90), np.uint8)
    for shift in (0, 9, -14):  # also where the generator's colours are off
        crop = np.full((SIZE, SIZE, 3), (150 + shift, 120 + shift // 2, 90), np.uint8)
        result = paste(frame, crop, transform, mask)
        assert np.abs(result.astype(int) - frame).max() <= 1


def test_colours_are_matched_at_the_border_and_structure_is_kept():
    frame, _, transform, _, mask = scene(40)
    original = warp_crop(frame, transform, SIZE)
    columns = np.linspace(-10, 10, SIZE)[None, :, None]
    crop = original + columns + np.array([6.0, -4.0, 2.0])
    crop[60:70, 40:56] += 70  # a mouth that is another
    matched = match_colours(crop, original, mask)
    border = (mask > 0.02) & (mask < 0.98)
    assert np.abs((matched - original)[border]).mean() < 0.25 * np.abs((crop - original)[border]).mean()
    assert 60 < (matched - original)[62:68, 42:54].mean() < 80


@pytest.mark.parametrize("distance", [15, 40, 110])
def test_no_edge_appears_along_the_border(distance):
    frame, _, transform, inside, mask = scene(distance, noise=1.0)
    original = warp_crop(frame, transform, SIZE)
    other = np.clip(original.astype(int) + [14, 8, -6], 0, 255).astype(np.uint8)
    result = paste(frame, other, transform, mask, original)
    rows, columns = np.mgrid[: frame.shape[0], : frame.shape[1]]
    place = np.round(transform_points(transform, np.stack([columns.ravel(), rows.ravel()], 1).astype(float))).astype(
        int
    )
    ok = ((place >= 0) & (place < SIZE)).all(1)
    border = np.zeros(len(place), bool)
    border[ok] = (mask[place[ok, 1], place[ok, 0]] > 0.02) & (mask[place[ok, 1], place[ok, 0]] < 0.98)
    border = border.reshape(frame.shape[:2])
    assert gradient(result)[border].mean() <= 1.03 * gradient(frame)[border].mean()


def test_a_changed_mouth_arrives_sharp_and_in_place():
    frame, marks, transform, _, mask = scene(60, noise=0)
    closed = face_landmarks((180, 105), 60, 0.0, 0.1)
    target = draw_face(300, 360, closed)
    result = paste(frame, warp_crop(target, transform, SIZE), transform, mask)
    box = np.round(np.r_[marks[48:60].min(0), marks[48:60].max(0)]).astype(int)
    part = np.s_[box[1] : box[3], box[0] : box[2]]
    before = np.abs(frame[part].astype(int) - target[part]).mean()
    assert np.abs(result[part].astype(int) - target[part]).mean() < 0.35 * before


def test_a_face_partly_outside_the_picture():
    frame, _, transform, _, mask = scene(40)
    transform = transform.copy()
    for shift in (45, 70, 300):
        transform[:, 2] += shift
        assert paste(frame, np.zeros((SIZE, SIZE, 3), np.uint8), transform, mask).shape == frame.shape


def bumpy(crop: np.ndarray) -> np.ndarray:
    """A crop as a soft model gives it: without texture, and of another shape, so that it agrees nowhere."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    bumps = 25 * np.sin(rows / 5)[..., None] * np.sin(columns / 5)[..., None]
    return np.clip(cv2.GaussianBlur(crop.astype(np.float32), (0, 0), 3) + bumps, 0, 255).astype(np.uint8)


def texture(picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Deviation of the two finest bands in some pixels."""
    blurred = [picture.astype(np.float32) @ grain.LUMA]
    blurred += [cv2.GaussianBlur(blurred[0], (0, 0), sigma) for sigma in (1, 2)]
    return np.array([np.median(np.abs((a - b)[where])) / 0.6745 for a, b in zip(blurred, blurred[1:], strict=False)])


def skin(frame: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Pixels of the lower face beside and below the mouth, where nothing is drawn."""
    rows, columns = np.mgrid[: frame.shape[0], : frame.shape[1]]
    u, v = transform_points(transform, np.stack([columns.ravel(), rows.ravel()], 1).astype(float)).T / SIZE
    beside = (np.abs(np.abs(u - 0.5) - 0.22) < 0.04) & (np.abs(v - 0.65) < 0.06)
    return beside.reshape(frame.shape[:2])


@pytest.mark.parametrize("noise", [3, 6])
def test_a_patch_smoother_than_the_skin_gets_its_grain(monkeypatch, noise):
    frame, _, transform, _, mask = scene(110, noise=noise)
    crop, where = bumpy(warp_crop(frame, transform, SIZE)), skin(frame, transform)
    wanted = texture(frame, where)
    np.testing.assert_allclose(texture(paste(frame, crop, transform, mask), where) / wanted, 1, atol=0.15)
    monkeypatch.setattr(grain, "SEEN", np.inf)
    assert (texture(paste(frame, crop, transform, mask), where) / wanted < 0.5).all()


@pytest.mark.parametrize("frames_noise", [0, 5])
def test_no_grain_comes_where_none_is_missing(monkeypatch, frames_noise):
    frame, _, transform, _, mask = scene(30, noise=frames_noise)
    crop = bumpy(warp_crop(frame, transform, SIZE)) + np.random.default_rng(1).normal(0, 30, (SIZE, SIZE, 3))
    crop = np.clip(crop, 0, 255).astype(np.uint8) if frames_noise else bumpy(warp_crop(frame, transform, SIZE))
    result = paste(frame, crop, transform, mask)
    monkeypatch.setattr(grain, "SEEN", np.inf)
    np.testing.assert_array_equal(paste(frame, crop, transform, mask), result)


def test_grain_goes_along_with_the_face_and_has_no_seams(monkeypatch):
    frame, _, transform, _, mask = scene(110, noise=5)
    crop = bumpy(warp_crop(frame, transform, SIZE))
    whole = paste(frame, crop, transform, mask)
    moved = transform.copy()
    moved[:, 2] -= moved[:, :2] @ [24, -16]
    there = paste(np.roll(frame, (-16, 24), (0, 1)), crop, moved, mask)
    # but for rounding: positions are known to 1/32 pixel
    assert np.abs(np.roll(there, (16, -24), (0, 1)).astype(int) - whole)[20:-20, 30:-30].max() <= 3
    monkeypatch.setattr("lipformer_core.data.media.tone.STRIP", 9_000)
    assert np.abs(paste(frame, crop, transform, mask).astype(int) - whole).max() <= 3


def laplacian(frame: np.ndarray, other: np.ndarray, alpha: np.ndarray, levels: int = 4) -> np.ndarray:
    """Blend by Laplacian pyramids (Burt and Adelson 1983): each band with the mask as blurred as the band is coarse."""
    pyramids = [[picture.astype(np.float32)] for picture in (frame, other, alpha)]
    for pyramid in pyramids:
        for _ in range(levels):
            pyramid.append(cv2.pyrDown(pyramid[-1]))
    own, new, weight = pyramids
    result = own[-1] + weight[-1][..., None] * (new[-1] - own[-1])
    for k in range(levels - 1, -1, -1):
        size = own[k].shape[1::-1]
        fine = [level[k] - cv2.pyrUp(level[k + 1], dstsize=size) for level in (own, new)]
        result = cv2.pyrUp(result, dstsize=size) + fine[0] + weight[k][..., None] * (fine[1] - fine[0])
    return np.clip(np.rint(np.where(alpha[..., None] > 0, result, frame)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", ["ed_obama", "mead_M003_happy_024", "grid_lbax4n"])
def test_filmed_faces_at_256_have_no_seam_and_a_pyramid_does_no_better(clips_folder, name):
    """Upper half of one frame and mouth of another, through the pre-learned codebook; `-s` prints the figures."""
    from lipformer_core.data.faces import open_tracker

    size, codebook = 256, load_codebook()
    frames = [picture for _, (_, picture) in zip(range(30), iter_frames(clips_folder / f"{name}.mp4"), strict=False)]
    track = track_faces(iter(frames), open_tracker())
    transforms = crop_transforms(track.landmarks, track.valid, size)
    order = np.argsort(mouth_opening(track.landmarks))
    seams, tried = [], []
    for one, other in ((order[0], order[-1]), (order[-1], order[0])):
        frame, transform = frames[one], transforms[one]
        inside = transform_points(transform, track.landmarks[one])
        mask = lower_face_mask(size, inside, inside[6:11, 1].max())
        original = warp_crop(frame, transform, size)
        mixed = np.concatenate([original[:128], warp_crop(frames[other], transforms[other], size)[128:]])
        with torch.inference_mode():
            image = torch.from_numpy(mixed).permute(2, 0, 1)[None] / 127.5 - 1
            made = (codebook(image)["reconstruction"][0].permute(1, 2, 0).numpy() + 1) * 127.5
        crop = np.clip(np.rint(made), 0, 255).astype(np.uint8)
        result, back, shape = paste(frame, crop, transform, mask, original), invert(transform), frame.shape[1::-1]
        alpha = cv2.warpAffine(mask, back, shape, flags=cv2.INTER_LINEAR)
        plain = cv2.warpAffine(match_colours(crop, original, mask), back, shape, flags=cv2.INTER_CUBIC)
        np.testing.assert_array_equal(result[alpha == 0], frame[alpha == 0])
        border = (alpha > 0.02) & (alpha < 0.98)
        steps = [gradient(p)[border].mean() for p in (result, laplacian(frame, plain, alpha), frame)]
        seams.append(steps[0] / steps[2])
        tried.append(steps[1] / steps[2])
    print(f"{name}: step along the border over the frame's: {np.round(seams, 2)}, by pyramids {np.round(tried, 2)}")
    assert max(seams) < 1.1 and np.abs(np.log(seams)).mean() < np.abs(np.log(tried)).mean()
