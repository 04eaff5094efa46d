"""`lipformer bench`: what it counts, that it measures in turns, and that the exported graph gives the same pictures."""

import sys

import numpy as np
import pytest
import torch

from lipformer_core import bench
from lipformer_core.bench import dubbing, generators
from lipformer_core.bench.generators import Generator, Subject, exported, measure
from lipformer_core.config import preset
from lipformer_core.data.media import iter_frames, probe
from lipformer_core.errors import ConfigError
from lipformer_core.evaluation.protocol import gigaflop
from lipformer_core.model.build import build
from lipformer_core.model.wav2lip import PublishedWav2Lip
from lipformer_core.results import flat

CPU = torch.device("cpu")


def test_the_yardstick_is_of_the_published_size():
    with torch.device("meta"):
        net, seen, sound = PublishedWav2Lip(), torch.empty(1, 6, 96, 96), torch.empty(1, 1, 80, 16)
    assert net(seen, sound).shape == (1, 3, 96, 96)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(36.3, abs=0.1)
    assert gigaflop(net, seen, sound) == pytest.approx(7.93, abs=0.01)


def test_the_numbers_and_their_table():
    results = bench.bench(["tiny"], device="cpu", seconds=0.01, batch=2, training=True, progress=False)
    flat(results)
    for key in ("gemm_gflops", "convolution_gflops", "wav2lip_shaped_fps", "generator_fps", "generator_gflop"):
        assert np.isfinite(results[key]) and results[key] > 0, key
    assert results["generator_fps"] == results["tiny.eager.fps"]
    assert results["tiny.eager.fps_least"] <= results["tiny.eager.fps"] <= results["tiny.eager.fps_most"]
    parts = [results[f"tiny.{part}_gflop"] for part in generators.PARTS]
    assert sum(parts) == pytest.approx(results["tiny.eager.gflop"], rel=0.01) and min(parts) > 0
    share = results["tiny.eager.fps"] * results["tiny.eager.gflop"] / results["convolution_gflops"]
    assert results["tiny.eager.utilisation"] == pytest.approx(share)
    assert results["tiny.stage1.batch"] == 4 and results["tiny.stage2.batch"] == 2
    assert results["tiny.stage2.gflop"] > 2 * results["tiny.eager.gflop"]  # there and back
    lines = bench.table(results).splitlines()
    for row in ("wav2lip_shaped", "tiny.eager", "tiny.stage1", "tiny.stage2"):
        assert sum(line.startswith(row) for line in lines) == 1, row


@pytest.mark.parametrize("design", ["paper", "ours"])
def test_the_steps_train(design):
    from lipformer_core.bench.training import _codebook, _lipformer

    torch.manual_seed(0)
    for make in (_codebook, _lipformer):
        step = make(preset("tiny", {"lips.design": design}), 2, CPU, False)
        losses = torch.stack([step() for _ in range(12)])
        assert losses[-1] < losses[0]


def test_all_are_measured_in_turns():
    order = []
    subjects = {name: Subject(lambda name=name: order.append(name), 4) for name in "ab"}
    measure(subjects, 0.0, CPU)
    assert order[-2 * generators.ROUNDS :] == ["a", "b"] * generators.ROUNDS
    assert all(len(subject.seconds) == generators.ROUNDS for subject in subjects.values())


def test_what_cannot_be_measured_is_said(monkeypatch):
    with pytest.raises(ConfigError, match="runtime: fast: choose of eager, compile, onnx"):
        bench.bench(["tiny"], runtimes=["fast"], device="cpu")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match="pip install onnx onnxruntime"):
        bench.bench(["tiny"], runtimes=["onnx"], device="cpu", seconds=0.0)


@pytest.mark.parametrize(("design", "reference"), [("paper", "one"), ("ours", "one"), ("ours", "own")])
def test_the_exported_graph_gives_the_same_pictures(tmp_path, design, reference):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    config = preset("tiny", {"lips.design": design, "lips.reference": reference})
    generator = Generator(build(config).ready()).eval()
    with torch.no_grad():
        example = generator.example(3, CPU)
        eager = generator(*example).numpy()
        graph = exported(generator, example, tmp_path)()
    assert eager.shape == (3, 3, 16, 32) and eager.std() > 0.01
    assert np.abs(graph - eager).max() < 1e-4


def test_the_made_up_video(tmp_path):
    path, sound = dubbing.made_up_clip(tmp_path, 1.5)
    info = probe(path)
    assert (info.width, info.height, info.fps) == (1280, 720, 25) and sound == path and info.has_audio
    assert info.duration_s == pytest.approx(1.5, abs=0.05)
    frames = [frame for _, frame in iter_frames(path)]
    assert np.abs(frames[0].astype(int) - frames[20]).mean() > 0.5  # it moves


def test_a_dubbing_by_the_clock_and_one_that_fails(tmp_path):
    clip = dubbing.made_up_clip(tmp_path, 0.4)
    torch.manual_seed(0)
    model = build(preset("tiny")).ready()
    results = dubbing.end_to_end("tiny", model, clip, CPU, tmp_path)
    assert results["tiny.end_to_end_frames"] == 10 and results["tiny.end_to_end_s.model"] > 0
    assert 0 < results["tiny.end_to_end_fps"] < 10 / results["tiny.end_to_end_s.total"]
    assert results["tiny.end_to_end_memory_mb"] > 100
    results = dubbing.end_to_end("nowhere", None, clip, CPU, tmp_path)
    assert results["nowhere.end_to_end_fps"] is None and "no such checkpoint" in results["nowhere.end_to_end_fps.why"]


def test_an_own_video_takes_the_place_of_the_made_up_one(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        generators, "end_to_end", lambda name, *rest: seen.append(rest) or {f"{name}.end_to_end_fps": 9.0}
    )
    results = bench.bench(["tiny"], device="cpu", seconds=0.0, batch=1, video=tmp_path / "a.mp4", progress=False)
    assert results["end_to_end_fps"] == 9.0 and seen[0][1] == (tmp_path / "a.mp4", tmp_path / "a.mp4")
