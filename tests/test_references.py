"""Who lends the mouth's texture to whom: one rule for dubbing and evaluation, and a reference of each shot's own."""

from types import SimpleNamespace

import numpy as np
import pytest
from material import FakeConfig, FakeModel, face_clip, tone, write_video, write_wav

from lipformer_core import dubbing
from lipformer_core.data.alignment import crop_transforms, mouth_opening, warp_crops
from lipformer_core.data.references import FEWEST_CONTRAST, LOOKED_AT, references
from lipformer_core.data.tracking import FaceTrack, appearances
from lipformer_core.evaluation.cases import choose_reference


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
        return report, np.stack([picture for _, picture in dubbing.iter_frames(tmp_path / "out.mp4")])

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
    track = FaceTrack(marks, np.zeros((60, 3)), valid, none)
    assert not appearances(track).any()  # in the same place: the head was turned away
    marks[50:] += 200
    assert np.flatnonzero(np.diff(appearances(track))).tolist() == [49]
    shot = np.repeat([0, 1, 2], [20, 15, 25])
    track = FaceTrack(marks, np.zeros((60, 3)), valid, none, shot)
    assert np.flatnonzero(np.diff(appearances(track))).tolist() == [19, 49]


def test_dubbing_and_evaluation_choose_the_same_reference(dub):
    frames, marks = face_clip(40)
    pose = np.random.default_rng(0).normal(0, 8, (40, 3)).astype(np.float32)
    crops = warp_crops(frames, crop_transforms(marks, np.ones(40, bool), FakeConfig.crop_size), FakeConfig.crop_size)
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

    assert dub(frames, marks, tracker=Turned(marks))[0].reference_frame == choose_reference(clip)


@pytest.mark.parametrize("fps", [25, 50])
def test_crops_are_smoothed_as_the_model_was_trained(dub, monkeypatch, fps):
    given, model = [], FakeModel()
    model.config = SimpleNamespace(**{**vars(FakeConfig), "transform_sigma": 0.4})
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
    one = dict(opening=np.arange(n) / n, pose=np.zeros((n, 3)), usable=np.ones(n, bool))
    ((borrowers, lender, crop),) = references(**one, picture=lambda i: picture(i, contrast))
    assert lender == 7 and crop.std() == 3 and len(borrowers) == n and len(looked) == LOOKED_AT
    contrast[[20, 300]] = 2 * FEWEST_CONTRAST
    ((_, lender, _),) = references(**one, picture=lambda i: picture(i, contrast))
    assert lender == 20
    one["usable"][:25] = False
    parts = np.repeat([0, 1, 2], [25, 275, 100])  # nothing in the first one may lend
    found = list(references(**one, picture=lambda i: picture(i, np.full(n, 50)), part=parts))
    assert [(b[0], b[-1], lender) for b, lender, _ in found] == [(25, 299, 25), (300, 399, 300)]
