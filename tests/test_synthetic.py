"""The embedded corpus: determinism, ground truth that agrees with the pixels and the sound, and its price."""

import time

import numpy as np
import pytest

from lipformer_core.data.faces.alignment import mouth_shape
from lipformer_core.data.synthetic import correspondence, synthesise_clip
from lipformer_core.timing import SAMPLES_PER_FRAME

SEED = 7


@pytest.fixture(scope="module")
def clip():
    return synthesise_clip(SEED, 0, 0, 50, 128)


def test_shapes_and_types(clip):
    assert clip.frames.shape == (50, 128, 128, 3) and clip.frames.dtype == np.uint8
    assert clip.audio.shape == (50 * SAMPLES_PER_FRAME,) and clip.audio.dtype == np.float32
    assert clip.landmarks.shape == (50, 68, 2) and clip.pose.shape == (50, 3)
    assert np.abs(clip.audio).max() < 1
    ends = [end for _, _, end in clip.phonemes]
    starts = [start for _, start, _ in clip.phonemes]
    assert starts[0] == 0 and ends[-1] == pytest.approx(2.0) and starts[1:] == ends[:-1]


def test_equal_seeds_give_equal_bytes_and_people_differ(clip):
    again = synthesise_clip(SEED, 0, 0, 50, 128)
    assert again.frames.tobytes() == clip.frames.tobytes() and again.audio.tobytes() == clip.audio.tobytes()
    assert again.landmarks.tobytes() == clip.landmarks.tobytes()
    other, seeded = synthesise_clip(SEED, 1, 0, 4, 64), synthesise_clip(SEED + 1, 0, 0, 4, 64)
    small = synthesise_clip(SEED, 0, 0, 4, 64)
    for different in (other, seeded):
        assert np.abs(different.frames.astype(int) - small.frames).mean() > 8
        assert not np.array_equal(different.audio, small.audio)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="speech"):
        synthesise_clip(0, 0, speech="song")
    with pytest.raises(ValueError, match="n_frames"):
        synthesise_clip(0, 0, n_frames=0)


def test_ground_truth_agrees_with_the_landmarks(clip):
    opening, width = mouth_shape(clip.landmarks)
    assert np.allclose(opening, clip.opening, atol=1e-5) and np.allclose(width, clip.width, atol=1e-5)
    eyes = np.linalg.norm(clip.landmarks[:, 36:42].mean(1) - clip.landmarks[:, 42:48].mean(1), axis=-1) / 128
    frontal = np.abs(clip.pose[:, 0]) < 12
    assert ((eyes[frontal] > 0.22) & (eyes[frontal] < 0.32)).all()
    inside = (clip.landmarks > -8) & (clip.landmarks < 136)
    assert inside.mean() > 0.98


def test_yaw_moves_the_nose_the_way_it_says():
    clips = [synthesise_clip(SEED, person, 0, 50, 32) for person in range(4)]
    for c in clips:
        eyes = c.landmarks[:, 36:48].mean(1)
        across = c.landmarks[:, 42:48].mean(1) - c.landmarks[:, 36:42].mean(1)
        nose = ((c.landmarks[:, 30] - eyes) * across).sum(-1) / (across**2).sum(-1)
        assert np.corrcoef(nose, c.pose[:, 0])[0, 1] > 0.95
        roll = np.degrees(np.arctan2(across[:, 1], across[:, 0]))
        assert np.corrcoef(roll, c.pose[:, 2])[0, 1] > 0.7
    spread = [np.ptp(c.pose[:, 0]) for c in clips]
    assert np.median(spread) > 15 and max(np.abs(c.pose[:, 0]).max() for c in clips) <= 30


def test_an_open_mouth_shows_in_the_pixels():
    changes = []
    for person in range(6):
        c = synthesise_clip(SEED, person, 0, 50, 96)
        means, openings = [], []
        for frame, points, opening in zip(c.frames, c.landmarks, c.opening, strict=True):
            x, y = np.round(points[60:68].mean(0)).astype(int)
            if not (3 <= x < 92 and 3 <= y < 92):
                continue
            means.append(frame[y - 1 : y + 2, x - 1 : x + 2].mean((0, 1)))
            openings.append(opening)
        means, openings = np.array(means), np.array(openings)
        shut, wide = openings < 0.02, openings > 0.15
        if shut.sum() > 2 and wide.sum() > 2:
            changes.append(np.abs(means[wide].mean(0) - means[shut].mean(0)).max())
    assert len(changes) >= 3 and np.median(changes) > 20


