"""The Wav2Lip-style baseline: what it may see, that it learns, resumes, and becomes a row of the table."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from interruption import Interrupted, stop_at

from lipformer_core import checkpoint
from lipformer_core.config import preset
from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.errors import CheckpointError
from lipformer_core.evaluation import protocol
from lipformer_core.evaluation.cases import Puppet
from lipformer_core.evaluation.report import COLUMNS, ROWS
from lipformer_core.figures import charts
from lipformer_core.model.autoencoder import split_halves
from lipformer_core.model.syncnet import SyncNet
from lipformer_core.model.wav2lip import Wav2Lip
from lipformer_core.training import sync_sampling
from lipformer_core.training.journal import read_log
from lipformer_core.training.wav2lip import COUNT, Wav2LipObjective, Wav2LipStage, train_wav2lip

FACES = 2


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """The expert sees stretches that the tiny clips have."""
    monkeypatch.setattr(sync_sampling, "MAX_SHIFT", 3)


@pytest.fixture(scope="module")
def config(tiny_config):
    return tiny_config.replace(sync={"steps": 2, "batch": 3})


def faces(size: int) -> torch.Tensor:
    return torch.rand(FACES, 3, size, size) * 2 - 1


@pytest.mark.parametrize("size", [32, 96, 144, 256])
def test_the_network_scales_with_the_crop(size, tiny_config):
    model = Wav2Lip(preset("tiny", {"data.size": size}))
    out = model(faces(size), torch.zeros(FACES, 20, 80), model.encode_reference(faces(size)))
    assert out.shape == (FACES, 3, size, size) and out.abs().max() <= 1
    assert model.net.gather.kernel_size in ((2, 2), (3, 3))


def test_it_sees_upper_half_reference_and_sound_and_nothing_of_the_targets_mouth(tiny_config):
    torch.manual_seed(0)
    model = Wav2Lip(tiny_config).eval()
    target, other, audio = faces(32), faces(32), torch.randn(FACES, 20, 80)
    reference = model.encode_reference(other)
    hidden = target.clone()
    hidden[:, :, 16:] = 0.3
    first = model(target, audio, reference)
    assert torch.equal(first, model(hidden, audio, reference))
    for changed in (
        model(target.flip(3), audio, reference),
        model(target, audio.flip(0), reference),
        model(target, audio, model.encode_reference(hidden)),
    ):
        assert (changed - first).abs().max() > 1e-4


def test_width_follows_the_transformers_up_to_wav2lips_own(tiny_config):
    widths = {
        name: Wav2Lip(preset(name)).net.out.in_channels for name in ("tiny", "small", "quick", "realtime", "paper")
    }
    assert widths == {"tiny": 8, "small": 8, "quick": 8, "realtime": 8, "paper": 16}


def test_the_loss_is_l1_and_the_experts_distance_and_the_expert_stays(tiny_config):
    torch.manual_seed(0)
    model, expert = Wav2Lip(tiny_config.replace({"stage1.mouth_weight": 0.0})), SyncNet(8)
    before = checkpoint.fingerprint(expert)
    objective = Wav2LipObjective(model, expert).eval()  # without dropout
    target, sounds = torch.rand(10, 3, 32, 32) * 2 - 1, torch.randn(2, 32, 80)
    audio = torch.randn(10, 20, 80)
    batch = SimpleNamespace(image=target, lent=target.flip(0), audio=audio, window_sounds=sounds)
    loss, figures = objective(batch)
    generated = model(target, audio, model.encode_reference(target.flip(0)))
    bottoms = split_halves(generated)[1].unflatten(0, (2, 5))
    wanted = (generated - target).abs().mean() + 0.03 * (1 - expert(bottoms, sounds).mean())
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    assert all(p.grad is None for p in expert.parameters()) and checkpoint.fingerprint(expert) == before
    assert all(p.grad is not None for p in model.parameters())


def test_it_learns_the_faces_of_a_batch(config, tiny_corpus):
    torch.manual_seed(0)
    stage = Wav2LipStage(config, PreparedCorpus(tiny_corpus), SyncNet(8))
    batch = stage.train.show(*stage.material(0))
    assert batch.image.shape == batch.lent.shape == (COUNT, 3, 32, 32)
    optimiser = torch.optim.Adam(stage.model.parameters(), lr=2e-3)
    images = []
    for _ in range(40):
        loss, figures = stage.objective(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        images.append(float(figures["image"]))
    assert images[-1] < 0.4 * images[0]


def test_each_run_has_one_reference_of_another_time_and_its_own_sound(config, tiny_corpus):
    corpus = PreparedCorpus(tiny_corpus)
    stage = Wav2LipStage(config, corpus, SyncNet(8))
    batch, _ = stage.material(3)
    assert len(batch.frames) == len(batch.lenders) == COUNT
    for first in range(0, COUNT, 5):
        (info, start), run = batch.frames[first], slice(first, first + 5)
        targets = range(start, start + 5)
        assert batch.frames[run] == [(info, target) for target in targets]
        assert batch.lenders[run] == 5 * [batch.lenders[first]] and batch.lenders[first][1] not in targets
        heard = corpus.open(info.clip_id).heard(targets, config.audio)
        np.testing.assert_array_equal(batch.audio[run].numpy(), heard)


def test_trained_twice_or_stopped_and_resumed_it_has_the_same_weights(config, tiny_corpus, tmp_path, monkeypatch):
    whole = train_wav2lip(config, tiny_corpus, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(Wav2LipStage, "losses", stop_at(5, Wav2LipStage))
        with pytest.raises(Interrupted):
            train_wav2lip(config, tiny_corpus, tmp_path / "parts", progress=False)
    resumed = train_wav2lip(config, tiny_corpus, tmp_path / "parts", progress=False)
    assert checkpoint.fingerprint(whole) == checkpoint.fingerprint(resumed)
    log = read_log(tmp_path / "parts/wav2lip")
    assert log["step"][-1] == config.wav2lip.steps and {"val_image", "val_sync", "val_score"} <= set(log)
    with pytest.raises(CheckpointError, match=r"wav2lip\.steps"):
        train_wav2lip(config.replace({"wav2lip.steps": 7}), tiny_corpus, tmp_path / "parts", progress=False)


def test_it_speaks_through_the_same_speaker_as_lipformer(config, tiny_corpus):
    corpus = PreparedCorpus(tiny_corpus)
    clip = corpus.open(corpus.clips("test")[0].clip_id)
    puppet, frames = Puppet(Wav2Lip(config).eval(), clip, torch.device("cpu")), np.arange(4)
    truth = clip.frames(frames)
    spoken = puppet.say(puppet.look(truth, frames), puppet.sound(clip, frames))
    assert spoken.shape == truth.shape and spoken.dtype == np.uint8


def test_a_run_that_has_it_has_its_row_and_says_what_it_costs(config, tiny_corpus, tiny_run, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    monkeypatch.setattr(protocol, "train_meter", brightness)
    before = protocol.evaluate(run, tiny_corpus, tmp_path / "before", progress=False)
    assert before["wav2lip.mouth_psnr"] is None and "lipformer train wav2lip" in before["wav2lip.mouth_psnr.why"]
    assert "Wav2Lip" not in (tmp_path / "before/summary.md").read_text()
    train_wav2lip(config, tiny_corpus, run, progress=False)
    after = protocol.evaluate(run, tiny_corpus, tmp_path / "after", progress=False)
    assert "| Wav2Lip-style |" in (tmp_path / "after/summary.md").read_text()
    for column in ("mouth_psnr", "sharpness", "opening_corr_self", "opening_corr_exchanged", "leak", "motion"):
        assert isinstance(after[f"wav2lip.{column}"], float), column
    same = [key for key in before if key.startswith(("lipformer.", "ceiling.")) and not key.endswith("generate_fps")]
    same = [key for key in same if "sync_expert" not in key and "generate_fps" not in key]
    assert len(same) > 50 and [key for key in same if before[key] != after[key]] == []
    net = Wav2Lip(config)
    assert after["wav2lip.parameters"] == pytest.approx(sum(p.numel() for p in net.parameters()) / 1e6, abs=1e-6)
    first = 2 * 32 * 32 * 9 * 6 * 8 / 1e9  # of the first convolution alone
    assert after["wav2lip.gflop"] > first and after["lipformer.gflop"] > 0
    heads = [text.get_text() for text in charts.score_table(before, ROWS, COLUMNS).axes[0].texts]
    assert not any("Wav2Lip" in head for head in heads)
    heads = [text.get_text() for text in charts.score_table(after, ROWS, COLUMNS).axes[0].texts]
    assert "Wav2Lip-style" in heads


def brightness(corpus: object, folder: object, **_: object) -> SimpleNamespace:
    """In the place of the mouth meter: readings that cost nothing."""
    return SimpleNamespace(read=lambda images: np.repeat(images[:, 20:28, 8:24].mean((1, 2, 3))[:, None] / 500, 2, 1))
