"""Tracking: one face through a video, its gaps, cuts between shots."""

import os

import cv2
import numpy as np
import pytest
from material import draw_face, face_landmarks

from lipformer_core.data.faces.alignment import crop_transforms, valid_runs
from lipformer_core.data.faces.shots import CutDetector
from lipformer_core.data.faces.tracking import AGAIN, fill_gaps, load_track, track_faces
from lipformer_core.errors import DataError, NoFaceFound

CLIPS, WEIGHTS = os.environ.get("LIPFORMER_CLIPS"), os.environ.get("LIPFORMER_WEIGHTS")
real = pytest.mark.skipif(not (CLIPS and WEIGHTS), reason="LIPFORMER_CLIPS and LIPFORMER_WEIGHTS name no real material")


class ListTracker:
    """Finds the faces it is told, one list a frame."""

    def __init__(self, faces):
        self.faces = iter(faces)

    def detect(self, rgb):
        return [(points, np.zeros(3, np.float32)) for points in next(self.faces)]


def track(faces, **options):
    return track_faces((np.zeros((4, 4, 3), np.uint8) for _ in faces), ListTracker(faces), **options)


def test_two_people_are_not_swapped():
    small = [face_landmarks((40 + k, 50), 20) for k in range(20)]
    large = [face_landmarks((200 - k, 50), 30) for k in range(20)]
    for k in range(10, 20):  # the small one comes near the camera
        small[k] = face_landmarks((40 + k, 50), 20 + 2 * (k - 9))
    faces = [[s, b] if k % 2 else [b, s] for k, (s, b) in enumerate(zip(small, large, strict=True))]
    np.testing.assert_array_equal(track(faces).landmarks, large)
    np.testing.assert_array_equal(track(faces, face=0).landmarks, small)
    np.testing.assert_array_equal(track(faces, face=1).landmarks, large)
    with pytest.raises(NoFaceFound, match="at most 2"):
        track(faces, face=2)


def test_another_person_does_not_take_a_lost_ones_place():
    here, other = face_landmarks((40, 50), 30), face_landmarks((200, 50), 20)
    found = track([[here, other]] * 5 + [[other]] * 30)
    assert found.valid.tolist() == [True] * 5 + [False] * 30


def test_the_same_person_is_found_again_after_a_cut():
    found = track([[face_landmarks((40, 50), 30)]] * 5 + [[face_landmarks((200, 80), 25)]] * 30)
    assert found.valid[:5].all() and found.valid[20:].all()


def test_short_gaps_are_interpolated_and_long_ones_are_not():
    marks = [face_landmarks((40 + k, 50), 30) for k in range(60)]
    faces = [[m] for m in marks]
    for k in [*range(10, 22), *range(30, 43), 0, 59]:
        faces[k] = []
    found = track(faces)
    np.testing.assert_allclose(found.landmarks[10:22], marks[10:22], atol=1e-3)
    assert found.interpolated.nonzero()[0].tolist() == list(range(10, 22))
    assert (~found.valid).nonzero()[0].tolist() == [0, *range(30, 43), 59]


def test_no_face_at_all_is_an_error():
    with pytest.raises(NoFaceFound, match="7 frames"):
        track([[]] * 7)


def test_tracks_are_saved_and_checked(tmp_path):
    marks = np.stack([face_landmarks((50, 50), 30)] * 4)
    seen, none = np.array([True, False, True, True]), np.zeros(4, np.int32)
    np.savez(tmp_path / "a.npz", **vars(fill_gaps(marks, np.ones((4, 3), np.float32), seen, none, none)))
    loaded = load_track(tmp_path / "a.npz")
    assert loaded.shot.tolist() == [0, 0, 0, 0]
    np.testing.assert_array_equal(loaded.landmarks, marks)
    marks[2, 5] = np.nan
    np.savez(tmp_path / "b.npz", landmarks=marks)
    assert load_track(tmp_path / "b.npz").valid.tolist() == [True, True, False, True]
    np.savez(tmp_path / "c.npz", landmarks=marks[:, :5])
    (tmp_path / "d.npz").write_text("no archive")
    np.savez(tmp_path / "e.npz", points=marks)
    np.savez(tmp_path / "g.npz", landmarks=marks, shot=np.zeros(3))
    for name in "cdefg":
        with pytest.raises(DataError, match=f"{name}.npz"):
            load_track(tmp_path / f"{name}.npz")


