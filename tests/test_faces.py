"""Faces and alignment: geometry, crops, pose, and what the landmark networks' files are."""

import gc
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from material import face_clip, face_landmarks

from lipformer_core import weights
from lipformer_core.data.faces import MEDIAPIPE_68, open_tracker, pose_from_landmarks
from lipformer_core.data.faces.alignment import (
    EYE_DISTANCE,
    EYE_LINE,
    STILL_POINTS,
    crop_transforms,
    fit_similarity,
    invert,
    mouth_opening,
    transform_points,
    warp_crop,
)
from lipformer_core.data.faces.landmarks import AT_ONCE
from lipformer_core.data.faces.tracking import track_faces
from lipformer_core.errors import NoFaceFound, WeightsCorrupt, WeightsMissing

CLIPS, WEIGHTS = os.environ.get("LIPFORMER_CLIPS"), os.environ.get("LIPFORMER_WEIGHTS")
real = pytest.mark.skipif(not (CLIPS and WEIGHTS), reason="LIPFORMER_CLIPS and LIPFORMER_WEIGHTS name no real material")


def test_eyes_come_to_their_place_whatever_the_frame():
    for centre, distance, angle in [((60, 50), 30, 0.0), ((300, 120), 90, 0.4), ((20, 30), 11, -0.7)]:
        marks = face_landmarks(centre, distance, angle=angle)[None]
        transform = crop_transforms(marks, np.ones(1, bool), 96)
        points = transform_points(transform, marks)[0]
        left, right = points[36:42].mean(0), points[42:48].mean(0)
        np.testing.assert_allclose(right - left, [EYE_DISTANCE * 96, 0], atol=0.05)
        np.testing.assert_allclose((left + right) / 2 + 0.5, [48, EYE_LINE * 96], atol=0.05)
        assert points[48:68, 1].min() > 48 and points[:17, 1].max() < 96


def test_mouth_and_jaw_do_not_move_the_crop():
    still = face_landmarks((60, 50), 30, opening=0.0)
    moved = still.copy()
    moved[:17] += [3, 9]
    moved[48:] += [1, 7]
    one = np.ones(1, bool)
    np.testing.assert_array_equal(crop_transforms(still[None], one, 96), crop_transforms(moved[None], one, 96))
    assert not set(STILL_POINTS) & {*range(17), *range(48, 68)}


def test_similarity_agrees_with_an_independent_implementation():
    from skimage.transform import SimilarityTransform

    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(5, 21, 2)) * 40, rng.normal(size=(21, 2)) * 10
    for fitted, points in zip(fit_similarity(source, target), source, strict=True):
        other = SimilarityTransform.from_estimate(points, target)
        np.testing.assert_allclose(fitted, other.params[:2], atol=1e-9)


def test_smoothing_takes_jitter_out_and_leaves_steady_motion():
    n = 60
    marks = np.stack([face_landmarks((50 + k, 60 + 0.5 * k), 30 * 1.003**k, angle=0.005 * k) for k in range(n)])
    valid = np.ones(n, bool)
    steady = transform_points(crop_transforms(marks, valid, 96), marks)
    assert np.abs(steady - steady[0]).max() < 0.15  # no lag, not even at the ends
    rng = np.random.default_rng(0)
    shaken = marks + rng.normal(0, 1, (n, 1, 2)).astype(np.float32)

    def jitter(sigma):
        place = crop_transforms(shaken, valid, 96, sigma) @ np.array([60.0, 60.0, 1.0])
        return np.abs(np.diff(place, n=2, axis=0)).mean()

    assert jitter(1.5) < 0.25 * jitter(0)


def test_runs_are_smoothed_apart_and_invalid_frames_repeat_a_neighbour():
    marks = np.stack([face_landmarks((50, 50), 30)] * 10 + [face_landmarks((90, 70), 20)] * 10)
    valid = np.ones(20, bool)
    valid[9:11] = False
    marks[~valid] = np.nan
    transforms = crop_transforms(marks, valid, 96)
    alone = crop_transforms(marks[:9], valid[:9], 96)
    np.testing.assert_allclose(transforms[:9], alone)
    np.testing.assert_array_equal(transforms[9], transforms[8])
    np.testing.assert_array_equal(transforms[10], transforms[11])
    with pytest.raises(NoFaceFound):
        crop_transforms(marks, np.zeros(20, bool), 96)


