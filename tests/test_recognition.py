"""Recognition: the same person is found in other pictures, others are not; through cuts in a dubbing."""

import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from material import FakeModel, tone, write_video, write_wav
from PIL import Image
from typer.testing import CliRunner

import lipformer_core as lf
from lipformer_core.cli import app
from lipformer_core.data.faces import open_tracker
from lipformer_core.data.faces.recognition import Person, Recogniser
from lipformer_core.data.faces.tracking import LET_GO, MATCH, track_faces
from lipformer_core.data.media import iter_frames
from lipformer_core.data.synthetic.clip import synthesise_clip
from lipformer_core.dubbing.source_face import parse_face
from lipformer_core.errors import ConfigError, NoFaceFound, WeightsMissing

data = pytest.importorskip("skimage.data")
pytest.importorskip("dlib")
CLIPS = os.environ.get("LIPFORMER_CLIPS")


@pytest.fixture(scope="module")
def tracker():
    return open_tracker()


@pytest.fixture(scope="module")
def collins() -> np.ndarray:
    """A portrait, 256 x 256."""
    return data.astronaut()[:256, 100:356]


@pytest.fixture(scope="module")
def stranger() -> np.ndarray:
    """A synthetic person, 256 x 256."""
    return synthesise_clip(0, 0, 0, 1, 256).frames[0]


def _run(*arguments: str) -> int:
    return CliRunner().invoke(app, list(arguments)).exit_code


def look(picture: np.ndarray) -> np.ndarray:
    """The same portrait as another camera may show it: smaller, darker, tinted, turned by 8 degrees, noisy."""
    turn = cv2.getRotationMatrix2D((128, 128), 8, 0.8)
    seen = cv2.warpAffine(picture, turn, (256, 256), borderMode=cv2.BORDER_REFLECT) * np.array([0.8, 0.7, 0.6])
    return np.clip(seen + np.random.default_rng(0).normal(0, 4, seen.shape), 0, 255).astype(np.uint8)


def test_a_person_is_found_beside_somebody_else_and_missed_where_they_are_not(collins, tracker, stranger, tmp_path):
    Image.fromarray(collins).save(tmp_path / "collins.png")
    person = Person(tmp_path / "collins.png", tracker)
    both = np.concatenate([stranger, look(collins)], 1)
    for picture, side in ((both, 1), (both[:, ::-1], 0)):
        faces = tracker.detect(np.ascontiguousarray(picture))
        assert len(faces) == 2
        distances = person(picture, faces)
        assert (faces[distances.argmin()][0][:, 0].mean() > 256) == side
        assert distances.min() < MATCH and distances.max() > LET_GO
    assert person(stranger, tracker.detect(stranger)).min() > LET_GO and len(person(stranger, [])) == 0


def test_the_same_face_in_another_light_is_near_and_another_one_far(collins, tracker, stranger):
    recogniser = Recogniser()
    (points, _), *_ = tracker.detect(collins)
    (other, _), *_ = tracker.detect(stranger)
    same, moved, far = recogniser.embed(
        [collins, look(collins), stranger], [points, tracker.detect(look(collins))[0][0], other]
    )
    assert same.shape == (128,) and recogniser.embed([], []).shape == (0, 128)
    assert np.linalg.norm(same - moved) < MATCH < LET_GO < np.linalg.norm(same - far)
    assert recogniser.align(collins, points).shape == (150, 150, 3)


def test_a_picture_without_a_face_is_told(tracker, tmp_path):
    Image.fromarray(data.coffee()).save(tmp_path / "coffee.png")
    with pytest.raises(NoFaceFound, match=r"coffee\.png: no face"):
        Person(tmp_path / "coffee.png", tracker)


def test_a_face_is_largest_a_number_or_a_picture_that_is_there(tmp_path):
    (tmp_path / "anna.png").touch()
    assert parse_face("anna.png", tmp_path) == parse_face(tmp_path / "anna.png") == tmp_path / "anna.png"
    assert [parse_face(face) for face in ("largest", "3", 3, np.int64(3))] == ["largest", 3, 3, 3]
    for wrong in ("smallest", "nobody.jpg", tmp_path, str(tmp_path), "-1", -1, "", None, 1.0):
        with pytest.raises(ConfigError, match="a picture of the person"):
            parse_face(wrong)
        with pytest.raises(ConfigError, match="a picture of the person"):
            lf.dub(FakeModel(), tmp_path / "v.mp4", tmp_path / "a.wav", tmp_path / "o.mp4", face=wrong)
    with pytest.raises(ConfigError, match="give one of them"):
        track = {"landmarks": tmp_path / "track.npz", "face": tmp_path / "anna.png"}
        lf.dub(FakeModel(), tmp_path / "v.mp4", tmp_path / "a.wav", tmp_path / "o.mp4", **track)


