"""The reference policy `own`: what speech does not change is the frame's own, and the mouth's tokens say nothing."""

import pytest
import torch
from material import noise_face

from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.model.build import build
from lipformer_core.model.ours.warping import unmoved
from lipformer_core.model.regions import mouth_tokens, speaking_tokens
from lipformer_core.training.lipformer import train_lipformer
from lipformer_core.training.objectives import CodeObjective
from lipformer_core.training.pairs import PairSampler


@pytest.fixture
def own(tiny_config):
    """An untrained model of the policy whose Transformer is loud enough to change codes."""
    torch.manual_seed(0)
    model = build(tiny_config.replace({"lips.reference": "own"})).eval()
    torch.nn.init.normal_(model.transformer.head.weight)
    torch.nn.init.normal_(model.autoencoder.bottom_codebook.weight)
    return model


def test_the_speaking_region_holds_the_mouth_and_leaves_the_sides(tiny_config):
    for config in (tiny_config, tiny_config.replace({"data.size": 64})):
        sizes = config.data.size, config.codebook.downsampling
        mouth, speaking = mouth_tokens(*sizes), speaking_tokens(*sizes)
        assert (mouth <= speaking).all() and speaking[-1].any()
        assert not speaking[:, 0].any() and not speaking[:, -1].any()


def test_outside_the_speaking_region_a_frame_keeps_its_own_codes(own):
    target, reference = noise_face(0), own.encode_reference(noise_face(1))
    sound = torch.randn(1, own.config.audio.window, 80)
    decoded = []
    own.autoencoder.decoder.register_forward_pre_hook(lambda _, inputs: decoded.append(inputs[0]))
    own.generate(target, sound, reference)
    own.reconstruct(target)
    rows = own.config.token_grid[0]
    generated, true = (codes[:, :, rows:] for codes in decoded)
    assert torch.equal(generated[..., ~own.speaking], true[..., ~own.speaking])
    assert not torch.equal(generated[..., own.speaking], true[..., own.speaking])


def test_the_targets_own_mouth_reaches_nothing(own):
    target, reference = noise_face(0), own.encode_reference(noise_face(1))
    upper, bottom = own.encode_upper(target[:, :, :16]), own.encode_bottom(target[:, :, 16:])
    other = torch.where(own.speaking, torch.randn_like(bottom), bottom)
    warped = own.warp(upper, reference)[0]
    one, two = (own.surround(warped, codes) for codes in (bottom, other))
    assert torch.equal(one, two) and torch.equal(one, own.look(target, reference).warped)
    assert torch.equal(one[..., ~own.speaking], unmoved(bottom)[..., ~own.speaking])
    assert torch.equal(one[..., own.speaking], warped[..., own.speaking])


def test_only_what_speech_changes_is_learned_and_a_run_trains(tiny_config, tiny_corpus, tmp_path, tiny_run):
    config = tiny_config.replace({"lips.reference": "own"})
    trained = train_lipformer(config, tiny_corpus, tmp_path, progress=False, codebook=tiny_run)
    assert trained.config.lips.reference == "own"
    sampler = PairSampler(trained, PreparedCorpus(tiny_corpus), "train", tmp_path / "codebook")
    weights = CodeObjective(trained, None).token_weights(sampler.draw((0,), 4))
    assert (weights[:, ~trained.speaking.flatten()] == 0).all() and (weights[:, trained.speaking.flatten()] > 0).all()
