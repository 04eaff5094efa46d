"""LSE-D and LSE-C without their weights: cepstra, crops, the network's names and the way from crops to a distance."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lipformer_core import weights
from lipformer_core.evaluation import lse


def test_cepstra_are_those_of_the_package_that_syncnet_uses():
    speech = pytest.importorskip("python_speech_features")
    rng = np.random.default_rng(0)
    for samples in (16_000, 16_111, 300):
        sound = (3000 * rng.standard_normal(samples) * np.sin(np.arange(samples) / 900)).astype(np.int16)
        np.testing.assert_allclose(lse.mfcc(sound), speech.mfcc(sound, 16_000), atol=1e-8)
    np.testing.assert_allclose(lse.mfcc(np.zeros(4_000, np.int16)), speech.mfcc(np.zeros(4_000, np.int16), 16_000))


def test_the_network_takes_the_published_files_names_and_as_many_numbers():
    state = lse.OriginalSyncNet().state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    published = {
        "netcnnaud.0.weight": (64, 1, 3, 3),
        "netcnnaud.5.running_var": (192,),
        "netcnnaud.14.weight": (256, 256, 3, 3),
        "netcnnaud.18.weight": (512, 256, 5, 4),
        "netcnnlip.0.weight": (96, 3, 5, 7, 7),
        "netcnnlip.4.weight": (256, 96, 1, 5, 5),
        "netcnnlip.15.running_mean": (256,),
        "netcnnlip.18.weight": (512, 256, 1, 6, 6),
        "netfcaud.1.weight": (512,),
        "netfclip.3.weight": (1024, 512),
    }
    assert published.items() <= shapes.items()
    numbers = sum(tensor.numel() for name, tensor in state.items() if "num_batches" not in name)
    assert 0 <= 54_573_114 - 4 * numbers < 50_000  # bytes of the published file, names included
    old = {name: tensor for name, tensor in state.items() if "num_batches" not in name}  # as written in 2017
    lse.OriginalSyncNet().load_state_dict(old)


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """The real loading code on networks of random weights."""
    from face_alignment.detection.sfd.net_s3fd import s3fd

    torch.manual_seed(0)
    torch.save(lse.OriginalSyncNet().state_dict(), tmp_path / lse.SYNCNET)
    torch.save(s3fd().state_dict(), tmp_path / lse.DETECTOR)
    monkeypatch.setattr(weights, "find", lambda name: tmp_path / name)
    return lse.Lse()


def test_windows_are_five_pictures_against_a_fifth_of_a_second(judge):
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (6, 224, 224, 3), dtype=np.uint8)
    sound = rng.integers(-9000, 9000, 12 * 640).astype(np.int16)
    lips, sounds = judge.embed_lips(crops), judge.embed_sounds(sound)
    assert lips.shape == (2, 1024) and sounds.shape == (7, 1024)
    blue_first = torch.from_numpy(crops[1:6, ..., ::-1].transpose(3, 0, 1, 2).copy()).float()
    with torch.inference_mode():
        np.testing.assert_allclose(lips[1], judge.network.embed_lips(blue_first[None])[0], atol=1e-4)
        third = torch.from_numpy(lse.mfcc(sound)[12:32].T.copy()).float()
        np.testing.assert_allclose(sounds[3], judge.network.embed_sounds(third[None])[0], atol=1e-4)
    assert judge.detect(crops[:2, :64, :64].copy()).shape == (2, 4)


def test_a_crop_has_its_margin_at_both_sides_and_below_and_grey_beyond_the_frame():
    across, down = np.meshgrid(np.arange(250, dtype=np.uint8), np.arange(250, dtype=np.uint8))
    frame = np.dstack([across, down, np.full_like(across, 7)])
    seen = lse.cut(frame, 120, 100, 50).astype(float)  # columns 50 to 190, rows 50 to 190
    assert seen.shape == (224, 224, 3)
    np.testing.assert_allclose(seen[0, :, 0], 50 + (np.arange(224) + 0.5) * 140 / 224 - 0.5, atol=1)
    np.testing.assert_allclose(seen[:, 0, 1], 50 + (np.arange(224) + 0.5) * 140 / 224 - 0.5, atol=1)
    beyond = lse.cut(frame, 240, 210, 50)
    assert (beyond[-1] == 110).all() and (beyond[:, -1] == 110).all() and beyond[0, 0, 2] == 7


def test_boxes_are_bridged_and_steadied():
    boxes = np.tile([10.0, 20, 50, 80], (40, 1))
    boxes[5:9] = np.nan
    boxes[20] += 30  # one wrong detection
    np.testing.assert_allclose(lse.smooth_boxes(boxes)[7:-7], np.tile([30, 50, 30], (26, 1)))
    assert np.isnan(lse.smooth_boxes(np.full((20, 4), np.nan))).all()


@pytest.mark.parametrize("late", [-6, 0, 10])
def test_a_known_shift_is_found(late):
    rng = np.random.default_rng(1)
    sounds = rng.standard_normal((80, 16)).astype(np.float32)
    lips = np.roll(sounds, -late, axis=0) + 0.1 * rng.standard_normal(sounds.shape).astype(np.float32)
    curve = lse.distances(lips, sounds)
    distance, confidence, offset = lse.scores(curve)
    assert offset == late and distance < 0.3 * np.median(curve) and confidence == np.median(curve) - distance
    padded = torch.nn.functional.pad(torch.from_numpy(sounds), (0, 0, 15, 15))
    theirs = [torch.nn.functional.pairwise_distance(torch.from_numpy(lips), padded[k : k + 80]) for k in range(31)]
    np.testing.assert_allclose(curve, torch.stack(theirs).mean(1), rtol=1e-5)


class Bright:
    """In the place of the networks: a window is its pictures' brightness, a sound its loudness."""

    def detect(self, images: np.ndarray) -> np.ndarray:
        return np.tile([16.0, 8, 48, 56], (len(images), 1))

    def embed_lips(self, crops: np.ndarray) -> np.ndarray:
        level = crops[:, 100:110, 100:110].mean((1, 2, 3))
        return np.lib.stride_tricks.sliding_window_view(level, lse.FRAMES).astype(np.float32)

    def embed_sounds(self, sound: np.ndarray) -> np.ndarray:
        level = sound.reshape(-1, 640).mean(1)
        return np.lib.stride_tricks.sliding_window_view(level, lse.FRAMES)[:-1].astype(np.float32)


def test_batches_and_gaps_leave_no_trace():
    rng = np.random.default_rng(2)
    level = rng.integers(0, 256, 70)
    pictures = np.broadcast_to(level.astype(np.uint8)[:, None, None, None], (70, 64, 64, 3))
    clip = SimpleNamespace(frames=lambda indices: pictures[indices])
    frames = np.delete(np.arange(70), [3, 20])  # the longest run begins at 21
    watched = lse.Watched(Bright(), clip, frames)
    for start in range(0, len(frames), 7):
        part = frames[start : start + 7]
        watched.add("ground_truth", pictures[part], part)
    sound = np.repeat(level, 640).astype(np.int16)
    distance, confidence, offset = watched.scores("ground_truth", frames, sound)
    assert distance < 1e-4 and offset == 0 and confidence > 50
    assert watched.scores("ground_truth", frames, np.roll(sound, 640 * 10))[2] == 10
    assert watched.scores("ground_truth", frames, sound[:640]) == ()