class BatchTracker(ListTracker):
    """Takes four pictures at once."""

    batch, taken = 4, ()

    def detect_batch(self, pictures):
        self.taken += (len(pictures),)
        return [self.detect(picture) for picture in pictures]


def numbered(n):
    return (np.full((8, 8, 3), k, np.uint8) for k in range(n))


def scene(seed, n, brightness=1.0):
    """n pictures of one textured place, as a camera with a little noise sees it."""
    rng = np.random.default_rng(seed)
    place = cv2.resize(rng.integers(20, 230, (6, 8, 3)).astype(np.float32), (160, 120), interpolation=cv2.INTER_CUBIC)
    return [np.clip(place * brightness + rng.normal(0, 3, place.shape), 0, 255).astype(np.uint8) for _ in range(n)]


def cuts(pictures):
    detector = CutDetector()
    return [k for k, picture in enumerate(pictures) if detector(picture)]


def test_cuts_are_found_where_they_are():
    pictures = scene(0, 10) + scene(1, 1) + scene(2, 15) + [np.full((120, 160, 3), 127, np.uint8)] * 3 + scene(0, 5)
    assert cuts(pictures) == [10, 11, 26, 29]
    assert cuts([np.full((120, 160, 3), 127, np.uint8)] * 12 + scene(3, 5)) == [12]


def test_light_motion_and_noise_are_no_cuts():
    fade = [picture for level in np.linspace(1, 0.1, 12) for picture in scene(0, 1, level)]
    flash = scene(0, 5) + scene(0, 1, 1.3) + scene(0, 5)
    wide = np.tile(scene(4, 1)[0], (1, 4, 1))
    pan = [wide[:, k : k + 160] for k in range(0, 300, 9)]
    zoom = [cv2.resize(wide[k : 120 - k, k : 160 - k], (160, 120)) for k in range(0, 40, 2)]
    faces = [draw_face(120, 160, face_landmarks((40 + 4 * k, 45), 25), k) for k in range(20)]
    for pictures in (fade, flash, pan, zoom, faces, [np.zeros((120, 160, 3), np.uint8)] * 5):
        assert cuts(pictures) == []


def test_nothing_reaches_across_a_cut():
    marks = [face_landmarks((50, 40), 20)] * 20 + [face_landmarks((56, 44), 20)] * 20  # near enough to be the same
    faces = [[m] for m in marks]
    for k in (18, 19, 20, 30):
        faces[k] = []
    found = track_faces(iter(scene(0, 20) + scene(1, 20)), ListTracker(faces))
    assert found.shot.tolist() == [0] * 20 + [1] * 20
    assert (~found.valid).nonzero()[0].tolist() == [18, 19, 20]
    assert found.interpolated.nonzero()[0].tolist() == [30]
    transforms = crop_transforms(found.landmarks, found.valid, 96, shot=found.shot)
    np.testing.assert_allclose(transforms[:18], np.broadcast_to(transforms[0], (18, 2, 3)), atol=1e-9)
    np.testing.assert_allclose(transforms[21:], np.broadcast_to(transforms[-1], (19, 2, 3)), atol=1e-6)


def test_a_cut_without_a_gap_is_not_smoothed_over():
    marks = np.stack([face_landmarks((50, 50), 30)] * 10 + [face_landmarks((90, 70), 20)] * 10)
    valid, shot = np.ones(20, bool), np.repeat([0, 1], 10)
    assert valid_runs(valid, shot) == [(0, 10), (10, 20)]
    apart = [crop_transforms(part, np.ones(10, bool), 96) for part in (marks[:10], marks[10:])]
    np.testing.assert_allclose(crop_transforms(marks, valid, 96, shot=shot), np.concatenate(apart), atol=1e-9)
    assert np.abs(crop_transforms(marks, valid, 96) - np.concatenate(apart)).max() > 1


def test_after_a_cut_the_face_is_chosen_anew():
    one, other = face_landmarks((40, 40), 20), face_landmarks((110, 40), 24)
    faces = [[one]] * 10 + [[one, other]] * 10
    found = track_faces(iter(scene(0, 10) + scene(1, 10)), ListTracker(faces))
    np.testing.assert_array_equal(found.landmarks[10:], [other] * 10)
    same_shot = track_faces(iter(scene(0, 20)), ListTracker(faces))
    np.testing.assert_array_equal(same_shot.landmarks, [one] * 20)


