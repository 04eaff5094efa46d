"""The sync expert: what it sees, that it learns, where its chance line is, and that it finds an offset."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lipformer_core import checkpoint
from lipformer_core.data.audio import SILENCE
from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.errors import CheckpointError, DataError
from lipformer_core.evaluation import sync as judge
from lipformer_core.figures.charts import distance_curves, sync_offsets, sync_training
from lipformer_core.model.syncnet import AUDIO_WINDOW, SyncNet, see, windows
from lipformer_core.training import sync_sampling
from lipformer_core.training.journal import read_log
from lipformer_core.training.sync import SyncObjective, SyncStage, info_nce, train_sync, wins
from lipformer_core.training.sync_sampling import (
    StretchSampler,
    augment_pictures,
    augment_sounds,
    seen_frames,
    soften,
)

WIDTH = 8


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Stretches of eight frames: four windows."""
    monkeypatch.setattr(sync_sampling, "MAX_SHIFT", 3)


@pytest.fixture(scope="module")
def corpus(tiny_corpus):
    return PreparedCorpus(tiny_corpus)


@pytest.mark.parametrize("size", [32, 96, 256])
def test_any_crop_size_gives_similarities_with_a_gradient_to_the_pictures(size):
    net = SyncNet(WIDTH)
    bottoms = (torch.rand(2, 5, 3, size // 2, size) * 2 - 1).requires_grad_()
    similarity = net(bottoms, torch.rand(2, AUDIO_WINDOW, 80))
    assert similarity.shape == (2,) and similarity.abs().max() <= 1 + 1e-6
    similarity.sum().backward()
    assert bottoms.grad.abs().sum() > 0
    assert see(bottoms.flatten(0, 1)).shape == (10, 3, 48, 64)


def test_embeddings_lie_on_the_sphere_and_ignore_brightness_and_contrast():
    net = SyncNet(WIDTH).eval()
    seen = torch.rand(3, 5, 3, 48, 64) - 0.5
    faces = net.embed_faces(seen)
    torch.testing.assert_close(faces.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(net.embed_faces(seen + 0.3), faces, atol=1e-4, rtol=0)
    sounds = net.embed_sounds(torch.rand(3, AUDIO_WINDOW, 80))
    torch.testing.assert_close(sounds.norm(dim=-1), torch.ones(3))
    assert faces.shape == sounds.shape == (3, 4 * WIDTH)


def test_windows_are_the_consecutive_runs():
    frames = torch.arange(2 * 6 * 3).reshape(2, 6, 3)
    cut = windows(frames, 4)
    assert cut.shape == (2, 3, 4, 3)
    assert torch.equal(cut[1, 2], frames[1, 2:6])


def test_without_knowledge_the_loss_is_the_log_of_the_number_of_candidates(corpus):
    torch.manual_seed(0)
    drawn = StretchSampler(corpus, "train").draw(np.random.default_rng(0), 4)
    objective = SyncObjective(WIDTH)
    _, figures = objective(seen_frames(drawn.pixels), torch.from_numpy(drawn.sounds), torch.from_numpy(drawn.lips))
    assert figures["chance"] == pytest.approx(math.log(4 * 4))
    assert float(figures["loss"]) == pytest.approx(figures["chance"], abs=0.15)
    assert float(info_nce(torch.zeros(7, 7))) == pytest.approx(math.log(7))


def test_one_batch_is_learnt_by_heart(corpus):
    torch.manual_seed(0)
    drawn = StretchSampler(corpus, "train").draw(np.random.default_rng(0), 4)
    material = seen_frames(drawn.pixels), torch.from_numpy(drawn.sounds), torch.from_numpy(drawn.lips)
    objective = SyncObjective(WIDTH)
    torch.nn.init.constant_(objective.net.log_scale, math.log(20))  # as it is after some hundred steps
    optimiser = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    for _ in range(120):
        loss, figures = objective(*material)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(figures["loss"]) < 0.1 and float(figures["accuracy"]) == 1
    assert float(figures["shift_wins"]) == float(figures["foreign_wins"]) == 1


def test_wins_tell_moved_sound_from_foreign_sound():
    similarity = torch.tensor([[0.5, 0.9, 0.1, 0.2], [0.1, 0.5, 0.1, 0.1], [0.6, 0.1, 0.5, 0.1], [0.1, 0.1, 0.1, 0.5]])
    figures = {name: float(value) for name, value in wins(similarity, 2).items()}
    assert figures == pytest.approx({"accuracy": 0.5, "shift_wins": 0.75, "foreign_wins": 0.875, "wins": 0.8125})
    assert set(wins(torch.eye(3), 3)) == {"accuracy", "wins", "shift_wins"}  # one clip alone
    assert set(wins(torch.eye(3), 1)) == {"accuracy", "wins", "foreign_wins"}  # nothing is moved


def test_a_batch_holds_different_clips_and_each_windows_own_sound(corpus, monkeypatch):
    sampler = StretchSampler(corpus, "train")
    drawn = sampler.draw(np.random.default_rng(1), 20)
    assert len({info.clip_id for info, _ in drawn.pairs}) == len(drawn.pairs) == 6  # all there are
    info, first = drawn.pairs[2]
    clip = corpus.open(info.clip_id)
    np.testing.assert_array_equal(drawn.pixels[2], clip.frames(range(first, first + 8))[:, 16:])
    np.testing.assert_array_equal(drawn.sounds[2, 1], clip.audio_windows([first + 3], 32)[0])
    assert drawn.lips.shape == (6, 8, 2) and drawn.sounds.shape[:2] == (6, 4)
    assert info.clip_id in str(drawn)
    again = sampler.draw(np.random.default_rng(1), 20)
    np.testing.assert_array_equal(again.pixels, drawn.pixels)
    monkeypatch.setattr(sync_sampling, "MAX_SHIFT", 25)
    with pytest.raises(DataError, match="30 frames in a row"):
        StretchSampler(corpus, "train")


def test_augmentation_treats_all_frames_of_a_clip_alike(monkeypatch):
    torch.manual_seed(0)
    seen = (torch.rand(4, 1, 3, 48, 64) - 0.5).expand(4, 6, 3, 48, 64)
    changed = augment_pictures(seen)
    assert changed.shape == seen.shape and not torch.allclose(changed, seen, atol=0.05)
    assert torch.equal(changed[:, :1].expand_as(changed), changed)
    seen = seen.repeat(4, 1, 1, 1, 1)
    soft = soften(seen)
    assert torch.equal(soft[:, :1].expand_as(soft), soft)
    spread, before = soft.std((1, 2, 3, 4)), seen.std((1, 2, 3, 4))
    assert (spread <= before + 1e-6).all() and 0 < (spread < before - 0.01).sum() < 16
    monkeypatch.setattr(sync_sampling, "COLOUR", 0.0)
    monkeypatch.setattr(sync_sampling, "GEOMETRY", 0.0)
    still = augment_pictures(seen)
    mirrored = [torch.allclose(a, b.flip(-1), atol=1e-4) for a, b in zip(still, seen, strict=True)]
    plain = [torch.allclose(a, b, atol=1e-4) for a, b in zip(still, seen, strict=True)]
    assert all(a != b for a, b in zip(mirrored, plain, strict=True)) and any(mirrored) and any(plain)


def test_augmented_sound_keeps_time_and_silence(monkeypatch):
    torch.manual_seed(0)
    sounds = torch.full((3, 4, 32, 80), SILENCE)
    sounds[:, :, 10:20] = 0.3
    monkeypatch.setattr(sync_sampling, "GAIN", 0.0)
    assert augment_sounds(sounds)[:, :, 10:20].std() > 0.01
    monkeypatch.undo()
    monkeypatch.setattr(sync_sampling, "NOISE", 0.0)
    changed = augment_sounds(sounds)
    assert changed.min() >= SILENCE and (changed[:, :, 10:20] - 0.3).abs().max() <= 2 * sync_sampling.GAIN + 1e-5
    assert (changed[:, :, 10:20].std((1, 2)) < 1e-6).all()  # one change a clip
    assert not torch.allclose(changed[0, 0, 12], changed[1, 0, 12])


def test_interrupted_training_continues_as_if_nothing_had_happened(tiny_config, tiny_corpus, tmp_path, monkeypatch):
    whole = train_sync(tiny_config, tiny_corpus, tmp_path / "whole", progress=False)
    real = SyncStage.losses

    def stop_at_five(self, number, material):
        if number == 5:  # the last checkpoint is from step 4
            raise InterruptedError
        return real(self, number, material)

    monkeypatch.setattr(SyncStage, "losses", stop_at_five)
    with pytest.raises(InterruptedError):
        train_sync(tiny_config, tiny_corpus, tmp_path / "parts", progress=False)
    monkeypatch.setattr(SyncStage, "losses", real)
    parts = train_sync(tiny_config, tiny_corpus, tmp_path / "parts", progress=False)
    assert checkpoint.fingerprint(whole) == checkpoint.fingerprint(parts)
    log = read_log(tmp_path / "parts/sync")
    assert log["step"][-1] == 6 and {"loss", "chance", "accuracy", "val_shift_wins", "val_foreign_wins"} <= set(log)
    before = (tmp_path / "parts/sync/model.safetensors").stat().st_mtime_ns
    others = {"stage1.batch": 9, "codebook.dim": 4, "lips.layers": 2, "stage2.cached.steps": 9}
    train_sync(tiny_config.replace(others), tiny_corpus, tmp_path / "parts", progress=False)
    assert (tmp_path / "parts/sync/model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(CheckpointError, match=r"sync\.width"):
        train_sync(tiny_config.replace({"sync.width": 16}), tiny_corpus, tmp_path / "parts", progress=False)


class Flash(torch.nn.Module):
    """An expert for a toy: frames and sounds of a moment share a random brightness, which is all that it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = torch.nn.Parameter(torch.zeros(()))

    def embed_faces(self, seen: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(seen.mean((2, 3, 4)), dim=-1)  # (B, T)

    def embed_sounds(self, sounds: torch.Tensor) -> torch.Tensor:
        middle = sounds.shape[1] // 2
        return torch.nn.functional.normalize(sounds[:, middle - 8 : middle + 9 : 4].mean(2), dim=-1)


def toy(n: int = 80, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """n crops and their mel: both as bright as the same random series."""
    series = np.random.default_rng(seed).uniform(20, 235, n).round()
    images = np.broadcast_to(series[:, None, None, None], (n, 24, 24, 3)).astype(np.uint8)
    return images, np.repeat(series[:, None] / 127.5 - 1, 4, 0).astype(np.float32) * np.ones((1, 80), np.float32)


@pytest.mark.parametrize("late", [-6, 0, 4])
def test_moved_sound_moves_the_offset_by_as_much(late):
    images, mel = toy()
    reading = judge.sync_distance(Flash(), np.roll(images, late, axis=0), mel)
    assert reading.offset == late
    assert reading.distance == pytest.approx(0, abs=1e-3) and reading.confidence > 0.2
    assert len(reading.curve) == 31 and reading.curve.argmin() == 15 - late


def test_another_clips_sound_is_farther_and_less_certain():
    images, mel = toy()
    own, other = (judge.sync_distance(Flash(), images, sound) for sound in (mel, toy(seed=1)[1]))
    assert other.distance > own.distance + 0.1 and other.confidence < own.confidence / 2
    with pytest.raises(DataError, match="too few frames"):
        judge.sync_distance(Flash(), images[:34], mel)


class Clips:
    """A corpus of toys: `knows` is the share of clips whose sound belongs to their pictures."""

    folder = "toys"

    def __init__(self, count: int = 12, knows: float = 1.0, frames: int = 80) -> None:
        self.infos, self.clips_by_id = [], {}
        for i in range(count):
            images, mel = toy(frames, seed=i)
            if i >= knows * count:
                mel = toy(frames, seed=100 + i)[1]
            info = SimpleNamespace(clip_id=f"c{i}", person=f"p{i}", runs=[(0, frames)])
            self.infos.append(info)
            self.clips_by_id[info.clip_id] = (images, mel)

    def clips(self, split: str, stills: bool = True) -> list:
        return self.infos

    def open(self, clip_id: str) -> SimpleNamespace:
        from lipformer_core.data.audio import mel_windows

        images, mel = self.clips_by_id[clip_id]
        return SimpleNamespace(
            frames=lambda index: images[np.asarray(index)],
            audio_windows=lambda index, window: mel_windows(mel, np.asarray(index) / 25, window),
        )


def test_accuracy_is_whole_for_an_expert_that_knows_and_chance_for_one_that_does_not():
    knows = judge.sync_accuracy(Flash(), Clips())
    guesses = judge.sync_accuracy(Flash(), Clips(knows=0.0))
    for key, share in knows.share.items():
        assert share.shape == (12, 12) and np.isnan(share[:, 5]).all()
        assert np.nanmean(share) > 0.95, key
        assert 0.4 < np.nanmean(guesses.share[key]) < 0.6, key
    assert knows.share["two_sounds", 1][:, [0, -1]].min() > 0.99
    flat = knows.flat()
    assert (knows.persons, flat["sync_expert.clips"], flat["sync_expert.windows"]) == (12, 12, 12 * 66)
    assert {"sync_expert.two_sounds_shifted", "sync_expert.one_sound_foreign_1s"} <= set(flat)
    axis = sync_offsets(knows.curves()).axes[0]
    assert len(axis.get_legend().get_texts()) == 4


def test_the_chance_line_stands_beside_the_loss():
    nan = float("nan")
    log = {"step": [1.0, 2.0], "loss": [4.0, 3.0], "chance": [4.1, 4.1], "val_loss": [nan, 3.5]}
    log |= {"val_shift_wins": [nan, 0.7], "val_foreign_wins": [nan, 0.8]}
    loss, won = sync_training(log).axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in loss.lines}
    assert drawn == {"training": [4.0, 3.0], "validation": [3.5], "chance": [4.1, 4.1]}
    assert [0.5, 0.5] in [list(line.get_ydata()) for line in won.lines]
    (axis,) = distance_curves({"own": [1.0, 0.0, 1.0]}, reach=1).axes
    assert list(axis.lines[0].get_xdata()) == [-1, 0, 1]


def test_too_short_clips_are_named():
    with pytest.raises(DataError, match="fewer than two clips"):
        judge.sync_accuracy(Flash(), Clips(frames=34))