def test_bilabials_close_and_silence_is_still(clip):
    openings = []
    for person in range(6):
        c = synthesise_clip(SEED, person, 0, 50, 32)
        for symbol, start, end in c.phonemes:
            frames = [k for k in range(50) if start + 0.01 <= k / 25 <= end - 0.01]
            if symbol in ("m", "b", "p"):
                openings += [c.opening[k] for k in frames]
    assert len(openings) > 5 and max(openings) < 0.03
    quiet = synthesise_clip(SEED, 0, 0, 50, 32, speech="silence")
    assert quiet.opening.max() < 0.01 and np.sqrt(np.mean(quiet.audio**2)) < 0.01
    assert clip.opening.max() > 0.15


def test_sound_determines_the_mouth():
    loud, opening, still = [], [], []
    for person in range(8):
        c = synthesise_clip(SEED, person, 0, 50, 32)
        energy = np.sqrt((c.audio.reshape(50, -1) ** 2).mean(1))
        loud.append(energy / energy.max())
        opening.append(c.opening)
        for symbol, start, end in c.phonemes:
            frames = [k for k in range(50) if start + 0.05 < k / 25 < end - 0.05]
            still += [(c.opening[k], energy[k]) for k in frames if symbol == "sil"]
    assert np.corrcoef(np.concatenate(loud), np.concatenate(opening))[0, 1] > 0.25
    if still:
        assert max(o for o, _ in still) < 0.02 and max(e for _, e in still) < 0.02


def test_unrelated_clips_do_not_share_their_timing():
    openings = [synthesise_clip(SEED, person, clip, 75, 16).opening for person in range(6) for clip in range(2)]
    table = np.corrcoef(openings)[np.triu_indices(len(openings), 1)]
    assert abs(table.mean()) < 0.1


def test_correspondence_is_the_identity_for_one_frame():
    flow, visible = correspondence(SEED, 0, 0, 10, 96, 3, 3)
    v, u = np.mgrid[0:96, 0:96]
    assert visible.mean() > 0.95
    assert np.abs(flow - np.stack([u, v], -1)).max() < 1e-2


def test_correspondence_carries_landmarks_and_colours():
    size, n = 128, 50
    c = synthesise_clip(SEED, 2, 0, n, size)
    a = int(np.argmin(c.pose[:, 0]))
    b = int(np.argmin(np.abs(c.pose[:, 0] - c.pose[a, 0] - 12)))
    flow, visible = correspondence(SEED, 2, 0, n, size, a, b)
    errors = []
    for i in [*range(17, 36), 48, 54]:
        x, y = np.round(c.landmarks[a, i]).astype(int)
        if 0 <= x < size and 0 <= y < size and visible[y, x]:
            moved = flow[y, x] + (c.landmarks[a, i] - (x, y))
            errors.append(np.linalg.norm(moved - c.landmarks[b, i]))
    assert len(errors) > 10 and np.median(errors) < 0.6
    x, y = np.round(flow[..., 0]).astype(int).clip(0, size - 1), np.round(flow[..., 1]).astype(int).clip(0, size - 1)
    moved = np.any(flow != np.stack(np.mgrid[0:size, 0:size][::-1], -1), -1) & visible
    warped = np.abs(c.frames[b][y, x].astype(int) - c.frames[a])[moved].mean()
    unwarped = np.abs(c.frames[b].astype(int) - c.frames[a])[moved].mean()
    assert warped < 0.6 * unwarped


def test_speed_is_printed():
    synthesise_clip(SEED, 3, 0, 2, 128)
    start = time.process_time()
    synthesise_clip(SEED, 4, 0, 50, 128)
    per_frame = (time.process_time() - start) / 50 * 1000
    print(f"synthetic corpus: {per_frame:.1f} ms a frame at 128, sound and person included")
    assert per_frame < 60  # generous: machines differ, a regression by an order of magnitude does not
