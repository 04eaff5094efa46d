"""The loading code of LPIPS, FID and identity, on random weights; and that nothing passes for what is missing."""

import numpy as np
import pytest
import torch
from material import face_landmarks

from lipformer_core import weights
from lipformer_core.errors import WeightsCorrupt, WeightsMissing
from lipformer_core.evaluation.lse import DETECTOR, SYNCNET, Lse
from lipformer_core.evaluation.pretrained_metrics import (
    FID_INCEPTION,
    LPIPS_TRUNK,
    SFACE,
    Fid,
    FidStatistics,
    Identity,
    Lpips,
    five_points,
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
    for scorer, file in ((Lpips, LPIPS_TRUNK), (Fid, FID_INCEPTION), (Identity, SFACE), (Lse, SYNCNET)):
        with pytest.raises(WeightsMissing, match=file) as caught:
            scorer()
        reason = why_not(file, caught.value)
        assert reason.startswith(f"not available: {file}") and str(tmp_path) not in reason
    scorers = open_scorers(tmp_path, torch.device("cpu"), landmark_check=True)
    assert scorers.lpips is None and scorers.fid is None and scorers.landmarks is None
    columns = ("lpips", "fid", "lmd", "identity", "lse_d", "lse_c")
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


@pytest.fixture
def recogniser(tmp_path, monkeypatch):
    """Identity on a small network of random weights; the file of it."""
    onnx = pytest.importorskip("onnx")
    kernel = np.random.default_rng(0).normal(size=(4, 3, 28, 28)).astype(np.float32)
    inner = onnx.helper.make_node("Conv", ["data", "kernel"], ["maps"], strides=[28, 28])
    flat = onnx.helper.make_node("Flatten", ["maps"], ["embedding"])
    ends = [("data", (1, 3, 112, 112)), ("embedding", (1, 64))]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in ends]
    graph = onnx.helper.make_graph(
        [inner, flat], "random", ends[:1], ends[1:], [onnx.numpy_helper.from_array(kernel, "kernel")]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / SFACE)
    monkeypatch.setattr(weights, "find", lambda name: tmp_path / name)
    return Identity(), tmp_path / SFACE


def test_faces_are_aligned_as_scikit_image_would(recogniser):
    from skimage.transform import SimilarityTransform, warp

    wanted = [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
    across, down = np.meshgrid(np.linspace(0, 1, 128), np.linspace(0, 1, 128))
    image = (255 * np.dstack([across, down, across * down])).astype(np.uint8)
    landmarks = face_landmarks((66, 52), 34, 0.1)
    fitted = SimilarityTransform.from_estimate(five_points(landmarks), np.array(wanted))
    theirs = 255 * warp(image, fitted.inverse, output_shape=(112, 112))
    ours = recogniser[0].align(image, landmarks)
    np.testing.assert_allclose(ours[12:-12, 12:-12], theirs[12:-12, 12:-12], atol=2)


def test_identity_is_the_cosine_of_the_networks_embeddings(recogniser, pictures):
    runtime = pytest.importorskip("onnxruntime")
    identity, file = recogniser
    landmarks = np.stack([face_landmarks((32, 24), 18, opening) for opening in (0, 0.1, 0.2, 0.3)])
    embedded = identity.embed(pictures, landmarks)
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1)
    aligned = identity.align(np.ascontiguousarray(pictures[1][..., ::-1]), landmarks[1])[..., ::-1]
    (theirs,) = runtime.InferenceSession(file).run(None, {"data": aligned.transpose(2, 0, 1)[None].astype(np.float32)})
    np.testing.assert_allclose(embedded[1], theirs[0] / np.linalg.norm(theirs), atol=1e-4)