def test_shrinking_does_not_alias():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255  # the finest pattern: its mean is all that a small crop can show
    for factor in (1.4, 2.0, 2.7, 5.3):
        transform = np.array([[1 / factor, 0, 3.3], [0, 1 / factor, 1.7]])
        crop = warp_crop(stripes, transform, 60)
        assert crop[10:50, 10:50].std() < 30, factor
        assert abs(crop[10:50, 10:50].mean() - 127.5) < 3


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.5, 2.0, 3.7])
def test_a_crop_lies_where_its_transform_says(factor):
    rows, columns = np.mgrid[:200, :240]
    picture = np.dstack([columns, rows, 0 * rows]).astype(np.float32)  # each pixel tells its own place
    angle = 0.3
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / factor
    transform = np.column_stack([linear, [24, 24] - linear @ [120, 100]])
    crop = warp_crop(picture, transform, 48)
    grid = np.stack(np.meshgrid(np.arange(8, 40), np.arange(8, 40)), -1).reshape(-1, 2)
    inside = transform_points(invert(transform), grid)
    keep = ((inside > 4) & (inside < [235, 195])).all(1)
    assert keep.sum() > 200
    error = crop[grid[keep, 1], grid[keep, 0], :2] - inside[keep]
    assert np.abs(error).max() < 0.1 and np.abs(error.mean(0)).max() < 0.1


def test_crops_of_a_clip():
    frames, marks = face_clip(5)
    transforms = crop_transforms(marks, np.ones(5, bool), 64)
    crop = warp_crop(frames[0], transforms[0], 64)
    assert crop.shape == (64, 64, 3) and crop.dtype == np.uint8
    np.testing.assert_allclose(invert(invert(transforms)), transforms)


def test_opening_is_the_gap_over_the_eye_distance():
    for opening in (0.0, 0.1, 0.3):
        assert mouth_opening(face_landmarks((50, 50), 40, opening)) == pytest.approx(opening * 0.9, abs=0.12 * opening)


@pytest.mark.parametrize("roll", [-30, 0, 20])
def test_roll_from_landmarks(roll):
    pose = pose_from_landmarks(face_landmarks((50, 50), 40, angle=np.radians(roll)))
    np.testing.assert_allclose(pose, [0, 0, roll], atol=2)


