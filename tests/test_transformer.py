"""MHCA (Eq. 8-9), CLN and the lip codes against independent arithmetic."""

import pytest
import torch
from torch.nn import functional as F

from lipformer_core.config import preset
from lipformer_core.errors import ConfigError
from lipformer_core.model.lipformer import LipFormer, lip_codes
from lipformer_core.model.transformer import ConditionalLayerNorm, CrossAttention, LipTransformer
from lipformer_core.model.warping import Warped


def test_mhca_against_torch_attention():
    torch.manual_seed(0)
    ours = CrossAttention(dim=16, source_dim=12, heads=4, scale=True)
    theirs = torch.nn.MultiheadAttention(16, 4, kdim=12, vdim=12, batch_first=True)
    with torch.no_grad():
        theirs.q_proj_weight.copy_(ours.query.weight)
        theirs.k_proj_weight.copy_(ours.key.weight)
        theirs.v_proj_weight.copy_(ours.value.weight)
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    queries, codes = torch.randn(3, 10, 16), torch.randn(20, 12)
    expected, _ = theirs(queries, codes.expand(3, -1, -1), codes.expand(3, -1, -1))
    torch.testing.assert_close(ours(queries, ours.keys_values(codes)), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("scale", [True, False])
def test_mhca_is_eq_8_and_9(scale):
    torch.manual_seed(0)
    layer = CrossAttention(dim=8, source_dim=8, heads=1, scale=scale)
    with torch.no_grad():  # Eq. 9 has no output projection
        layer.out.weight.copy_(torch.eye(8))
        layer.out.bias.zero_()
    z, codes = torch.randn(2, 5, 8), torch.randn(7, 8)
    q, k, v = layer.query(z), layer.key(codes), layer.value(codes)
    expected = torch.softmax(q @ k.T * (8**-0.5 if scale else 1.0), -1) @ v
    torch.testing.assert_close(layer(z, layer.keys_values(codes)), expected, atol=1e-5, rtol=1e-4)


def test_cln_with_a_constant_condition_is_layer_norm():
    torch.manual_seed(0)
    cln, x, condition = ConditionalLayerNorm(16, 6), torch.randn(4, 9, 16), torch.randn(6)
    scale, shift = cln.modulation(condition).chunk(2)
    expected = F.layer_norm(x, (16,), 1 + scale, shift)
    torch.testing.assert_close(cln(x, condition.expand(4, -1)), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(cln(x, torch.zeros(4, 6)), F.layer_norm(x, (16,)), atol=1e-5, rtol=1e-4)


def test_z0_is_the_warped_reference_in_the_paper_preset():
    transformer = LipTransformer(preset("paper", {"lips.layers": 1}))
    assert isinstance(transformer.embed, torch.nn.Identity)
    assert transformer.position is None and transformer.layers[0].self_attention is None
    assert not transformer.residual_head


@pytest.mark.parametrize("source", ["z", "reference"])
def test_query_source(source):
    torch.manual_seed(0)
    plain = dict(self_attention=False, residual_head=False, latent_weight=0.0, layers=2)
    config = preset("quick", query_source=source, **plain)
    transformer = LipTransformer(config)
    seen = []
    for layer in transformer.layers:
        layer.cross_attention.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    rows, columns = config.token_grid
    warped = torch.randn(2, config.codebook.dim, rows, columns)
    transformer(
        Warped(warped), torch.randn(config.codebook.size, config.codebook.dim), torch.randn(2, config.lips.audio_width)
    )
    assert torch.equal(seen[0], seen[1]) == (source == "reference")


def test_residual_head_starts_as_a_copy_of_the_warped_reference():
    torch.manual_seed(0)
    config = preset("quick")
    codes = torch.randn(config.codebook.size, config.codebook.dim)
    rows, columns = config.token_grid
    indices = torch.randint(config.codebook.size, (2, rows * columns))
    warped = codes[indices].transpose(1, 2).reshape(2, -1, rows, columns)
    logits, latent = LipTransformer(config)(Warped(warped), codes, torch.randn(2, config.lips.audio_width))
    torch.testing.assert_close(latent, warped.flatten(2).transpose(1, 2))
    assert torch.equal(logits.argmax(-1), indices)


def test_gumbel_forward_is_one_hot_and_arg_max_as_the_logits_part():
    torch.manual_seed(0)
    codes, logits = torch.randn(32, 8), torch.randn(2, 6, 32)
    sampled = lip_codes(logits, codes, tau=1.0)
    assert (
        torch.cdist(sampled.flatten(0, 1), codes, compute_mode="donot_use_mm_for_euclid_dist").min(1).values.max()
        < 1e-5
    )  # every token is exactly one code
    # scaling the logits up against the Gumbel noise is the fall of the temperature of the code distribution
    torch.testing.assert_close(lip_codes(logits * 1e4, codes, tau=1.0), lip_codes(logits, codes, None))


def test_soft_sample_approaches_its_own_one_hot_as_temperature_falls():
    logits = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(0))
    gaps = []
    for tau in (2.0, 0.5, 0.05, 0.005):
        torch.manual_seed(1)
        soft = F.gumbel_softmax(logits, tau=tau)
        torch.manual_seed(1)
        hard = F.gumbel_softmax(logits, tau=tau, hard=True)
        gaps.append(float((soft - hard).abs().sum(-1).mean()))
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < 0.05


def test_gumbel_passes_gradients_to_the_logits_and_arg_max_does_not():
    logits, codes = torch.randn(1, 4, 16, requires_grad=True), torch.randn(16, 8)
    lip_codes(logits, codes, tau=1.0).square().sum().backward()
    assert torch.count_nonzero(logits.grad) > 0
    assert not lip_codes(logits, codes, None).requires_grad


def test_expected_codes_are_the_mean_of_the_codes_and_let_gradients_through():
    logits, codes = torch.randn(2, 4, 16, requires_grad=True), torch.randn(16, 8)
    expected = lip_codes(logits, codes, None, expected=True)
    by_hand = (logits.softmax(-1)[..., None] * codes).sum(-2)
    torch.testing.assert_close(expected, by_hand)
    torch.testing.assert_close(expected, lip_codes(logits, codes, 0.5, expected=True))  # no sampling in training
    torch.testing.assert_close(lip_codes(logits * 1e4, codes, None, expected=True), lip_codes(logits, codes, None))
    expected.square().sum().backward()
    assert torch.count_nonzero(logits.grad) == logits.grad.numel()


def test_a_model_with_expected_codes_generates_by_them(tiny_config):
    torch.manual_seed(0)
    hard = LipFormer(tiny_config).eval()
    soft = LipFormer(tiny_config.replace({"lips.expected_codes": True}), hard.autoencoder).eval()
    soft.load_state_dict(hard.state_dict())
    size = hard.config.data.size
    image, audio = torch.rand(1, 3, size, size) * 2 - 1, torch.randn(1, hard.config.audio.window, 80)
    reference = hard.encode_reference(image)
    codes = hard.encode_upper(image[:, :, : size // 2])
    logits = hard.lip_logits(hard.warp(codes, reference), audio)
    with torch.no_grad():
        by_hand = hard.decode(codes, logits.softmax(-1) @ hard.codes).clamp(-1, 1)
    torch.testing.assert_close(soft.generate(image, audio, reference), by_hand)
    assert not torch.allclose(soft.generate(image, audio, reference), hard.generate(image, audio, reference))


def test_free_logits_begin_at_nothing_and_learn(tiny_config):

    torch.manual_seed(0)
    plain = LipFormer(tiny_config).eval()
    free = LipFormer(tiny_config.replace(free_logits=True), plain.autoencoder).eval()
    missing = free.load_state_dict(plain.state_dict(), strict=False)
    assert missing.missing_keys == ["transformer.free.weight"] and not missing.unexpected_keys
    size, window = tiny_config.data.size, tiny_config.audio.window
    image, sound = torch.rand(1, 3, size, size) * 2 - 1, torch.randn(1, window, 80)
    reference = plain.encode_reference(image)
    logits = [m.lip_logits(m.warp(m.encode_upper(image[:, :, : size // 2]), reference), sound) for m in (plain, free)]
    torch.testing.assert_close(*logits)
    logits[1].sum().backward()
    assert free.transformer.free.weight.grad.abs().sum() > 0
    with pytest.raises(ConfigError, match="free_logits"):
        tiny_config.replace(free_logits=True, residual_head=False, latent_weight=0.0)
