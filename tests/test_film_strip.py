"""The README's first picture, small and by a tiny model."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

import lipformer_core as lf
from lipformer_core import weights
from lipformer_core.errors import WeightsMissing
from papermill_runs import film_strip


def test_a_row_of_frames_for_every_face(tiny_run, tmp_path, monkeypatch):
    try:
        weights.find("face_landmarker.task")
    except WeightsMissing as error:
        pytest.skip(str(error))
    (tmp_path / "assets").mkdir()
    noise = np.random.default_rng(0).normal(0, 3000, 16_000).astype(np.int16)
    wavfile.write(tmp_path / "assets/beckett.wav", 16_000, noise)
    monkeypatch.setattr(film_strip, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    monkeypatch.setattr(film_strip, "lf", SimpleNamespace(load=lambda device: lf.load(tiny_run), dub=lf.dub))
    for name, value in {"FRAMES": 3, "UNTIL": 12, "SIDE": 32, "GAP": 4}.items():
        monkeypatch.setattr(film_strip, name, value)
    film_strip.film_strip(tmp_path / "strip.jpg")
    with Image.open(tmp_path / "strip.jpg") as strip:
        assert strip.size == (4 * 32 + 4, (1 + film_strip.PERSONS) * 32)
        faces = np.asarray(strip, float)
    shown = np.delete(faces, np.s_[32:36], axis=1)  # without the gap
    assert all(face.std() > 20 for row in np.split(shown, 2) for face in np.split(row, 4, axis=1)), "no black cell"


def test_frames_are_those_where_the_lips_turn():
    opening = np.sin(np.arange(40) * np.pi / 10) + 0.01 * np.sin(np.arange(40) * np.pi / 2)
    assert film_strip.turns(opening, 4) == [5, 15, 25, 35]
    still = film_strip.turns(np.zeros(40), 4)
    assert len(set(still)) == 4 and still == sorted(still), "others where nothing turns"