def test_other_faces_are_measured():
    small, large = face_landmarks((30, 40), 15), face_landmarks((110, 40), 30)
    found = track([[large], [small, large], [large]], face="largest")
    np.testing.assert_allclose(found.other, [0, 0.5, 0], atol=1e-3)
    np.testing.assert_allclose(track([[small, large]], face=0).other, [2], atol=1e-2)
    assert track([[large, large + 1]]).other[0] == 0  # the same face, found twice


def test_pictures_come_in_batches_where_the_network_takes_them():
    marks = [[face_landmarks((60 + k, 50), 30)] for k in range(11)]
    tracker = BatchTracker(marks)
    found = track_faces(numbered(11), tracker)
    np.testing.assert_array_equal(found.landmarks, np.concatenate(marks))
    assert tracker.taken == (4, 4, 3)


def test_wrong_arguments():
    for options in ({"face": -1}, {"face": "smallest"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            track([[face_landmarks((50, 50), 30)]], **options)


class Person:
    """Says how far faces are from one: near those at its place, far from all others; and how often it was asked."""

    def __init__(self, here, distances=(0.3, 0.8)):
        self.here, self.distances, self.asked = here, distances, []

    def __call__(self, picture, found):
        self.asked.append(len(found))
        return np.array([self.distances[not np.array_equal(points, self.here)] for points, _ in found])


def test_a_person_who_is_recognised_is_followed_through_cuts_and_nobody_else():
    here, other = face_landmarks((40, 50), 30), face_landmarks((200, 50), 20)
    faces = [[other]] * 5 + [[other, here]] * 10 + [[other]] * 10 + [[here]] * 10
    pictures = [frame for number, count in enumerate((5, 10, 10, 10)) for frame in scene(number, count)]
    person = Person(here)
    found = track_faces(iter(pictures), ListTracker(faces), person)
    assert found.valid.tolist() == [False] * 5 + [True] * 10 + [False] * 10 + [True] * 10
    np.testing.assert_array_equal(found.landmarks[found.valid], [here] * 20)
    assert person.asked == [1, 2, 1, 1]  # once a shot
    with pytest.raises(NoFaceFound, match="recognised in none of 35 frames"):
        track_faces(iter(pictures), ListTracker(faces), Person(here, (0.6, 0.8)))


def test_whoever_was_not_recognised_is_looked_at_again_and_a_new_face_at_once():
    other, asked = face_landmarks((200, 50), 20), []

    def late(picture, found):
        asked.append(len(found))
        return np.full(len(found), 0.4 if len(asked) >= 4 else 0.9)

    found = track([[other]] * 20 + [[other, face_landmarks((40, 50), 30)]] * 20, face=late)
    assert asked[:4] == [1, 1, 2, 2] and np.flatnonzero(found.valid)[0] == 20 + AGAIN


@pytest.mark.parametrize("gap", range(1, 30))
def test_a_person_who_comes_back_is_recognised_at_once(gap):
    here = face_landmarks((40, 50), 30)
    found = track([[here]] * 5 + [[]] * gap + [[here]] * 20, face=Person(here))
    assert found.valid.tolist() == [True] * 5 + [gap <= 12] * gap + [True] * 20


def test_who_takes_a_persons_place_without_a_cut_is_let_go_from_the_beginning():
    """As where one picture dissolves into another, in which somebody else sits in the same place."""
    here, other = face_landmarks((40, 50), 30), face_landmarks((41, 50), 30)
    for first in range(20, 40):
        found = track([[here]] * first + [[other]] * 60, face=Person(here))
        assert found.valid[: first - AGAIN].all() and not found.valid[first:].any()
        doubtful = track([[here]] * first + [[other]] * 60, face=Person(here, (0.3, 0.65)))
        assert doubtful.valid.all()  # a head that turns looks less like itself


def test_a_person_is_preferred_to_whom_is_followed_in_their_place():
    here, other = face_landmarks((40, 50), 30), face_landmarks((120, 50), 30)
    slide = [face_landmarks((40 + 4 * k, 50), 30) for k in range(1, 21)]  # somebody's box moves onto another's
    found = track([[here]] * 14 + [[points, here] for points in slide] + [[other, here]] * 20, face=Person(here))
    np.testing.assert_array_equal(found.landmarks[found.valid], [here] * found.valid.sum())
    assert found.valid[:14].all() and found.valid[-20:].all()
