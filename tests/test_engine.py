"""The training loop: exact resume, averages, accumulation, processes, a guard against NaN; checkpoints, no pickles."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from interruption import Interrupted, stop_at
from processes import train_in_processes
from safetensors.torch import load_file, save_file

import lipformer_core as lf
from lipformer_core import checkpoint
from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.errors import CheckpointError, TrainingDiverged
from lipformer_core.training.averaging import WeightAverage
from lipformer_core.training.codebook import CodebookStage, train_codebook
from lipformer_core.training.journal import read_log
from lipformer_core.training.lipformer import LipFormerStage, train_lipformer
from lipformer_core.training.looks import clip_looks
from lipformer_core.training.loop import STATES, finished, learning_rate, optimise
from lipformer_core.training.sampling import FrameSampler
from lipformer_core.training.sync import train_sync


@pytest.mark.parametrize("options", [{}, {"optimiser.weight_average": 0.9, "optimiser.accumulate": 2}])
def test_resumed_stage_1_equals_an_uninterrupted_one(options, tiny_config, tiny_corpus, tmp_path, monkeypatch):
    config = tiny_config.replace(options)
    monkeypatch.setattr("lipformer_core.training.codebook.REVIVE_EVERY", 5)  # counts must outlive the interruption
    train_codebook(config, tiny_corpus, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        # the last state is of step 8, later than the k-means
        patch.setattr(CodebookStage, "losses", stop_at(9, CodebookStage))
        train_codebook(config, tiny_corpus, tmp_path / "parts", progress=False)
    assert not (tmp_path / "parts/codebook/model.safetensors").exists()
    train_codebook(config, tiny_corpus, tmp_path / "parts", progress=False)
    whole, parts = (checkpoint.load_codebook(tmp_path / name) for name in ("whole", "parts"))
    assert checkpoint.fingerprint(whole) == checkpoint.fingerprint(parts)
    logs = [read_log(tmp_path / name / "codebook") for name in ("whole", "parts")]
    for name in ("step", "l1", "vq", "val_psnr", "bottom_perplexity"):
        np.testing.assert_equal(logs[0][name], logs[1][name])
    assert not list((tmp_path / "parts/codebook").glob(STATES))


def test_resumed_stage_2_equals_an_uninterrupted_one(tiny_config, tiny_corpus, tiny_run, tmp_path, monkeypatch):
    config = tiny_config.replace({"engine.check_every": 1, "stage2.cached.steps": 3})
    assert config.optimiser.weight_average  # averages have to be resumed too
    for name in ("whole", "parts"):
        shutil.copytree(tiny_run / "codebook", tmp_path / name / "codebook")
    train_lipformer(config, tiny_corpus, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(LipFormerStage, "losses", stop_at(2, LipFormerStage))
        train_lipformer(config, tiny_corpus, tmp_path / "parts", progress=False)
    train_lipformer(config, tiny_corpus, tmp_path / "parts", progress=False)
    whole, parts = (lf.load(tmp_path / name) for name in ("whole", "parts"))
    assert checkpoint.fingerprint(whole) == checkpoint.fingerprint(parts)


def test_states_rotate_and_a_broken_newest_one_is_passed_over(tiny_config, tiny_corpus, tmp_path, monkeypatch):
    config = tiny_config.replace({"engine.check_every": 2})
    train_codebook(config, tiny_corpus, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(CodebookStage, "losses", stop_at(9, CodebookStage))
        train_codebook(config, tiny_corpus, tmp_path / "parts", progress=False)
    states = sorted((tmp_path / "parts/codebook").glob(STATES))
    assert [path.stem for path in states] == ["step-00000006", "step-00000008"]
    states[-1].write_bytes(states[-1].read_bytes()[:1000])
    with pytest.warns(UserWarning, match="step-00000008"):
        train_codebook(config, tiny_corpus, tmp_path / "parts", progress=False)
    whole, parts = (checkpoint.load_codebook(tmp_path / name) for name in ("whole", "parts"))
    assert checkpoint.fingerprint(whole) == checkpoint.fingerprint(parts)


def test_finished_run_is_returned_and_other_settings_are_refused(tiny_run, tiny_config, tiny_corpus):
    before = (tiny_run / "codebook/model.safetensors").stat().st_mtime_ns
    train_codebook(tiny_config, tiny_corpus, tiny_run, progress=False)
    assert (tiny_run / "codebook/model.safetensors").stat().st_mtime_ns == before
    for change in ({"stage1.batch": 5}, {"codebook.dim": 4}, {"optimiser.accumulate": 2}):
        with pytest.raises(CheckpointError, match=next(iter(change))):
            train_codebook(tiny_config.replace(change), tiny_corpus, tiny_run, progress=False)


def test_a_loss_that_is_not_finite_stops_at_the_last_good_state_and_names_its_frames(
    tiny_config, tiny_corpus, tmp_path, monkeypatch
):
    real = CodebookStage.losses

    def poisoned(self, number, material):
        if number == 9:
            material[1][:] = 255
            material[2].gain[0] = float("nan")
        return real(self, number, material)

    with monkeypatch.context() as patch, pytest.raises(TrainingDiverged, match=r"step 9 gave .*nan") as caught:
        patch.setattr(CodebookStage, "losses", poisoned)
        train_codebook(tiny_config, tiny_corpus, tmp_path, progress=False)
    sampler = FrameSampler(PreparedCorpus(tiny_corpus), "train")
    for info, frame in sampler.draw((tiny_config.seed, 9), tiny_config.stage1.batch):
        assert f"{info.clip_id} frame {frame}" in str(caught.value)
    assert "step-00000008.safetensors holds the last good state" in str(caught.value)
    state = checkpoint.load(tmp_path / "codebook/step-00000008.safetensors")[1]
    assert all(torch.isfinite(tensor).all() for tensor in state.values() if tensor.is_floating_point())
    train_codebook(tiny_config, tiny_corpus, tmp_path, progress=False)  # and the same command goes on


def test_an_infinite_gradient_stops_the_training_at_its_own_step(tiny_config, tiny_corpus, tmp_path, monkeypatch):
    real = CodebookStage.losses

    def poisoned(self, number, material):
        losses, logged = real(self, number, material)
        return [losses[0] * (float("inf") if number == 4 else 1)], logged

    monkeypatch.setattr(CodebookStage, "losses", poisoned)
    with pytest.raises(TrainingDiverged, match="step 4 gave gradient"):
        train_codebook(tiny_config, tiny_corpus, tmp_path, progress=False)


def test_a_validation_that_is_not_finite_stops_the_training(tiny_config, tiny_corpus, tmp_path, monkeypatch):
    scores = iter([1.0, float("nan")])
    monkeypatch.setattr(CodebookStage, "evaluate", lambda stage: {"val_psnr": next(scores)})
    with pytest.raises(TrainingDiverged, match="step 8: the validation gave val_psnr = nan. step-00000004.*last good"):
        train_codebook(tiny_config, tiny_corpus, tmp_path, progress=False)


def test_accumulated_batches_are_one_large_batch(tiny_config, tiny_corpus):
    """Two materials a step and one of both: the same gradients, but for rounding."""
    gradients = []
    for parts in (1, 2):
        torch.manual_seed(0)
        stage = CodebookStage(tiny_config, PreparedCorpus(tiny_corpus))
        (pairs, pixels, _), halves = stage.material(0), (slice(0, 2), slice(2, 4))
        cut = [(pairs[h], pixels[h], clip_looks([""] * 2, [0] * 2, tiny_config.stage1)) for h in halves]
        whole = [(pairs, pixels, clip_looks([""] * 4, [0] * 4, tiny_config.stage1))]
        optimise(stage, 0, whole if parts == 1 else cut)
        gradients.append([p.grad for p in stage.autoencoder.encoder.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-6)


def test_averages_follow_the_closed_form_and_give_the_weights_back():
    model = torch.nn.Linear(2, 1, bias=False)
    average = WeightAverage(model, 0.9)
    expected = model.weight.detach().clone()
    for n in range(30):
        with torch.no_grad():
            model.weight.copy_(torch.randn(1, 2))
        average.update()
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    own = model.weight.detach().clone()
    with average.in_place():
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight.detach(), own)


@pytest.mark.slow
def test_two_processes_equal_one_on_the_same_global_batch(tiny_config, tiny_corpus, tmp_path, monkeypatch):
    """Losses, gradients, weights, codebook statistics and revived codes agree, but for the order of sums."""
    config, every_step = tiny_config.replace({"stage1.augment": 0.5}), "from lipformer_core.training import loop"
    every_step += "\nloop.LOG_EVERY = 1"
    monkeypatch.setattr("lipformer_core.training.loop.LOG_EVERY", 1)
    train_in_processes(2, tmp_path / "two", tiny_corpus, config.replace({"stage1.batch": 4}), first=every_step)
    train_codebook(config.replace({"stage1.batch": 8}), tiny_corpus, tmp_path / "one", progress=False)
    logs = [read_log(tmp_path / name / "codebook") for name in ("one", "two")]
    assert logs[0]["step"] == logs[1]["step"] == list(range(1, 13))
    for name in ("l1", "vq", "gradient", "val_psnr"):
        np.testing.assert_allclose(logs[0][name], logs[1][name], rtol=1e-3, err_msg=name)
    one, two = (load_file(tmp_path / name / "codebook/model.safetensors") for name in ("one", "two"))
    for half in ("upper", "bottom"):
        assert one[f"used.{half}"].sum() > 0
        torch.testing.assert_close(one[f"used.{half}"], two[f"used.{half}"], rtol=0, atol=4)
        name = f"autoencoder.{half}_codebook.weight"
        torch.testing.assert_close(one[name], two[name], rtol=0.02, atol=2e-3)


@pytest.mark.slow
def test_two_processes_train_stage_2_over_a_codebook_of_one(tiny_config, tiny_corpus, tiny_run, tmp_path):
    shutil.copytree(tiny_run / "codebook", tmp_path / "codebook")
    train_in_processes(2, tmp_path, tiny_corpus, tiny_config, "lipformer")
    model = lf.load(tmp_path)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_deterministic_mode_gives_the_same_bits_twice_and_ends_with_the_training(
    tiny_config, tiny_corpus, tmp_path, monkeypatch
):
    config, during, real = tiny_config.replace({"engine.deterministic": True}), [], CodebookStage.losses
    enabled = torch.are_deterministic_algorithms_enabled
    monkeypatch.setattr(CodebookStage, "losses", lambda *given: during.append(enabled()) or real(*given))
    for name in ("a", "b"):
        train_codebook(config, tiny_corpus, tmp_path / name, progress=False)
        assert not enabled()
    a, b = (checkpoint.load_codebook(tmp_path / name) for name in ("a", "b"))
    assert checkpoint.fingerprint(a) == checkpoint.fingerprint(b)
    assert during == 2 * config.stage1.steps * [True]
    monkeypatch.setattr(CodebookStage, "losses", stop_at(0, CodebookStage))
    for train in (train_codebook, train_lipformer):
        with pytest.raises(Interrupted):
            train(config, tiny_corpus, tmp_path / "c", progress=False)
        assert not enabled()


def test_the_loss_scaler_is_resumed(tiny_config, tiny_corpus, tmp_path, monkeypatch):
    """On a CPU there is no fp16: a scaler is put in by hand, and the loop must keep its state."""
    scalers = []

    class Scaled(CodebookStage):
        def __init__(self, *given):
            super().__init__(*given)
            self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
            scalers.append(self.accelerator.scaler)

        def after(self, number):
            super().after(number)
            scaler = self.accelerator.scaler
            scaler.load_state_dict(scaler.state_dict() | {"scale": 2.0**number, "_growth_tracker": number})

    monkeypatch.setattr("lipformer_core.training.codebook.CodebookStage", Scaled)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Scaled, "losses", stop_at(9, Scaled))
        train_codebook(tiny_config, tiny_corpus, tmp_path, progress=False)
    state = max((tmp_path / "codebook").glob(STATES))
    assert float(checkpoint.part(checkpoint.load(state)[1], checkpoint.SCALER)["scale"]) == 2.0**7
    seen = []
    monkeypatch.setattr(
        Scaled,
        "before",
        lambda self, number: seen.append(scalers[-1].state_dict()["scale"]) or super(Scaled, self).before(number),
    )
    train_codebook(tiny_config, tiny_corpus, tmp_path, progress=False)
    assert seen[0] == 2.0**7 and seen[1] == 2.0**8


def test_a_run_of_before_a_setting_came_counts_as_one_with_its_default(tiny_config, tiny_run, tmp_path):
    header, tensors = checkpoint.load(tiny_run / "lipformer/model.safetensors")
    del header["config"]["lips"]["keep_reference"], header["config"]["engine"]["compile"]
    (tmp_path / "lipformer").mkdir()
    save_file(tensors, tmp_path / "lipformer/model.safetensors", {"header": json.dumps(header)})
    assert finished(tmp_path / "lipformer", tiny_config)
    with pytest.raises(CheckpointError, match="lips.keep_reference"):
        finished(tmp_path / "lipformer", tiny_config.replace({"lips.keep_reference": 1.0}))


def test_compiled_networks_train_as_the_others_do(tiny_config, tiny_corpus, tmp_path, monkeypatch):
    """torch.compile captures all of a step; its graphs run as they are, which needs no C++ compiler."""
    compiled = []
    real = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self) or real(self, backend="eager"))
    models = {}
    for name, config in (("plain", tiny_config), ("compiled", tiny_config.replace({"engine.compile": True}))):
        models[name] = train_lipformer(config, tiny_corpus, tmp_path / name, progress=False)
        train_sync(config.replace(sync={"steps": 2, "batch": 2}), tiny_corpus, tmp_path / name, False)
        assert len(compiled) == {"plain": 0, "compiled": 5}[name]  # autoencoder, three phases, sync expert
    for key, value in models["plain"].state_dict().items():
        torch.testing.assert_close(models["compiled"].state_dict()[key], value, atol=1e-3, rtol=1e-3, msg=key)
    assert not any(
        "_orig_mod" in name for name in checkpoint.load(tmp_path / "compiled/lipformer/model.safetensors")[1]
    )


def test_curves_are_there_for_tensorboard(tiny_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tiny_run / "codebook/tensorboard"))
    board.Reload()
    log = read_log(tiny_run / "codebook")
    assert set(log) - {"step"} == set(board.Tags()["scalars"])
    assert [event.step for event in board.Scalars("l1")] == log["step"]
    np.testing.assert_allclose([event.value for event in board.Scalars("l1")], log["l1"], rtol=1e-5)


def test_a_run_goes_on_from_another_ones_weights(tiny_run, tiny_config, tiny_corpus, tmp_path):
    config = tiny_config.replace({"stage1.steps": 1, "stage1.lr": 0.0})
    after = train_codebook(config, tiny_corpus, tmp_path, progress=False, start=tiny_run)
    whole = lf.load(tiny_run).autoencoder  # its decoder is the one that stage 2 has fine-tuned
    assert checkpoint.fingerprint(after) == checkpoint.fingerprint(whole)
    assert checkpoint.header_of(tmp_path, "codebook")["start"] == checkpoint.fingerprint(whole)
    shutil.copytree(tiny_run / "codebook", tmp_path / "first/codebook")  # a run of stage 1 alone
    after = train_codebook(config, tiny_corpus, tmp_path / "a", progress=False, start=tmp_path / "first")
    assert checkpoint.fingerprint(after) == checkpoint.fingerprint(checkpoint.load_codebook(tiny_run))
    with pytest.raises(CheckpointError, match="another architecture"):
        other = config.replace({"codebook.widths": (8, 16)})
        train_codebook(other, tiny_corpus, tmp_path / "b", progress=False, start=tiny_run)


def test_checkpoint_rebuilds_its_model_alone(tiny_run, tiny_corpus, tmp_path):
    shutil.copytree(tiny_run / "lipformer", tmp_path / "run/lipformer")
    model = lf.load(tmp_path / "run")
    assert checkpoint.fingerprint(model) == checkpoint.fingerprint(lf.load(tiny_run))
    header = json.loads((tmp_path / "run/lipformer/model.json").read_text())
    assert header["data_hash"] == PreparedCorpus(tiny_corpus).hash
    assert {"config", "version", "seed"} <= set(header)


class Malicious:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_malicious_pickle_is_refused_and_never_run(tmp_path):
    path, mark = tmp_path / "lipformer/model.safetensors", tmp_path / "executed"
    path.parent.mkdir()
    for write in (lambda: path.write_bytes(pickle.dumps(Malicious(mark))), lambda: torch.save(Malicious(mark), path)):
        write()
        with pytest.raises(CheckpointError, match="not a safetensors checkpoint"):
            lf.load(tmp_path)
        assert not mark.exists()
    pickle.loads(pickle.dumps(Malicious(mark))).close()
    assert mark.exists()  # it would have worked


def test_bad_checkpoints_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        lf.load(tmp_path)
    path = tmp_path / "lipformer/model.safetensors"
    path.parent.mkdir()
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="header"):
        lf.load(tmp_path)


def test_the_rate_warms_up_over_a_twentieth_but_no_more_than_200_steps_and_then_falls():
    for steps, warmup in ((12, 0), (1000, 50), (100_000, 200)):
        rates = np.array([learning_rate(step, steps) for step in range(steps)])
        falling = np.diff(rates) <= 0
        assert rates.max() <= 1 and falling[warmup:].all() and not falling[: max(warmup - 1, 0)].any()
        assert 0.02 <= rates[-1] < 0.06 and rates[warmup] > 0.97


def test_a_checkpoint_with_flat_settings_is_of_an_earlier_version(tiny_run, tmp_path):
    header, tensors = checkpoint.load(tiny_run / "lipformer/model.safetensors")
    header["config"] = {"preset": "quick", "crop_size": 96}
    (tmp_path / "lipformer").mkdir()
    save_file(tensors, tmp_path / "lipformer/model.safetensors", {"header": json.dumps(header)})
    with pytest.raises(CheckpointError, match="earlier version, whose settings were flat"):
        lf.load(tmp_path)
