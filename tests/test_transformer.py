"""MHCA (Eq. 8-9), CLN and the lip codes against independent arithmetic."""

import pytest
import torch
from torch.nn import functional as F

from lipformer_core.config import preset
from lipformer_core.model.build import build
from lipformer_core.model.lipformer import LipFormer, lip_codes
from lipformer_core.model.ours import OurLipFormer, OurTransformer
from lipformer_core.model.ours.lipformer import expected_codes, nearby_hues, tinted
from lipformer_core.model.ours.transformer import likeness
from lipformer_core.model.transformer import ConditionalLayerNorm, CrossAttention, LipTransformer

GRID = (4, 8)
SIZES = dict(dim=32, layers=2, heads=4, ffn_dim=16, audio_dim=6, code_dim=8, codes=20)


def copies(count, codes):
    """Indices of codes (count, n), and the features (count, d, *GRID) that they make."""
    indices = torch.randint(len(codes), (count, GRID[0] * GRID[1]))
    return indices, codes[indices].transpose(1, 2).unflatten(2, GRID)


def test_mhca_against_torch_attention():
    torch.manual_seed(0)
    ours = CrossAttention(dim=16, code_dim=12, heads=4, scale=0.5)  # 1/sqrt(16/4)
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
    torch.testing.assert_close(ours(queries, codes), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("scale", [0.25, 1.0])
def test_mhca_is_eq_8_and_9(scale):
    torch.manual_seed(0)
    layer = CrossAttention(8, 8, 1, scale)
    with torch.no_grad():  # Eq. 9 has no output projection
        layer.out.weight.copy_(torch.eye(8))
        layer.out.bias.zero_()
    z, codes = torch.randn(2, 5, 8), torch.randn(7, 8)
    q, k, v = layer.query(z), layer.key(codes), layer.value(codes)
    torch.testing.assert_close(layer(z, codes), torch.softmax(scale * q @ k.T, -1) @ v, atol=1e-5, rtol=1e-4)


def test_mhca_is_built_from_four_integers_and_each_head_looks_at_its_own_part():
    torch.manual_seed(0)
    layer = CrossAttention(8, 6, 2, 1)
    z, codes = torch.randn(2, 5, 8), torch.randn(7, 6)
    q, k, v = layer.query(z), layer.key(codes), layer.value(codes)
    heads = [torch.softmax(q[..., part] @ k[:, part].T, -1) @ v[:, part] for part in (slice(4), slice(4, 8))]
    torch.testing.assert_close(layer(z, codes), layer.out(torch.cat(heads, -1)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("design", ["paper", "ours"])
def test_folded_keys_and_values_change_no_output_and_training_unfolds_them(design, tiny_config):
    torch.manual_seed(0)
    model = build(tiny_config.replace({"lips.design": design})).eval()
    torch.nn.init.normal_(model.transformer.head.weight)
    image, sound = torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(2, 20, 80)
    reference, attention = model.encode_reference(image), model.transformer.layers[0].cross_attention

    def logits():
        with torch.no_grad():
            return model.predict(*model.hear(model.look(image, reference), sound))[0]

    unfolded, names = logits(), set(model.state_dict())
    assert attention.folded_keys is None
    assert model.ready() is model and not model.training
    assert attention.folded_keys.shape == (1, 1, 32, 32) and set(model.state_dict()) == names
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention.key, "forward", lambda codes: asked.append(codes))
        torch.testing.assert_close(logits(), unfolded, atol=1e-5, rtol=1e-5)
    assert not asked
    model.train()
    assert attention.folded_keys is None and attention.folded_values is None
    torch.nn.init.zeros_(attention.value.weight)  # as a step of training changes it
    assert not torch.allclose(logits(), unfolded, atol=1e-4)


def test_cln_with_a_constant_condition_is_layer_norm():
    torch.manual_seed(0)
    cln, x, condition = ConditionalLayerNorm(16, 6), torch.randn(4, 9, 16), torch.randn(6)
    scale, shift = cln.modulation(condition).chunk(2)
    expected = F.layer_norm(x, (16,), 1 + scale, shift)
    torch.testing.assert_close(cln(x, condition.expand(4, -1)), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(cln(x, torch.zeros(4, 6)), F.layer_norm(x, (16,)), atol=1e-5, rtol=1e-4)


def test_z0_is_the_warped_reference_in_the_paper_preset():
    model = build(preset("paper", {"lips.layers": 1}))
    assert type(model) is LipFormer and type(model.transformer) is LipTransformer
    assert isinstance(model.transformer.embed, torch.nn.Identity)
    parts = {name.split(".")[0] for name, _ in model.transformer.named_parameters()}
    assert parts == {"layers", "head"}, "no places, no convolutions, no residual head"
    layer = {name.split(".")[0] for name, _ in model.transformer.layers[0].named_parameters()}
    assert layer == {"cross_attention", "norm", "ffn"}


def test_the_design_decides_which_model_is_built(tiny_config):
    for design, kind, transformer in (("paper", LipFormer, LipTransformer), ("ours", OurLipFormer, OurTransformer)):
        model = build(tiny_config.replace({"lips.design": design}))
        assert type(model) is kind and type(model.transformer) is transformer


@pytest.mark.parametrize(("ablation", "fixed"), [("none", False), ("reference_queries", True), ("paper", True)])
def test_query_source(ablation, fixed):
    torch.manual_seed(0)
    paper = ablation == "paper"
    transformer = LipTransformer(**SIZES) if paper else OurTransformer(GRID, **SIZES, ablation=ablation)
    seen = []
    for layer in transformer.layers:
        layer.cross_attention.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    warped = torch.randn(2, 8, *GRID)
    transformer(warped, torch.randn(20, 8), torch.randn(2, 6))
    assert len(seen) == 2 and torch.equal(*seen) == fixed


def test_products_are_scaled_in_our_design_alone_and_by_an_ablation_not():
    scales = [
        transformer.layers[1].cross_attention.scale
        for transformer in (
            LipTransformer(**SIZES),
            OurTransformer(GRID, **SIZES, ablation="unscaled"),
            OurTransformer(GRID, **SIZES),
        )
    ]
    assert scales == pytest.approx([1.0, 1.0, 8**-0.5])


def test_an_untrained_residual_head_copies_the_warped_reference_and_learns():
    torch.manual_seed(0)
    codes = torch.randn(20, 8)
    indices, warped = copies(2, codes)
    transformer = OurTransformer(GRID, **SIZES)
    logits, latents = transformer(warped, codes, torch.randn(2, 6))
    torch.testing.assert_close(latents, warped.flatten(2).transpose(1, 2))
    assert torch.equal(logits.argmax(-1), indices)
    F.cross_entropy(logits.flatten(0, 1), (indices.flatten() + 1) % 20).backward()
    for part in (transformer.free, transformer.head):
        assert not part.weight.any() and part.weight.grad.abs().sum() > 0


def test_our_transformer_hears_places_and_neighbours():
    """Z_0 differs by place and by the tokens beside it; attention among tokens carries both."""
    torch.manual_seed(0)
    transformer, codes, sound = OurTransformer(GRID, **SIZES), torch.randn(20, 8), torch.randn(1, 6)
    for part in (transformer.free, transformer.head):
        torch.nn.init.normal_(part.weight)
    plain = torch.ones(1, 8, *GRID)
    with torch.no_grad():
        one = transformer(plain, codes, sound)[0]
        assert not torch.allclose(one[:, 0], one[:, 9], atol=1e-3), "alike tokens in different places"
        other = plain.clone()
        other[:, :, 3, 7] = -1
        assert not torch.allclose(transformer(other, codes, sound)[0][:, 0], one[:, 0], atol=1e-4)


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
    expected = expected_codes(logits, codes)
    torch.testing.assert_close(expected, (logits.softmax(-1)[..., None] * codes).sum(-2))
    torch.testing.assert_close(expected_codes(logits * 1e4, codes), lip_codes(logits, codes, None))
    expected.square().sum().backward()
    assert torch.count_nonzero(logits.grad) == logits.grad.numel()


def test_the_reference_weighs_again_where_it_is_asked_to(tiny_config):
    torch.manual_seed(0)
    plain = build(tiny_config).eval()
    torch.nn.init.normal_(plain.autoencoder.bottom_codebook.weight)
    torch.nn.init.normal_(plain.transformer.head.weight, std=0.1)  # what is predicted stays near the reference
    warped, condition = torch.randn(2, 8, 4, 8), torch.randn(2, 16)
    with torch.no_grad():
        logits, latents = plain.predict(warped, condition)
        tokens = warped.flatten(2).transpose(1, 2)[:, plain.places]
        scale = plain.transformer.log_sharpness.exp() / plain.codes.var(0).sum()
        weight = 3.0 * likeness(latents, tokens, plain.codes)
        near = -weight[..., None] * scale / 2 * torch.cdist(tokens, plain.codes.expand(2, -1, -1)).square()
        found = plain.predict(warped, condition, prior=3.0)[0]
        torch.testing.assert_close(found.softmax(-1), (logits + near).softmax(-1), atol=1e-4, rtol=1e-3)
    assert (found.argmax(-1) != logits.argmax(-1)).any()


def test_a_reference_has_no_say_where_all_changes(tiny_config):
    """A code away is another thing than noise: weights fall with the distance in variances of the codes."""
    codes, tokens = torch.randn(32, 8), torch.randn(2, 5, 8)
    away = torch.tensor([0.0, 0.3, 1.0, 2.0, 4.0])
    direction = torch.nn.functional.normalize(torch.randn(2, 5, 8), dim=-1) * codes.var(0).sum().sqrt()
    found = likeness(tokens + direction * away.sqrt()[:, None], tokens, codes)
    torch.testing.assert_close(found, torch.exp(-away.square()).expand(2, 5), atol=1e-5, rtol=1e-4)
    model = build(tiny_config.replace({"lips.reference": "own", "lips.keep_reference": 1.0})).eval()
    warped = torch.randn(2, 8, *model.config.token_grid)
    latents = warped.flatten(2).transpose(1, 2)[:, model.places]
    with torch.no_grad():
        assert (model.kept(latents, warped) == 1).all()
        latents[:, 0] += 100
        share = model.kept(latents, warped)
    assert share.shape == (2, 1, 16, 32) and share.min() < 0.2 and share.max() == 1


def test_a_strangers_lips_keep_their_hue_and_take_the_light_that_is_said():
    orange, purple = torch.tensor([0.5, 0.1, -0.3]), torch.tensor([0.2, -0.4, 0.3])
    picture = orange[None, :, None, None].expand(1, 3, 64, 128)
    said = purple[None, :, None, None].expand(1, 3, 64, 128).clone()
    said[..., 40:, :] = 0.7  # teeth have no hue
    found = tinted(said, nearby_hues(picture))
    torch.testing.assert_close(found.mean(1), said.mean(1))
    chroma, lips = found - found.mean(1, keepdim=True), orange - orange.mean()
    along = torch.nn.functional.cosine_similarity(chroma[..., 30, 60], lips[None])
    torch.testing.assert_close(along, torch.ones(1))
    assert chroma[..., 10:30, 20:100].norm(dim=1).max() <= lips.norm() + 1e-5
    torch.testing.assert_close(found[..., 41:, :], said[..., 41:, :])


def test_the_moved_references_detail_is_kept_outside_of_training(tiny_config):
    torch.manual_seed(0)
    config = tiny_config.replace({"lips.reference": "own"})
    plain = build(config).eval()
    careful = build(config.replace({"lips.keep_reference": 1.0}), plain.autoencoder).eval()
    careful.load_state_dict(plain.state_dict())
    face, sound = torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(2, 20, 80)
    with torch.no_grad():
        seen = careful.look(face, careful.encode_reference(face[:1]))
        picture = careful.move(seen, sound)[0]
        # before any training the Transformer copies its reference, so all that is left is the moved picture
        torch.testing.assert_close(careful.say(seen, sound)[:, :, 16:], picture, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(careful.say(seen, sound, bottom_only=True), picture, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(careful.say(seen, sound)[:, :, :16], face[:, :, :16])
        still = seen.around[:, :, careful.moving.reshape(16, 32) == 0]
        torch.testing.assert_close(
            careful.say(seen, sound, bottom_only=True)[:, :, careful.moving.reshape(16, 32) == 0], still
        )
        careful.train().audio_encoder.eval()  # without dropout
        torch.testing.assert_close(careful.say(seen, sound), plain.say(seen, sound))
