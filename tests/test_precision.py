"""Under mixed precision codes, logits, noise and similarities are those of float32; precision sticks to no process."""

import pytest
import torch
from accelerate.state import AcceleratorState

from lipformer_core import checkpoint
from lipformer_core.errors import ConfigError
from lipformer_core.model.codebook import Codebook
from lipformer_core.model.lipformer import lip_codes
from lipformer_core.model.ours.lipformer import expected_codes
from lipformer_core.model.ours.transformer import OurTransformer
from lipformer_core.model.syncnet import AUDIO_WINDOW
from lipformer_core.model.transformer import LipTransformer
from lipformer_core.training.codebook import CodebookStage, train_codebook
from lipformer_core.training.stage import make_accelerator
from lipformer_core.training.sync import SyncObjective

K, DIM, MEAN = 1024, 32, 3.0  # encodings of faces have much in common: a mean that is large beside their differences
HALVES = pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])


@HALVES
def test_20_000_tokens_with_a_common_mean_get_the_codes_of_float32(half):
    torch.manual_seed(0)
    codebook = Codebook(K, DIM)
    codebook.set_codes(MEAN + torch.randn(K, DIM))
    encoding = MEAN + torch.randn(1, DIM, 100, 200)
    for given in (encoding, encoding.to(half)):  # as an encoder outside autocast gives it, and as one inside
        quantised, indices, loss = codebook(given.float())
        with torch.autocast("cpu", half):
            assert torch.equal(codebook.indices(given), indices)
            found = codebook(given)
        assert found[0].dtype is torch.float32 and torch.equal(found[0], quantised)
        assert torch.equal(found[1], indices) and torch.equal(found[2], loss)


@HALVES
@pytest.mark.parametrize("ours", [False, True])
def test_logits_are_computed_in_float32(half, ours):
    torch.manual_seed(0)
    sizes = (128, 1, 4, 16, 16, DIM, K)
    transformer = OurTransformer((8, 16), *sizes) if ours else LipTransformer(*sizes)
    transformer.layers[0].forward = lambda z, *_: z  # the head alone is looked at
    codes, tokens = MEAN + torch.randn(K, DIM), MEAN + torch.randn(4, DIM, 8, 16)
    given = tokens, codes, torch.zeros(4, 16)
    plain = transformer(*given)
    with torch.autocast("cpu", half):
        mixed = transformer(*given)
    if ours:
        (plain, _), (mixed, latents) = plain, mixed
        assert latents.dtype is torch.float32
        assert torch.equal(mixed, plain), "the head's weights are zero: nothing before it counts"
    assert mixed.dtype is torch.float32
    assert (mixed.argmax(-1) == plain.argmax(-1)).float().mean() > 0.95


@HALVES
def test_lip_codes_are_codes_drawn_with_noise_of_float32(half):
    codes, logits = MEAN + torch.randn(K, DIM), (4 * torch.randn(2, 64, K)).to(half)
    for choose in (
        lambda x: lip_codes(x, codes, 1.0),
        lambda x: lip_codes(x, codes, None),
        lambda x: expected_codes(x, codes),
    ):
        found = []
        for enabled in (False, True):
            torch.manual_seed(1)
            with torch.autocast("cpu", half, enabled=enabled):
                found.append(choose(logits if enabled else logits.float()))
        assert found[1].dtype is torch.float32 and torch.equal(*found)


@HALVES
def test_the_experts_similarities_are_compared_in_float32(half):
    """Windows a frame apart are nearly alike: rounded similarities would tie, and a tie is no win."""
    torch.manual_seed(0)
    objective, similarities = SyncObjective(8), []
    seen, sounds = torch.randn(2, 8, 3, 48, 64), torch.randn(2, 4, AUDIO_WINDOW, 80)
    objective.net.scale = lambda: torch.ones(())
    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", half):
        patch.setattr("lipformer_core.training.sync.info_nce", lambda x: similarities.append(x) or x.mean())
        objective(seen, sounds, torch.zeros(2, 8, 2))
        faces = objective.net.embed_faces(seen.unfold(1, 5, 1).movedim(-1, 2).flatten(0, 1))
        voices = objective.net.embed_sounds(sounds.flatten(0, 1))
    assert similarities[0].dtype is torch.float32 and torch.equal(similarities[0], faces @ voices.T)


def test_trainings_of_different_precision_in_one_process_do_not_feel_each_other(tiny_config, tiny_corpus, tmp_path):
    """As cells of one notebook: each has the precision that its settings say, and "no" the bits of a fresh process."""
    prints, used = {}, []
    with pytest.MonkeyPatch.context() as patch:
        real = CodebookStage.losses
        patch.setattr(
            CodebookStage,
            "losses",
            lambda self, *given: used.append(self.accelerator.mixed_precision) or real(self, *given),
        )
        for name in ("no", "bf16", "no again"):
            config = tiny_config.replace({"engine.precision": name.split()[0]})
            autoencoder = train_codebook(config, tiny_corpus, tmp_path / name, progress=False)
            assert all(p.dtype is torch.float32 for p in autoencoder.parameters())
            prints[name] = checkpoint.fingerprint(autoencoder)
            assert checkpoint.header_of(tmp_path / name, "codebook")["config"]["engine"]["precision"] == name.split()[0]
    assert prints["no"] == prints["no again"] != prints["bf16"]
    steps = tiny_config.stage1.steps
    assert used == ["no"] * steps + ["bf16"] * steps + ["no"] * steps


def test_the_launchers_precision_holds_where_the_settings_name_none(tiny_config, monkeypatch):
    for launched, named, expected in (("bf16", "no", "bf16"), ("no", "bf16", "bf16"), ("no", "no", "no")):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
        assert make_accelerator(tiny_config.replace({"engine.precision": named})).mixed_precision == expected


def test_a_precision_that_the_device_has_not_is_refused(tiny_config, monkeypatch):
    """Accelerate would train in float32 on a CPU, and the checkpoint would say fp16."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(True)
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        make_accelerator(tiny_config.replace({"engine.precision": "fp16"}))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        make_accelerator(tiny_config)
    AcceleratorState._reset_state(True)
