"""The loading code of LPIPS, FID and identity, on random weights; and that nothing passes for what is missing."""

import numpy as np
import pytest
import torch

from lipformer_core import weights
from lipformer_core.data.faces.recognition import RECOGNITION_FILE, Recogniser
from lipformer_core.errors import WeightsCorrupt, WeightsMissing
from lipformer_core.evaluation.lse import DETECTOR, SYNCNET, Lse
from lipformer_core.evaluation.pretrained_metrics import (
    FID_INCEPTION,
    LPIPS_TRUNK,
    Fid,
    FidStatistics,
    Lpips,
    read_landmarks,
    why_not,
)
from lipformer_core.evaluation.protocol import open_scorers


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)


def test_missing_files_are_named_and_no_folder_is(tmp_path, monkeypatch):
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "carried", lambda carrier: None)
    find = weights.find
    for scorer, file in ((Lpips, LPIPS_TRUNK), (Fid, FID_INCEPTION), (Recogniser, RECOGNITION_FILE), (Lse, SYNCNET)):
        with pytest.raises(WeightsMissing, match=file) as caught:
            scorer()
        reason = why_not(file, caught.value)
        assert reason.startswith(f"not available: {file}") and str(tmp_path) not in reason
    scorers = open_scorers(tmp_path, torch.device("cpu"), landmark_check=True)
    assert scorers.lpips is None and scorers.fid is None and scorers.landmarks is None
    columns = ("lpips", "fid", "lmd", "identity_distance", "lse_d", "lse_c")
    assert {f"lipformer.{column}" for column in columns} <= set(scorers.missing)
    assert SYNCNET in scorers.missing["ground_truth.lse_c"] and scorers.lse is scorers.identity is None
    monkeypatch.setattr(weights, "find", lambda name: tmp_path / name if name == SYNCNET else find(name))
    assert DETECTOR in open_scorers(tmp_path, torch.device("cpu"), False).missing["ground_truth.lse_c"]


def test_another_file_under_the_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path))
    torch.save({}, tmp_path / LPIPS_TRUNK)
    with pytest.raises(WeightsCorrupt):
        Lpips()
    assert "hash" in open_scorers(tmp_path, torch.device("cpu"), landmark_check=False).missing["lipformer.lpips"]


@pytest.mark.filterwarnings("ignore::UserWarning")  # of lpips calling torchvision the old way
def test_lpips_takes_torchvisions_trunk(tmp_path, monkeypatch, pictures):
    lpips = pytest.importorskip("lpips")
    from torchvision.models import alexnet

    torch.manual_seed(0)
    trunk = alexnet()
    torch.save(trunk.state_dict(), tmp_path / LPIPS_TRUNK)
    monkeypatch.setattr(weights, "find", lambda name: tmp_path / name)
    mine = Lpips()
    reference = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    for ours, theirs in zip(
        [m for m in reference.net.modules() if isinstance(m, torch.nn.Conv2d)],
        [m for m in trunk.features if isinstance(m, torch.nn.Conv2d)],
        strict=True,
    ):
        ours.load_state_dict(theirs.state_dict())
    a, b = (torch.from_numpy(x).permute(0, 3, 1, 2) / 127.5 - 1 for x in (pictures, pictures[::-1].copy()))
    np.testing.assert_allclose(mine(pictures, pictures[::-1]), reference(a, b).detach().flatten(), rtol=1e-4)
    np.testing.assert_allclose(mine(pictures, pictures), 0, atol=1e-7)


def test_fid_takes_its_network_from_the_file(tmp_path, monkeypatch, pictures):
    inception = pytest.importorskip("pytorch_fid.inception")
    state = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None).state_dict()
    torch.save(state, tmp_path / FID_INCEPTION)
    monkeypatch.setattr(weights, "find", lambda name: tmp_path / name)
    features = Fid().features(pictures[:2])
    assert features.shape == (2, 2048) and np.isfinite(features).all()


def test_fid_statistics_are_those_of_all_features_at_once():
    pytest.importorskip("pytorch_fid")
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(300, 5)), rng.normal(size=(200, 5)) + [3, 0, 0, 0, 0]
    sets = [FidStatistics(5), FidStatistics(5)]
    for start in range(0, 300, 64):
        sets[0].add(a[start : start + 64])
    sets[1].add(b)
    np.testing.assert_allclose(sets[0].moments()[1], np.cov(a.T), atol=1e-10)
    assert Fid.distance(sets[0], sets[0]) == pytest.approx(0, abs=1e-6)
    assert Fid.distance(*sets) == pytest.approx(9, rel=0.2)


def test_landmarks_come_back_in_crop_pixels():
    class Dot:
        """Finds the brightest place and calls it all 68 points."""

        def detect(self, rgb: np.ndarray) -> list:
            level = rgb.astype(float).sum(axis=-1)
            if level.max() < 700:
                return []
            y, x = np.argwhere(level > 0.95 * level.max()).mean(axis=0)
            return [(np.tile([x, y], (68, 1)), np.zeros(3))]

    crops = np.zeros((2, 96, 96, 3), np.uint8)
    crops[0, 69:72, 39:42] = 255
    found = read_landmarks(Dot(), crops)
    np.testing.assert_allclose(found[0], np.tile([40.0, 70.0], (68, 1)), atol=0.3)
    assert np.isnan(found[1]).all()
