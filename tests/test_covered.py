"""What covers the mouth for a while is found, and nothing where nothing does; on synthetic and on filmed faces."""

import cv2
import numpy as np
import pytest
from material import FakeModel, write_video, write_wav

from lipformer_core.data.faces.alignment import crop_transforms, warp_crop
from lipformer_core.data.faces.tracking import track_faces
from lipformer_core.data.media import iter_frames
from lipformer_core.data.synthetic import synthesise_clip
from lipformer_core.dubbing.covered import CoverCheck
from lipformer_core.dubbing.dub import dub


def hand(frame: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """Four fingers of the face's own colour before the mouth."""
    eyes = np.linalg.norm(marks[36:42].mean(0) - marks[42:48].mean(0))
    x, y = marks[48:68].mean(0)
    column, row = np.round(marks[29]).astype(int)
    colour = np.median(frame[row - 2 : row + 3, column - 2 : column + 3].reshape(-1, 3), axis=0)
    covered = frame.copy()
    for k in range(4):
        height = y + (k - 1.2) * 0.3 * eyes
        ends = [(int(x - 0.75 * eyes), int(height + 0.1 * eyes)), (int(x + 1.6 * eyes), int(height - 0.05 * eyes))]
        cv2.line(covered, *ends, (colour * (0.85 + 0.05 * k)).tolist(), max(2, int(0.26 * eyes)), cv2.LINE_AA)
        ends = [(a, b + int(0.14 * eyes)) for a, b in ends]
        cv2.line(covered, *ends, (colour * 0.5).tolist(), max(1, int(0.03 * eyes)), cv2.LINE_AA)
    return covered


def cup(frame: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """A white cup before the mouth."""
    eyes = np.linalg.norm(marks[36:42].mean(0) - marks[42:48].mean(0))
    x, y = marks[48:68].mean(0)
    corners = (int(x - 0.5 * eyes), int(y - 0.2 * eyes)), (int(x + 0.5 * eyes), int(y + 1.1 * eyes))
    return cv2.rectangle(frame.copy(), *corners, (225, 225, 220), -1)


@pytest.fixture(scope="module")
def person():
    """A synthetic person speaking for four seconds, rendered once."""
    return synthesise_clip(3, 0, 0, 100, 128)


@pytest.mark.parametrize("thing", [None, cup])
def test_a_dubbing_reports_what_covers_the_mouth(tmp_path, person, thing):
    frames = person.frames.copy()
    for k in range(40, 55) if thing else ():
        frames[k] = thing(frames[k], person.landmarks[k])
    np.savez(tmp_path / "track.npz", landmarks=person.landmarks)
    video = write_video(tmp_path / "v.mp4", frames)
    audio = write_wav(tmp_path / "a.wav", np.zeros(64_000, np.float32))
    landmarks = tmp_path / "track.npz"
    report = dub(FakeModel(), video, audio, tmp_path / "o.mp4", landmarks=landmarks, progress=False)
    said = [warning for warning in report.warnings if "cover" in warning]
    if thing is None:
        assert report.covered == [] and not said
    else:
        (run,) = report.covered
        assert abs(run["first"] - 40) <= 6 and abs(run["last"] - 54) <= 6  # a quarter of a second
        at = f"{run['start_s']:.1f} to {run['end_s']:.1f} s"
        assert said == [f"something seems to cover the mouth: {at}; look at the result there"]


def test_a_portrait_and_a_few_frames_are_not_judged():
    check = CoverCheck()
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for index in range(20):
        check.look(index, picture if index != 10 else picture[::-1])
    assert not check.covered(np.zeros(20, int), 25.0).any()


@pytest.mark.parametrize("name", ["ed_obama", "mt_german", "vox_00473"])
def test_a_hand_before_a_filmed_mouth_is_noticed_and_speech_is_not(clips_folder, name):
    """`-s` prints the share of the covered frames that is found, and of the free ones that is taken for covered."""
    from lipformer_core.data.faces import open_tracker

    def covered(pictures: list[np.ndarray], track) -> np.ndarray:
        transforms, check = crop_transforms(track.landmarks, track.valid, 64), CoverCheck()
        for k in np.flatnonzero(track.valid):
            check.look(k, warp_crop(pictures[k], transforms[k], 64))
        return check.covered(track.shot, 25.0)

    tracker = open_tracker()
    frames = [picture for _, (_, picture) in zip(range(75), iter_frames(clips_folder / f"{name}.mp4"), strict=False)]
    track = track_faces(iter(frames), tracker)
    clean = covered(frames, track)
    hidden = np.zeros(75, bool)
    hidden[50:60] = True
    frames = [hand(f, m) if h else f for f, m, h in zip(frames, track.landmarks, hidden, strict=True)]
    found = covered(frames, track_faces(iter(frames), tracker))
    shares = found[hidden].mean(), found[~hidden].mean(), clean.mean()
    print("{}: found {:.2f}, taken for covered {:.3f}, without a hand {:.3f}".format(name, *shares))
    assert shares[0] >= 0.3 and shares[1] <= 0.05 and shares[2] <= 0.03