def test_missing_files_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("LIPFORMER_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(weights, "carried", lambda carrier: None)
    with pytest.raises(WeightsMissing, match=r"face_landmarker\.task.*2DFAN4-11f355bf06\.pth\.tar"):
        open_tracker()
    with pytest.raises(WeightsMissing, match="2DFAN4-11f355bf06"):
        open_tracker("face_alignment")
    (tmp_path / "face_landmarker.task").write_bytes(b"something else")
    with pytest.raises(WeightsCorrupt, match=r"face_landmarker\.task"):
        open_tracker("mediapipe")
    states = {row["name"]: row["state"] for row in weights.status()}
    assert states["face_landmarker.task"] == "corrupt" and states["2DFAN4-11f355bf06.pth.tar"] == "missing"
    with pytest.raises(ValueError, match="backend"):
        open_tracker("magic")


def test_landmark_map_is_mirror_symmetric_in_size():
    assert len(MEDIAPIPE_68) == 68 and len(set(MEDIAPIPE_68)) == 68 and MEDIAPIPE_68.max() < 478


@real
def test_fan_is_loaded_from_a_file_of_random_weights(tmp_path, monkeypatch):
    """Its published weights cannot be had here: what can be proven is that a file of their form is loaded and runs."""
    import hashlib
    from dataclasses import replace

    import torch
    from face_alignment.models import FAN

    from lipformer_core.data.media import iter_frames

    torch.manual_seed(0)
    for file in Path(WEIGHTS).iterdir():
        (tmp_path / file.name).symlink_to(file)
    torch.save(FAN(4).state_dict(), tmp_path / "2DFAN4-11f355bf06.pth.tar")
    digest = hashlib.sha256((tmp_path / "2DFAN4-11f355bf06.pth.tar").read_bytes()).hexdigest()
    name = "2DFAN4-11f355bf06.pth.tar"
    monkeypatch.setitem(weights.KNOWN, name, replace(weights.KNOWN[name], sha256=digest))
    monkeypatch.setenv("LIPFORMER_WEIGHTS", str(tmp_path))
    tracker = open_tracker("face_alignment")
    blank = np.zeros((128, 128, 3), np.uint8)
    assert tracker.detect(blank) == [] and tracker.detect_batch([blank] * 3) == [[], [], []]
    picture = next(picture for _, picture in iter_frames(Path(CLIPS) / "vox_00086.mp4"))
    blank = np.zeros_like(picture)
    alone, together = tracker.detect(picture), tracker.detect_batch([blank, picture])
    assert together[0] == [] and len(together[1]) == len(alone) == 1
    np.testing.assert_allclose(together[1][0][0], alone[0][0], atol=1e-3)


@real
def test_real_faces_lie_in_the_crop_and_blank_frames_do_not_count():
    from lipformer_core.data.media import iter_frames

    tracker = open_tracker("mediapipe")
    clip = sorted(Path(CLIPS).glob("grid_*.mp4"))[0]
    frames = [picture for _, picture in zip(range(40), (p for _, p in iter_frames(clip)), strict=False)]
    frames[:12] = [np.full_like(frames[0], 127)] * 12
    found = track_faces(iter(frames), tracker)
    assert found.valid.tolist() == [False] * 12 + [True] * 28
    transforms = crop_transforms(found.landmarks, found.valid, 96)
    points = transform_points(transforms, found.landmarks)[found.valid]
    assert points[:, 48:68, 1].min() > 48 and points[:, 8, 1].max() < 93
    assert np.abs(found.pose[found.valid]).max() < 20
    assert 0 <= mouth_opening(found.landmarks[found.valid]).min() < 0.08


@real
def test_pose_signs_on_a_mirrored_face():
    from lipformer_core.data.media import iter_frames

    tracker = open_tracker("mediapipe")
    clip = Path(CLIPS) / "vox_00086.mp4"
    frame = next(iter_frames(clip))[1]
    ((_, pose),), ((_, mirrored),) = tracker.detect(frame), tracker.detect(np.ascontiguousarray(frame[:, ::-1]))
    np.testing.assert_allclose(pose * [-1, 1, -1], mirrored, atol=4)
    assert abs(pose[0]) > 10


def test_several_threads_find_what_one_finds():
    astronaut = pytest.importorskip("skimage.data").astronaut()
    pictures = [astronaut, np.full_like(astronaut, 127), astronaut[:, ::-1], astronaut[40:400, 40:400], astronaut]
    alone, together = open_tracker("mediapipe"), open_tracker("mediapipe", threads=2)
    assert (alone.batch, together.batch) == (1, 2 * AT_ONCE)
    expected, found = [alone.detect(picture) for picture in pictures], together.detect_batch(pictures)
    assert [len(faces) for faces in found] == [1, 0, 1, 1, 1] == [len(faces) for faces in expected]
    for ours, theirs in zip(found, expected, strict=True):
        for (points, pose), (wanted, turned) in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(points, wanted)
            np.testing.assert_array_equal(pose, turned)
    # and so does a track through a video of them
    tracks = [track_faces(iter(pictures[:1] * 19), tracker) for tracker in (alone, together)]
    np.testing.assert_array_equal(tracks[0].landmarks, tracks[1].landmarks)


def test_one_that_is_collected_while_another_is_asked_stops_nobody(monkeypatch):
    """MediaPipe asks a thread for all it does, closing too: whoever closed while it asks would wait for ever."""
    tracker, other = open_tracker("mediapipe"), open_tracker("mediapipe")
    (network,) = other._landmarkers
    other.itself = other  # none but the collector frees it
    del other
    ask = Future.__init__
    monkeypatch.setattr(Future, "__init__", lambda self: (gc.collect(), ask(self))[1])
    assert tracker.detect(np.full((64, 64, 3), 127, np.uint8)) == []
    assert open_tracker("mediapipe")._landmarkers == [network], "and what it had is used again"


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no forks here")
def test_a_fork_opens_a_network_of_its_own():
    """What its parent left free has lost its thread, and would be waited for without end."""
    code = """
import multiprocessing, numpy as np
from lipformer_core.data.faces import landmarks, open_tracker

def look(found):
    found.put(len(open_tracker("mediapipe").detect(np.zeros((64, 64, 3), np.uint8))))

first = open_tracker("mediapipe")
open_tracker("mediapipe").detect(np.zeros((64, 64, 3), np.uint8))
assert [len(free) for free in landmarks._free.values()] == [1]
fork = multiprocessing.get_context("fork")
found = fork.Queue()
child = fork.Process(target=look, args=(found,), daemon=True)
child.start()
print(found.get(timeout=60))
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert child.stdout.strip() == "0", child.stderr[-2000:]
