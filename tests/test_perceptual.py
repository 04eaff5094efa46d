"""The perceptual losses, built from a folder of files with the network blocked; the files' weights are random."""

import socket
from types import SimpleNamespace

import pytest
import torch
from torchvision.models import squeezenet1_1, vgg16

from lipformer_core import checkpoint, weights
from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.errors import WeightsCorrupt, WeightsMissing
from lipformer_core.training.codebook import CodebookStage
from lipformer_core.training.lipformer import LipFormerStage, Trained
from lipformer_core.training.loop import optimise
from lipformer_core.training.losses import perceptual_loss
from lipformer_core.training.pairs import PairSampler

FILES = {"lpips": "vgg16-397923af.pth", "squeezenet": "squeezenet1_1_imagenet_onnxzoo.pth"}
KINDS = pytest.mark.parametrize("kind", FILES)


def empty_vgg16(**options):
    """VGG's features alone, full of NaN: what is not read from the file shows, and its classifier is not drawn."""
    with torch.device("meta"):
        features = vgg16(init_weights=False).features
    features.to_empty(device="cpu").requires_grad_(False).apply(
        lambda layer: [parameter.fill_(torch.nan) for parameter in layer.parameters(recurse=False)]
    )
    return SimpleNamespace(features=features)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of stand-ins."""
    torch.manual_seed(0)
    folder, trunk = tmp_path_factory.mktemp("weights"), empty_vgg16().features.state_dict()
    drawn = {f"features.{name}": 0.03 * torch.randn(value.shape) for name, value in trunk.items()}
    torch.save(drawn, folder / FILES["lpips"])
    torch.save(squeezenet1_1().state_dict(), folder / FILES["squeezenet"])
    return folder


@pytest.fixture
def offline(files, tmp_path, monkeypatch):
    """The folder of files, and no other place to take them from."""

    def refused(*args, **kwargs):
        raise AssertionError("the network was asked")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(files))
    monkeypatch.setattr("torchvision.models.vgg16", empty_vgg16)
    monkeypatch.setattr(weights, "_sha256", lambda path, *stat: weights.KNOWN[path.name].sha256)
    return files


@KINDS
def test_built_from_its_file_it_measures_a_distance_that_moves_the_picture_alone(kind, offline):
    loss = perceptual_loss(kind, 1.0).train()
    read = torch.load(offline / FILES[kind], weights_only=True)
    held = {tuple(value.shape): value for value in loss.state_dict().values() if value.dim() == 4}
    for name, value in read.items():
        if name in ("features.0.weight", "features.28.weight", "features.12.expand3x3.weight"):
            assert torch.equal(held[tuple(value.shape)], value)
    a, b = torch.rand(2, 2, 3, 48, 48) * 2 - 1
    a.requires_grad_(True)
    distances = torch.stack([loss(b, b), loss(a, b), loss(a, b)]).tolist()
    assert distances[0] == 0 < distances[1] == distances[2]  # no dropout, whatever mode it is told
    loss(a, b).backward()
    assert a.grad.abs().sum() > 0 and all(p.grad is None for p in loss.parameters())


@KINDS
def test_both_stages_take_a_step_with_it(kind, offline, tiny_config, tiny_corpus, tiny_run):
    config = tiny_config.replace(
        {"stage1.perceptual": kind, "stage1.perceptual_weight": 1.0, "stage2.joint.perceptual_weight": 1.0}
    )
    corpus, trained = PreparedCorpus(tiny_corpus), Trained(config, checkpoint.load_codebook(tiny_run))
    samplers = [PairSampler(trained.lipformer, corpus, split, tiny_run / "codebook") for split in ("train", "val")]
    for stage in (CodebookStage(config, corpus), LipFormerStage(trained, "lipformer", *samplers)):
        figures = optimise(stage, 0, [stage.material(0)])
        assert float(figures["perceptual"]) > 0 and torch.isfinite(figures["gradient"])
        assert "perceptual" not in " ".join(stage.model.state_dict())  # never a checkpoint's part


@KINDS
def test_without_its_file_or_with_another_it_says_so(kind, tmp_path, monkeypatch):
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsMissing, match=FILES[kind]):
        perceptual_loss(kind, 1.0)
    torch.save({}, tmp_path / FILES[kind])
    with pytest.raises(WeightsCorrupt, match=FILES[kind]):
        perceptual_loss(kind, 1.0)
    assert perceptual_loss(kind, 0.0) is None and perceptual_loss("none", 1.0) is None


def test_the_published_squeezenet_is_read_as_it_is(weights_folder):
    loss = perceptual_loss("squeezenet", 1.0)
    torch.manual_seed(0)
    image, noise = torch.rand(2, 1, 3, 64, 64)
    distances = [float(loss(image + level * noise, image)) for level in (0.0, 0.1, 0.4)]
    assert distances == sorted(distances) and distances[0] == 0 < distances[1]
