"""The mouth meter on drawn mouths: it learns, it is stable, it is kept."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from lipformer_core.errors import DataError
from lipformer_core.evaluation.metrics import pearson
from lipformer_core.evaluation.mouth_meter import MouthMeter, train_meter

SIZE, FRAMES = 96, 24
SETTINGS = {"steps": 60, "batch": 24, "check_every": 20, "max_crops": 240, "progress": False}


class Clip:
    """Skin of a person's own colour with a dark ellipse as its mouth; IOD is 30 pixels."""

    def __init__(self, info: SimpleNamespace) -> None:
        rng = np.random.default_rng(info.seed)
        self.info, self.valid = info, np.ones(FRAMES, bool)
        self.opening = rng.uniform(0, 0.5, FRAMES).astype(np.float32)
        self.width = rng.uniform(0.6, 1.0, FRAMES).astype(np.float32)
        skin = rng.uniform(120, 220, 3)
        y, x = np.mgrid[:SIZE, :SIZE]
        self.images = np.empty((FRAMES, SIZE, SIZE, 3), np.uint8)
        for image, opening, width in zip(self.images, self.opening, self.width, strict=True):
            inside = ((x - 48) / (15 * width)) ** 2 + ((y - 66) / (15 * opening + 1)) ** 2
            image[:] = skin * np.clip(inside[..., None] - 0.5, 0.2, 1)

    def frames(self, indices: np.ndarray) -> np.ndarray:
        return self.images[np.asarray(indices)]


class Corpus:
    """Ten people to learn from, two to stop by."""

    def __init__(self, hash: str = "one", val: int = 2) -> None:
        self.hash = hash
        splits = ["train"] * 10 + ["val"] * val
        self.infos = [SimpleNamespace(clip_id=f"c{i}", seed=i, split=s) for i, s in enumerate(splits)]

    def clips(self, split: str) -> list[SimpleNamespace]:
        return [info for info in self.infos if info.split == split]

    def open(self, clip_id: str) -> Clip:
        return Clip(next(info for info in self.infos if info.clip_id == clip_id))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "evaluation"
    return train_meter(Corpus(), folder, **SETTINGS), folder


def test_meter_reads_unseen_people(trained):
    clip = Clip(SimpleNamespace(seed=99))
    readings = trained[0].read(clip.images)
    assert readings.shape == (FRAMES, 2)
    assert pearson(readings[:, 0], clip.opening) > 0.9
    assert pearson(readings[:, 1], clip.width) > 0.5


def test_meter_looks_at_the_bottom_half_only(trained):
    clip = Clip(SimpleNamespace(seed=98))
    changed = clip.images.copy()
    changed[:, : SIZE // 2] = 7
    np.testing.assert_array_equal(trained[0].read(changed), trained[0].read(clip.images))


def test_float_pictures_read_as_their_uint8_twins(trained):
    images = Clip(SimpleNamespace(seed=97)).images
    np.testing.assert_allclose(trained[0].read(images / 127.5 - 1), trained[0].read(images), atol=1e-4)


def test_meter_is_kept_and_made_anew_for_other_data(trained):
    meter, folder = trained
    images = Clip(SimpleNamespace(seed=96)).images
    before = (folder / "meter.safetensors").stat().st_mtime_ns
    again = train_meter(Corpus(), folder, **SETTINGS)
    assert (folder / "meter.safetensors").stat().st_mtime_ns == before
    np.testing.assert_array_equal(again.read(images), meter.read(images))
    report = json.loads((folder / "meter.json").read_text())
    (folder / "meter.json").write_text(json.dumps(report | {"sources": "of another version"}))
    retrained = train_meter(Corpus(), folder, **SETTINGS | {"steps": 60})
    assert (folder / "meter.safetensors").stat().st_mtime_ns > before and retrained.report == report
    other = train_meter(Corpus("two"), folder, **SETTINGS | {"steps": 2})
    assert other.report["corpus"] == "two" and MouthMeter.load(folder).report == other.report


def test_same_seed_same_meter(tmp_path):
    short = SETTINGS | {"steps": 4}
    images = Clip(SimpleNamespace(seed=95)).images
    first, second = (train_meter(Corpus(), tmp_path / name, **short) for name in "ab")
    np.testing.assert_array_equal(first.read(images), second.read(images))


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_however_few_steps_and_without_validation_people_it_trains_and_says_so(tmp_path, steps):
    meter = train_meter(Corpus(val=0), tmp_path, **SETTINGS | {"steps": steps})
    assert meter.report["val_split"] == "train" and meter.report["steps"] == steps


def test_what_cannot_be_read_is_refused(trained, tmp_path):
    with pytest.raises(DataError, match="square"):
        trained[0].read(np.zeros((2, 48, 96, 3), np.uint8))
    with pytest.raises(DataError, match="no mouth meter"):
        MouthMeter.load(tmp_path)
