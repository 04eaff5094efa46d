"""One person's run: from a whole run or its last model alone, better on the held-out end, resumable, never mixed up."""

import functools
import json
import shutil

import numpy as np
import pytest
from interruption import Interrupted, stop_at

import lipformer_core as lf
from lipformer_core import checkpoint, personalise
from lipformer_core.config import preset
from lipformer_core.data.corpora.splits import by_time
from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.data.prepared.example import write_clip
from lipformer_core.data.prepared.summary import held_out_person
from lipformer_core.data.synthetic import synthesise_clip
from lipformer_core.errors import CheckpointError, ConfigError, DataError, WeightsMissing
from lipformer_core.evaluation.mouth_meter import train_meter
from lipformer_core.training.codebook import CodebookStage
from lipformer_core.training.lipformer import LipFormerStage, Trained

FRAMES = 165
LENIENT = {"data.quality_gate": False}  # tiny pictures, and sound of one's own
STEPS = {"stage1.steps": 4, "stage2.cached.steps": 3, "stage2.joint.steps": 2}
SHORT = LENIENT | STEPS | {"engine.check_every": 1}


class Known:
    """Finds the face of a synthetic clip by looking up which of its frames a picture is."""

    def __init__(self, clip):
        self.clip, self.small = clip, clip.frames[:, ::4, ::4].astype(np.int16)

    def detect(self, rgb):
        index = np.abs(self.small - rgb[::4, ::4]).mean((1, 2, 3)).argmin()
        return [(self.clip.landmarks[index].astype(np.float32), self.clip.pose[index].astype(np.float32))]


@pytest.fixture(scope="module")
def clip(tiny_config):
    return synthesise_clip(tiny_config.data.synthetic.seed, held_out_person(tiny_config.data), 0, FRAMES, 96)


@pytest.fixture(scope="module")
def video(clip, tmp_path_factory):
    return write_clip(clip, tmp_path_factory.mktemp("person")).video


@pytest.fixture(autouse=True)
def stand_ins(clip, monkeypatch):
    """The synthetic clip's own landmarks in place of a network, a meter of few steps, and small validations."""
    monkeypatch.setattr("lipformer_core.training.codebook.EVAL_IMAGES", 8)
    monkeypatch.setattr("lipformer_core.data.prepared.extraction._tracker", lambda: Known(clip))
    monkeypatch.setattr("lipformer_core.data.prepared.prepare.tracker_name", lambda: "none")
    monkeypatch.setattr(personalise, "train_meter", functools.partial(train_meter, steps=30))


def run_of(video, run, out, overrides=None):
    return personalise.personalise(video, run, out, SHORT | (overrides or {}), progress=False)


