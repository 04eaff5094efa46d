"""The bottom half decoded alone is the bottom half of the whole, and dubbing leaves the upper half as it was filmed."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from lipformer_core.config import preset
from lipformer_core.model.autoencoder import FaceAutoencoder
from lipformer_core.model.build import build
from lipformer_core.model.precision import fast
from lipformer_core.speaker import Speaker

LOCAL = [
    {"data.size": 96, "codebook.widths": [16], "codebook.stem": 6, "codebook.res_blocks": 2},
    {"data.size": 160, "codebook.widths": [16], "codebook.stem": 4, "codebook.res_blocks": 3},
    {"data.size": 96, "codebook.widths": [8, 16, 24], "codebook.stem": 1, "codebook.res_blocks": 1},
    {"data.size": 192, "codebook.widths": [8, 16], "codebook.stem": 3, "codebook.res_blocks": 2},
]
VQGAN = {"codebook.local": False, "codebook.widths": [32, 64], "codebook.stem": 2}


def halves(settings: dict) -> tuple[FaceAutoencoder, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    config = preset("tiny", settings)
    shape = (2, config.codebook.dim, *config.token_grid)
    autoencoder = FaceAutoencoder(config).eval().to(memory_format=torch.channels_last)
    return autoencoder, torch.randn(shape), torch.randn(shape)


@pytest.mark.parametrize("settings", [*LOCAL, VQGAN])
@torch.no_grad()
def test_the_bottom_half_alone_is_that_of_the_whole(settings):
    autoencoder, upper, bottom = halves(settings)
    whole = autoencoder.decode(upper, bottom)
    alone = autoencoder.decode_bottom(upper, bottom)
    assert alone.shape == (2, 3, whole.shape[2] // 2, whole.shape[3]) and alone.std() > 0.01
    torch.testing.assert_close(alone, whole[:, :, whole.shape[2] // 2 :], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", LOCAL)
def test_the_rows_taken_are_those_that_the_bottom_half_depends_on(settings):
    autoencoder, upper, bottom = halves(settings)
    upper.requires_grad_()
    autoencoder.decode(upper, bottom)[:, :, autoencoder.config.data.size // 2 :].sum().backward()
    reached = int((upper.grad.abs().amax((0, 1, 3)) > 0).sum())
    assert min(autoencoder.decoder.rows_above[0], upper.shape[2]) == reached


def test_realtime_decodes_two_thirds_and_less():
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        autoencoder = FaceAutoencoder(preset("realtime"))
        codes = torch.empty(1, 32, 16, 32)
    flop = []
    for decode in (autoencoder.decode, autoencoder.decode_bottom):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            decode(codes, codes)
        flop.append(counter.get_total_flops())
    assert flop[1] < 0.67 * flop[0]


@pytest.mark.parametrize("design", ["paper", "ours"])
def test_dubbing_generates_the_lower_half_alone(design, tiny_config, monkeypatch):
    monkeypatch.setattr("lipformer_core.speaker.fast", lambda device: nullcontext())
    torch.manual_seed(0)
    speaker = Speaker(build(tiny_config.replace({"lips.design": design})).ready())
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    sound = rng.standard_normal((5, 20, 80)).astype(np.float32)
    opening, usable = np.linspace(0, 0.2, 5), np.ones(5, bool)
    speaker.borrow(opening, np.zeros((5, 3)), usable, lambda index: crops[index])
    dubbed, whole = speaker.dub(crops, range(5), sound), speaker.say(speaker.look(crops, range(5)), sound)
    np.testing.assert_array_equal(dubbed[:, :16], crops[:, :16])
    assert np.abs(dubbed[:, 16:].astype(int) - whole[:, 16:]).max() <= 1
    assert (dubbed[:, 16:] != crops[:, 16:]).any()


def test_where_the_device_has_bfloat16_dubbing_is_made_in_it_and_the_codes_stay_float32s(tiny_config, monkeypatch):
    for can, context in ((False, nullcontext), (True, torch.autocast)):
        monkeypatch.setattr("lipformer_core.model.precision.has_bfloat16", lambda kind, can=can: can)
        assert isinstance(fast(torch.device("cpu")), context)
    torch.manual_seed(0)
    speaker = Speaker(build(tiny_config).ready())
    crops = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    sound = np.zeros((5, 20, 80), np.float32)
    speaker.borrow(np.linspace(0, 0.2, 5), np.zeros((5, 3)), np.ones(5, bool), lambda index: crops[index])
    chosen, choose, results = [], speaker.model.choose, []
    monkeypatch.setattr(speaker.model, "choose", lambda logits, tau: chosen.append(logits) or choose(logits, tau))
    for context in (nullcontext, lambda: torch.autocast("cpu", torch.bfloat16)):
        monkeypatch.setattr("lipformer_core.speaker.fast", lambda device, context=context: context())
        results.append(speaker.dub(crops, range(5), sound).astype(int))
    assert [logits.dtype for logits in chosen] == [torch.float32] * 2
    apart = np.abs(results[0] - results[1])
    assert 0 < apart.max() and apart.mean() < 3
