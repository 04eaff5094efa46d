"""Devices that cannot do all that a CPU can: no float64 (Apple's MPS), no sampling. They are played by a CPU here."""

import numpy as np
import pytest
import torch

from lipformer_core import checkpoint
from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.errors import ConfigError
from lipformer_core.evaluation.codebook import judge_codebook
from lipformer_core.evaluation.mouth_meter import MouthMeter
from lipformer_core.evaluation.pretrained_metrics import Fid, Lpips
from lipformer_core.evaluation.sync import embed_mouths, embed_sounds
from lipformer_core.model.codebook import perplexity, usage
from lipformer_core.model.syncnet import AUDIO_WINDOW, SyncNet
from lipformer_core.training.codebook import evaluate_codebook
from lipformer_core.training.lipformer import LipFormerStage, Trained
from lipformer_core.training.pairs import PairSampler
from lipformer_core.training.sampling import FrameSampler


class There(torch.Tensor):
    """A tensor on a device without float64; what is computed with it lies there too, until it is fetched by `cpu`."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        out = super().__torch_function__(func, types, args, kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            if func is torch.Tensor.cpu:
                return out.as_subclass(torch.Tensor)
            if isinstance(out, torch.Tensor) and out.dtype is torch.float64:
                raise TypeError("this device has no float64")
            return out


def there(module):
    """The module's weights and buffers on such a device."""
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for name, value in held.items():
                if value is not None:
                    held[name] = value.detach().as_subclass(There)
    return module


def test_the_pretence_holds():
    value = torch.ones(2).as_subclass(There)
    assert (value + torch.ones(2)).cpu().double().dtype is torch.float64
    for forbidden in (
        lambda: value.double(),
        lambda: (value * 2).to(torch.float64),
        lambda: value.sum(dtype=torch.float64),
    ):
        with pytest.raises(TypeError, match="no float64"):
            forbidden()


def test_figures_of_stage_1_need_no_float64_there(tiny_run, tiny_corpus):
    corpus, here = PreparedCorpus(tiny_corpus), checkpoint.load_codebook(tiny_run)
    sampler = FrameSampler(corpus, "val")
    found = evaluate_codebook(here, sampler, 8), judge_codebook(here, corpus).results()
    away = there(checkpoint.load_codebook(tiny_run))
    assert found == (evaluate_codebook(away, sampler, 8), judge_codebook(away, corpus).results())
    counts = torch.tensor([3.0, 0.0, 1.0]).as_subclass(There)
    assert usage(counts) == pytest.approx(2 / 3) and 1 < perplexity(counts) < 3


@pytest.mark.parametrize("phase", ["warping", "cached", "lipformer"])
def test_stage_2_needs_no_float64_there(phase, tiny_run, tiny_corpus, tiny_config):
    trained, corpus = Trained(tiny_config, checkpoint.load_codebook(tiny_run)), PreparedCorpus(tiny_corpus)
    samplers = [PairSampler(trained.lipformer, corpus, split, tiny_run / "codebook") for split in ("train", "val")]
    stage = LipFormerStage(trained, phase, *samplers)
    there(stage.model)
    batch = stage.material(0)[0]
    sent = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    assert len(sent) > 8 and all(value.dtype is not torch.float64 for value in sent)
    stage.losses(0, stage.material(0))
    assert np.isfinite(list(stage.evaluate().values())).all()


def test_meters_and_scores_need_no_float64_there():
    images = np.random.default_rng(0).integers(0, 256, (6, 96, 96, 3), np.uint8)
    assert there(MouthMeter()).read(images).dtype == np.float64
    net = there(SyncNet(8))
    assert embed_mouths(net, torch.zeros(6, 3, 48, 64)).dtype == np.float64
    assert embed_sounds(net, np.zeros((2, AUDIO_WINDOW, 80), np.float32)).dtype == np.float64
    for scorer, network, score in (
        (Lpips, lambda a, b: (a - b).mean((1, 2, 3), keepdim=True), lambda one: one(images, images)),
        (Fid, lambda a: [a.mean((2, 3), keepdim=True)], lambda one: one.features(images)),
    ):
        one = scorer.__new__(scorer)
        one.device = torch.device("cpu")
        one.network = lambda *given, network=network: network(*(x.as_subclass(There) for x in given))
        assert score(one).dtype == np.float64


def test_a_device_that_cannot_train_the_warping_is_refused_before_any_work(
    tiny_run, tiny_corpus, tiny_config, monkeypatch
):
    def unsupported(*args, **kwargs):
        raise NotImplementedError("aten::grid_sampler_2d_backward is not implemented for this device")

    trained, corpus = Trained(tiny_config, checkpoint.load_codebook(tiny_run)), PreparedCorpus(tiny_corpus)
    samplers = [PairSampler(trained.lipformer, corpus, split, tiny_run / "codebook") for split in ("train", "val")]
    monkeypatch.setattr("lipformer_core.model.warping.bilinear_sample", unsupported)
    with pytest.raises(ConfigError, match="grid_sampler_2d_backward.*ACCELERATE_USE_CPU"):
        LipFormerStage(trained, "cached", *samplers)