def test_a_video_is_divided_in_order_of_time_with_gaps():
    for total in (150, 400, 1500, 4500):
        pieces = by_time([(10, 10 + total)], shortest=12)
        assert [name for name, *_ in pieces] == ["train", "val", "test"]
        (_, first, train), (_, val, val_end), (_, test, last) = pieces
        assert (first, last) == (10, 10 + total)
        assert min(val - train, test - val_end) >= min(25, total // 25)
        assert val_end - val >= 25 and last - test >= 37
        assert train - first >= (0.65 if total >= 400 else 0.45) * total


def test_what_is_not_usable_counts_for_nothing_in_the_division():
    """Two stretches with a hole between are divided as one would be, and no piece reaches into the hole."""
    whole, holed = by_time([(0, 400)], 12), by_time([(0, 200), (1200, 1400)], 12)
    frames = [{split: [] for split in ("train", "val", "test")} for _ in range(2)]
    for found, pieces in zip(frames, (whole, holed), strict=True):
        for split, first, last in pieces:
            found[split] += range(first, last)
    assert all(i < 200 or i >= 1200 for split in frames[1].values() for i in split)
    assert {k: [i - 1000 * (i >= 1200) for i in v] for k, v in frames[1].items()} == frames[0]


def test_a_person_gets_a_run_from_the_last_model_alone(tiny_run, video, tmp_path):
    shutil.copytree(tiny_run / "lipformer", tmp_path / "shipped/lipformer")
    report = run_of(video, tmp_path / "shipped", tmp_path / "out")
    model, codebook = lf.load(tmp_path / "out"), checkpoint.load_codebook(tmp_path / "out")
    for name in ("encoder", "upper_codebook", "bottom_codebook"):  # stage 2 left the personal stage 1 alone
        own = checkpoint.fingerprint(getattr(model.autoencoder, name))
        assert own == checkpoint.fingerprint(getattr(codebook, name))
        assert own != checkpoint.fingerprint(getattr(lf.load(tiny_run).autoencoder, name))
    start = checkpoint.fingerprint(lf.load(tiny_run))
    assert report["start"] == start == checkpoint.header_of(tmp_path / "out", "lipformer")["start"]
    assert json.loads((tmp_path / "out/personalise.json").read_text()) == report
    assert report["steps.codebook"] == 4 and report["frames.train"] > 70 and not report["resumed"]
    assert report["before.copy_reference.mouth_psnr"] == report["after.copy_reference.mouth_psnr"]
    assert report["after.lipformer.opening_corr_exchanged"] is None
    assert "one clip" in report["after.lipformer.opening_corr_exchanged.why"]
    assert len(personalise.table(report).splitlines()) == 3 + len(personalise.FIGURES)


def test_without_a_run_the_pretrained_weights_are_gone_on_from(tiny_run, video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "SHIPPED", tiny_run)
    report = run_of(video, None, tmp_path / "out")
    assert report["run"] == tiny_run.name and report["start"] == checkpoint.fingerprint(lf.load(tiny_run))


def test_where_the_perceptual_networks_file_is_missing_it_goes_on_without_and_says_so(
    tiny_config, video, tmp_path, monkeypatch
):
    config = tiny_config.replace({"stage1.perceptual": "squeezenet"})
    told = []
    for found in (True, False):

        def loss(name, weight, found=found):
            told.append((name, weight))
            if not found:
                raise WeightsMissing("no file")

        monkeypatch.setattr(personalise, "perceptual_loss", loss)
        kept = personalise._without_what_is_missing(config)
        assert kept.stage1.perceptual == ("squeezenet" if found else "none")
    assert told == [("squeezenet", 1.0)] * 2
    for perceptual in ("none", "squeezenet"):  # what was decided at first is kept
        origin, resumed = personalise._claim(video, "start", tmp_path / "out", perceptual)
        assert (origin["perceptual"], resumed) == ("none", perceptual == "squeezenet")
    report = {f"{when}.{key}": 1.0 for when in ("before", "after") for key in personalise.FIGURES}
    report |= {"frames.test": 70, "minutes": 15.0}
    assert "without a perceptual loss" in personalise.table(report | {"perceptual": "none"})
    for earlier in ({"perceptual": "squeezenet"}, {}):
        assert "perceptual" not in personalise.table(report | earlier)


def test_without_a_step_taken_nothing_changes(tiny_run, video, tmp_path):
    """Fine-tuning goes on from the run's own weights, its decoder as stage 2 left it included."""
    still = dict.fromkeys(("stage1.lr", "stage2.cached.lr", "stage2.joint.lr"), 0.0)
    report = run_of(video, tiny_run, tmp_path / "out", still)
    before, after = (checkpoint.fingerprint(Trained.load(run)) for run in (tiny_run, tmp_path / "out"))
    assert before == after, "the judges of its training included"
    for key in personalise.FIGURES:
        assert report[f"before.{key}"] == report[f"after.{key}"]


def test_the_held_out_end_gets_better(tiny_run, video, tmp_path):
    longer = {"stage1.steps": 80, "stage2.cached.steps": 60, "stage2.joint.steps": 40, "engine.check_every": 20}
    report = run_of(video, tiny_run, tmp_path / "out", longer)
    for key in ("ceiling.mouth_psnr", "lipformer.mouth_psnr"):
        assert report[f"after.{key}"] > report[f"before.{key}"] + 1


@pytest.mark.parametrize(("stage", "step"), [(CodebookStage, 2), (LipFormerStage, 1)])
def test_an_interrupted_call_is_gone_on_with(stage, step, tiny_run, video, tmp_path, monkeypatch):
    whole = run_of(video, tiny_run, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(stage, "losses", stop_at(step, stage))
        run_of(video, tiny_run, tmp_path / "parts")
    assert not (tmp_path / "parts/personalise.json").exists()
    parts = run_of(video, tiny_run, tmp_path / "parts")
    models = [checkpoint.fingerprint(lf.load(tmp_path / name)) for name in ("whole", "parts")]
    assert models[0] == models[1]
    assert parts["resumed"] and not whole["resumed"]
    same = whole.keys() - {"minutes", "resumed"}
    assert {key: whole[key] for key in same} == {key: parts[key] for key in same}
    monkeypatch.setattr(personalise, "evaluate_model", lambda *_, **__: pytest.fail("judged again"))
    assert run_of(video, tiny_run, tmp_path / "parts") == parts


def test_a_folder_belongs_to_one_person_one_run_and_one_set_of_settings(tiny_run, tiny_config, video, tmp_path):
    run_of(video, tiny_run, tmp_path / "out")
    other = write_clip(synthesise_clip(0, 1, 0, 12, 96), tmp_path).video
    with pytest.raises(CheckpointError, match="another video"):
        run_of(other, tiny_run, tmp_path / "out")
    with pytest.raises(CheckpointError, match="another run"):
        run_of(video, tmp_path / "out", tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"stage1\.steps"):
        run_of(video, tiny_run, tmp_path / "out", {"stage1.steps": 5})
    with pytest.raises(CheckpointError, match="no person's"):
        run_of(video, tiny_run, tiny_run)


def test_what_cannot_be_used_is_named_before_anything_is_trained(tiny_run, video, tmp_path, monkeypatch):
    monkeypatch.setattr(personalise, "train_lipformer", lambda *_, **__: pytest.fail("trained"))
    short = write_clip(synthesise_clip(0, 1, 0, 60, 96), tmp_path).video
    with pytest.raises(DataError, match=r"too short: 2\.4 s are usable, 6 s"):
        run_of(short, tiny_run, tmp_path / "a")
    with pytest.raises(DataError, match="no such file"):
        run_of(tmp_path / "nobody.mp4", tiny_run, tmp_path / "b")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        run_of(video, tmp_path / "nowhere", tmp_path / "c")
    with pytest.raises(CheckpointError, match="another architecture"):
        run_of(video, tiny_run, tmp_path / "d", {"codebook.widths": (8, 16)})
    with pytest.raises(ConfigError, match=r"data\.size"):
        run_of(video, tiny_run, tmp_path / "e", {"data.size": 64})
    with pytest.raises(ConfigError, match=r"stage1_steps: .*stage1\.steps"):
        run_of(video, tiny_run, tmp_path / "e", {"stage1_steps": 5})
    monkeypatch.setattr(Known, "detect", lambda self, rgb: [])
    with pytest.raises(DataError, match="NoFaceFound"):
        run_of(video, tiny_run, tmp_path / "f")


def test_settings_are_gentle_whatever_the_run_was_trained_with():
    for name in ("quick", "realtime", "paper"):
        base = preset(
            name,
            {
                "data.val_persons": ("a",),
                "data.test_persons": ("b",),
                "stage2.apart.steps": 9,
            },
        )
        config = personalise.personal_config(base, {"stage2.joint.steps": 7})
        assert config.stage2.joint.steps == 7 and config.data.val_persons == ()
        assert not config.stage2.apart.steps and not config.stage1.mirror
        assert config.stage1.lr == min(base.stage1.lr, 3e-4) and config.stage1.batch == min(base.stage1.batch, 8)
        assert (config.codebook, config.lips, config.audio) == (base.codebook, base.lips, base.audio)
        assert not config.stage1.prevent_collapse


def test_a_prepared_person_has_his_end_held_out(tiny_config, video, tmp_path):
    from lipformer_core.data.prepared.prepare import prepare

    corpus = prepare("person", video, tmp_path, tiny_config.replace(LENIENT), workers=1, progress=False)
    places = {s: [(i.first_frame, i.n_frames) for i in corpus.clips(s)] for s in ("train", "val", "test")}
    (train,), (val,), (test,) = places.values()
    assert sum(train) < val[0] and sum(val) < test[0] and sum(test) == FRAMES
    assert "by time" in PreparedCorpus(tmp_path).manifest["split_rule"]
