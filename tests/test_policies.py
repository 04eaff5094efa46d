"""The reference policy `own`: what speech does not change is the frame's own, and the mouth's tokens say nothing."""

import pytest
import torch
from material import noise_face
from torch.nn import functional as F

from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.model.build import build
from lipformer_core.model.regions import mouth_pixels, speaking_pixels
from lipformer_core.training.lipformer import train_lipformer
from lipformer_core.training.objectives import CodeObjective
from lipformer_core.training.pairs import PairSampler

SEEN = 3  # tokens


@pytest.fixture
def own(tiny_config):
    """An untrained model of the policy whose Transformer is loud enough to change codes."""
    torch.manual_seed(0)
    model = build(tiny_config.replace({"lips.reference": "own", "data.size": 128})).eval()
    torch.nn.init.normal_(model.transformer.head.weight)
    torch.nn.init.normal_(model.autoencoder.bottom_codebook.weight)
    return model


@pytest.mark.parametrize("size", [32, 96, 256])
def test_the_speaking_region_holds_the_mouth_and_leaves_the_sides(size):
    mouth, speaking = mouth_pixels(size)[0, 0, size // 2 :], speaking_pixels(size)[0, 0]
    assert mouth.any() and (speaking[mouth > 0] > 0).all() and (speaking[-1] == 1).any()
    assert not speaking[:, 0].any() and not speaking[:, -1].any()
    assert (speaking == 1).any() and ((speaking > 0) & (speaking < 1)).any(), "it fades within the region"


def test_outside_the_speaking_region_a_frame_keeps_its_own_codes(own):
    rows, columns = own.config.token_grid
    target, reference = noise_face(0, 128), own.encode_reference(noise_face(1, 128))
    sound = torch.randn(1, own.config.audio.window, 80)
    decoded = []
    own.autoencoder.decoder.register_forward_pre_hook(lambda _, inputs: decoded.append(inputs[0]))
    own.generate(target, sound, reference)
    own.reconstruct(target)
    generated, true = (codes[:, :, rows:] for codes in decoded)
    # the encoder sees a few tokens around each one
    side = own.config.codebook.downsampling
    near = F.max_pool2d(F.max_pool2d(own.moving, side), 2 * SEEN + 1, 1, SEEN)[0, 0] > 0
    assert near.shape == (rows, columns) and not near.all()
    assert torch.equal(generated[..., ~near], true[..., ~near])
    places = own.places
    assert not torch.equal(generated.flatten(2)[..., places], true.flatten(2)[..., places])


def test_the_targets_own_mouth_reaches_nothing(own):
    target, reference = noise_face(0, 128), own.encode_reference(noise_face(1, 128))
    sound = torch.randn(1, own.config.audio.window, 80)
    other = target.clone()
    other[:, :, 64:] = torch.where(own.moving == 1, torch.randn_like(target[:, :, 64:]), target[:, :, 64:])
    assert (own.moving == 1).any() and not torch.equal(other, target)
    # but for the rounding of a sum that takes it off again
    generated = (own.generate(face, sound, reference) for face in (target, other))
    torch.testing.assert_close(*generated, rtol=0, atol=1e-5)


def test_only_the_mouth_is_predicted_and_a_run_trains(tiny_config, tiny_corpus, tmp_path, tiny_run):
    config = tiny_config.replace({"lips.reference": "own"})
    trained = train_lipformer(config, tiny_corpus, tmp_path, progress=False, codebook=tiny_run)
    assert trained.config.lips.reference == "own"
    sampler = PairSampler(trained, PreparedCorpus(tiny_corpus), "train", tmp_path / "codebook")
    weights = CodeObjective(trained, None).token_weights(sampler.draw((0,), 4))
    assert weights.shape == (4, len(trained.places)) and (weights > 0).all()
