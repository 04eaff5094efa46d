"""Who lends the mouth's texture to whom: one rule for dubbing and evaluation, and a reference of each shot's own."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from material import FAKE_CONFIG, FakeModel, face_clip, tone, write_video, write_wav

from lipformer_core.data.faces.alignment import crop_transforms, mouth_opening, warp_crop
from lipformer_core.data.faces.tracking import FaceTrack, appearances
from lipformer_core.data.media import iter_frames
from lipformer_core.data.prepared.references import (
    APART,
    FEWEST_CONTRAST,
    LENDERS,
    LOOKED_AT,
    NEAREST,
    draw_nearest,
    draw_reference,
    references,
)
from lipformer_core.dubbing import dub as dubbing
from lipformer_core.evaluation.cases import Puppet


class Seen:
    """A tracker that knows the landmarks of each picture in turn."""

    def __init__(self, marks):
        self.marks = iter(marks)

    def detect(self, rgb):
        return [(next(self.marks), np.zeros(3, np.float32))]


@pytest.fixture
def dub(tmp_path):
    """Dubs pictures with their landmarks: (report, pictures of the result)."""

    def run(frames, marks, model=None, fps=25, seconds=None, **options):
        video = write_video(tmp_path / "video.mp4", frames, fps)
        audio = write_wav(tmp_path / "audio.wav", tone(seconds or len(frames) / fps))
        given = {"tracker": Seen(marks), "progress": False, **options}
        report = dubbing.dub(model or FakeModel(), video, audio, tmp_path / "out.mp4", **given)
        return report, np.stack([picture for _, picture in iter_frames(tmp_path / "out.mp4")])

    return run


def test_after_a_cut_the_other_person_keeps_a_face_of_their_own(dub):
    """The fake model gives the reference's lower face back, so whose it is can be seen."""
    frames, marks = face_clip(40)
    frames[20:] = 255 - frames[20:]  # another skin before another background
    report, shown = dub(frames, marks)
    chin = marks[:, 7:10].mean(1).round().astype(int) - [0, 8]
    colours = np.array([[p[y, x] for p in (frames[k], shown[k])] for k, (x, y) in enumerate(chin)], int)
    assert np.abs(colours[:, 0] - colours[:, 1]).max(1).max() < 30
    assert [(r["first"], r["last"]) for r in report.references] == [(0, 19), (20, 39)]
    lenders = [r["reference_frame"] for r in report.references]
    assert lenders[0] < 20 <= lenders[1] and report.reference_frame == lenders[0]


def test_one_shot_has_one_reference_encoded_once(dub):
    model = FakeModel()
    report, _ = dub(*face_clip(20), model, seconds=2.0)
    assert model.references == 1
    assert report.references == [{"first": 0, "last": 19, "reference_frame": report.reference_frame}]


def test_shots_that_are_not_shown_lend_nothing_and_are_not_looked_at(dub):
    frames, marks = face_clip(40)
    frames[20:] = 255 - frames[20:]
    model = FakeModel()
    report, _ = dub(frames, marks, model, seconds=0.4)
    assert model.references == len(report.references) == 1


def test_whoever_comes_back_in_another_place_is_another_person():
    marks = np.tile(face_clip(1)[1], (60, 1, 1))
    valid = np.ones(60, bool)
    valid[:2] = valid[10:15] = valid[30:50] = False
    none = np.zeros(60, bool)
    track = FaceTrack(marks, np.zeros((60, 3)), valid, none, none, none)
    assert not appearances(track).any()  # in the same place: the head was turned away
    marks[50:] += 200
    assert np.flatnonzero(np.diff(appearances(track))).tolist() == [49]
    shot = np.repeat([0, 1, 2], [20, 15, 25])
    track = FaceTrack(marks, np.zeros((60, 3)), valid, none, shot, none)
    assert np.flatnonzero(np.diff(appearances(track))).tolist() == [19, 49]


def test_dubbing_and_evaluation_choose_the_same_reference(dub):
    frames, marks = face_clip(40)
    size = FAKE_CONFIG.data.size
    pose = np.random.default_rng(0).normal(0, 8, (40, 3)).astype(np.float32)
    moves = crop_transforms(marks, np.ones(40, bool), size)
    crops = np.stack([warp_crop(frame, move, size) for frame, move in zip(frames, moves, strict=True)])
    clip = SimpleNamespace(
        opening=mouth_opening(marks),
        pose=pose,
        valid=np.ones(40, bool),
        frames=lambda indices: crops[indices],
        info=SimpleNamespace(clip_id="c"),
    )

    turns = iter(pose)

    class Turned(Seen):
        def detect(self, rgb):
            return [(next(self.marks), next(turns))]

    assert dub(frames, marks, tracker=Turned(marks))[0].reference_frame == next(
        iter(Puppet(FakeModel(), clip, torch.device("cpu")).lent)
    )


@pytest.mark.parametrize("fps", [25, 50])
def test_crops_are_smoothed_as_the_model_was_trained(dub, monkeypatch, fps):
    given, model = [], FakeModel()
    monkeypatch.setattr(dubbing, "TRANSFORM_SIGMA", 0.4)
    real = dubbing.crop_transforms
    monkeypatch.setattr(dubbing, "crop_transforms", lambda *args: given.append(args[3]) or real(*args))
    dub(*face_clip(10), model, fps=fps)
    assert given == [pytest.approx(0.4 * fps / 25)]