def test_without_dlib_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(WeightsMissing, match="pip install dlib-bin face-recognition-models"):
        Recogniser()


def film(path, collins: np.ndarray, stranger: np.ndarray) -> None:
    """Three shots: somebody, the person beside them, somebody again."""
    other = np.concatenate([stranger, np.full_like(stranger, 90)], 1)
    both = np.concatenate([stranger, look(collins)], 1)
    noise = np.random.default_rng(1).normal(0, 2, (30, 1, 1, 3))
    shots = np.concatenate([np.repeat(picture[None], 10, 0) for picture in (other, both, other)])
    write_video(path, np.clip(shots + noise, 0, 255).astype(np.uint8))


def test_a_film_is_dubbed_where_the_person_is_seen_and_nowhere_else(tiny_run, collins, stranger, tmp_path):
    film(tmp_path / "film.mp4", collins, stranger)
    write_wav(tmp_path / "speech.wav", tone(1.2))
    Image.fromarray(collins).save(tmp_path / "collins.png")
    (tmp_path / "list.csv").write_text("video,audio,face\nfilm.mp4,speech.wav,collins.png\n")
    arguments = ["--run", str(tiny_run), "--device", "cpu", "--quiet"]
    given = [str(tmp_path / name) for name in ("film.mp4", "speech.wav")]
    shown = ["--face", str(tmp_path / "collins.png"), "--report", str(tmp_path / "out.json")]
    assert _run("dub", *given, "-o", str(tmp_path / "out.mp4"), *shown, *arguments) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert [(r["first"], r["last"], r["status"]) for r in report["ranges"]] == [
        (0, 9, "passed through"),
        (10, 19, "generated"),
        (20, 29, "passed through"),
    ]
    assert report["settings"]["face"].endswith("collins.png")
    (entry,) = report["references"]
    assert entry["distance"] < MATCH

    def statuses() -> list[str]:
        assert _run("dub-batch", str(tmp_path / "list.csv"), "-o", str(tmp_path / "dubbed"), *arguments) == 0
        return [line["status"] for line in json.loads((tmp_path / "dubbed/dubs.json").read_text())]

    assert (statuses(), statuses()) == (["dubbed"], ["kept"])
    Image.fromarray(look(collins)).save(tmp_path / "collins.png")  # another picture: it may be of somebody else
    assert statuses() == ["dubbed"]
    Image.fromarray(stranger).save(tmp_path / "nobody.png")
    write_video(tmp_path / "film.mp4", np.repeat(collins[None], 5, 0))
    shown[1] = str(tmp_path / "nobody.png")
    assert _run("dub", *given, "-o", str(tmp_path / "none.mp4"), *shown, *arguments) == 2
    assert not (tmp_path / "none.mp4").exists()


@pytest.mark.skipif(not CLIPS, reason="LIPFORMER_CLIPS names no real clips")
def test_filmed_people_are_told_apart(tracker):
    """Pictures a second apart are one person's, those of different clips are not."""
    recogniser, found = Recogniser(), {}
    for name in ("ed_obama", "ls_demo3", "mt_german", "hdtf_khill", "hdtf_aoc"):
        (path,) = Path(CLIPS).glob(f"{name}.*")
        pictures = [p for _, p in zip(range(51), (p for _, p in iter_frames(path, square=True)), strict=False)][::25]
        points = [track_faces([p], tracker).landmarks[0] for p in pictures]
        found[name] = recogniser.embed(pictures, points)
    for name, faces in found.items():
        for other, theirs in found.items():
            apart = np.linalg.norm(faces[:, None] - theirs, axis=-1)
            assert apart.max() < MATCH if other == name else apart.min() > LET_GO, (name, other, apart)