def test_few_pictures_are_looked_at_and_a_faded_one_lends_only_where_all_are():
    looked = []

    def picture(index, contrast):
        looked.append(index)
        return (128 + contrast[index] * np.resize([-1, 1], (4, 4, 3))).astype(np.uint8)

    n, contrast = 400, np.ones(400)
    contrast[7] = 3
    one = dict(opening=np.zeros(n), pose=np.zeros((n, 3)), usable=np.ones(n, bool))
    ((borrowers, lender, crop),) = references(**one, picture=lambda i: picture(i, contrast))
    assert lender == 7 and crop.std() == 3 and len(borrowers) == n and len(looked) == LOOKED_AT
    contrast[[20, 300]] = 2 * FEWEST_CONTRAST
    ((_, lender, _),) = references(**one, picture=lambda i: picture(i, contrast))
    assert lender == 20
    one["usable"][:25] = False
    parts = np.repeat([0, 1, 2], [25, 275, 100])  # nothing in the first one may lend
    found = list(references(**one, picture=lambda i: picture(i, np.full(n, 50)), part=parts))
    assert [(b[0], b[-1], lender) for b, lender, _ in found] == [(25, 299, 25), (300, 399, 300)]


def test_references_are_of_another_time_pose_or_mouth():
    rng = np.random.default_rng(0)
    n = 200
    yaw, opening, valid = rng.normal(0, 10, n), rng.random(n), np.ones(n, bool)
    valid[50:60] = False
    draws = np.array([draw_reference(rng, yaw, valid, 100, opening) for _ in range(4000)])
    assert np.abs(draws - 100).min() > NEAREST and valid[draws].all()
    uniform = np.flatnonzero(valid & (np.abs(np.arange(n) - 100) > NEAREST))
    pose_gap = np.abs(yaw[draws] - yaw[100]).mean() / np.abs(yaw[uniform] - yaw[100]).mean()
    mouth_gap = np.abs(opening[draws] - opening[100]).mean() / np.abs(opening[uniform] - opening[100]).mean()
    assert pose_gap > 1.1 and mouth_gap > 1.1


def test_without_openings_the_rule_draws_what_training_has_always_drawn():
    """The numbers behind every trained result: a frame of four, in half of the draws the widest pose gap."""

    def before(rng, yaw, valid, target):
        candidates = np.flatnonzero(valid)
        far = candidates[np.abs(candidates - target) > 3]
        candidates = far if len(far) else candidates
        few = rng.choice(candidates, min(4, len(candidates)), replace=False)
        if rng.random() < 0.5:
            return int(few[0])
        return int(few[np.abs(yaw[few] - yaw[target]).argmax()])

    yaw = np.random.default_rng(1).normal(0, 10, 40)
    for seed in range(50):
        for valid in (np.ones(40, bool), np.arange(40) % 7 > 2, np.arange(40) < 3):
            pair = [f(np.random.default_rng(seed), yaw, valid, 1) for f in (before, draw_reference)]
            assert pair[0] == pair[1]


def turning_head(frames=200):
    """Opening, pose and crops of a head that turns from side to side twice while it speaks."""
    pose = np.zeros((frames, 3))
    pose[:, 0] = 20 * np.sin(np.linspace(0, 4 * np.pi, frames))
    opening = 0.1 + 0.1 * np.sin(np.arange(frames))
    crops = np.random.default_rng(0).integers(0, 256, (frames, 8, 8, 3), np.uint8)
    return opening, pose, crops


def test_the_nearest_policy_lends_in_the_pose_from_another_time():
    opening, pose, crops = turning_head()
    usable, lender = np.ones(len(pose), bool), np.full(len(pose), -1)
    for borrowers, index, crop in references(opening, pose, usable, crops.__getitem__, policy="nearest"):
        assert np.array_equal(crop, crops[index])
        lender[borrowers] = index
    assert (lender >= 0).all() and 2 < len(set(lender)) <= LENDERS
    assert np.abs(lender - np.arange(len(pose))).min() > APART
    gap = np.abs(pose[lender, 0] - pose[:, 0])
    (one,) = (index for _, index, _ in references(opening, pose, usable, crops.__getitem__))
    assert gap.mean() < 0.3 * np.abs(pose[one, 0] - pose[:, 0]).mean()
    assert (np.diff(lender) != 0).sum() < 40, "it flickers"
    assert np.median(opening[list(set(lender))]) < np.median(opening)


def test_a_still_head_needs_one_lender_and_a_faded_frame_is_none():
    opening, pose, crops = turning_head(60)
    pose[:], crops[::2] = 0, 128
    ((borrowers, index, crop),) = references(opening, pose, np.ones(60, bool), crops.__getitem__, policy="nearest")
    assert len(borrowers) == 60 and index % 2 and crop.std() > FEWEST_CONTRAST


def test_draws_of_the_nearest_policy_say_nothing_of_the_mouth():
    opening, pose, _ = turning_head()
    rng, valid = np.random.default_rng(0), np.ones(len(pose), bool)
    targets = rng.integers(0, len(pose), 3000)
    drawn = np.array([draw_nearest(rng, pose, valid, int(t)) for t in targets])
    assert np.abs(drawn - targets).min() > APART
    assert np.abs(pose[drawn, 0] - pose[targets, 0]).max() < 5
    assert abs(np.corrcoef(opening[drawn], opening[targets])[0, 1]) < 0.1
    few = np.arange(len(pose)) < 3
    assert draw_nearest(rng, pose, few, 1) in (0, 1, 2)
