"""Settings: what they may be, what decides about finished work, and data settings for a run."""

import json
import math

import pytest
from accelerate.state import AcceleratorState
from typer.testing import CliRunner

from lipformer_core import checkpoint
from lipformer_core.cli import app
from lipformer_core.config import from_dict, preset
from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.errors import CheckpointError, ConfigError
from lipformer_core.personalise import personal_config
from lipformer_core.training.codebook import train_codebook
from lipformer_core.training.loop import finished


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("warp_steps", -1),
        ("cached_steps", -5),
        ("joint_steps", 0),
        ("warmup_steps", -1),
        ("seed", -1),
        ("stage1_batch", 0),
        ("log_every", 0),
        ("crop_size", 0),
        ("width_multipliers", (1, 0)),
        ("stage1_lr", math.nan),
        ("joint_lr", math.inf),
        ("decoder_lr", -1e-4),
        ("weight_decay", -0.1),
        ("pose_twin", 2.0),
        ("gumbel_tau_end", 0.0),
        ("jpeg_quality", 101),
        ("weight_average", 1),
    ],
)
def test_numbers_that_cannot_be_meant_are_named(name, value):
    with pytest.raises(ConfigError, match=name):
        preset("quick", **{name: value})


def test_zero_turns_off_what_can_be_off():
    off = dict(warp_steps=0, cached_steps=0, decoder_lr=0, stage1_lr=0.0, weight_average=0)
    assert preset("quick", **off).decoder_lr == 0


def test_the_presets_name_is_no_setting(tiny_config):
    for change in (
        lambda: preset("quick", preset="paper"),
        lambda: tiny_config.replace(preset="quick"),
        lambda: personal_config(tiny_config, preset="paper"),
    ):
        with pytest.raises(ConfigError, match="--preset"):
            change()
    assert from_dict(tiny_config.to_dict()) == tiny_config
    with pytest.raises(ConfigError, match="unknown setting name"):
        preset("quick", name=3)


def test_how_a_machine_computes_and_logs_decides_about_nothing(tiny_run, tiny_config, tiny_corpus):
    engine = dict(precision="bf16", compile=True, deterministic=True, log_every=1, eval_every=1, save_every=1)
    engine |= dict(keep_checkpoints=5, eval_images=1)
    data = PreparedCorpus(tiny_corpus).hash
    for stage in ("codebook", "warping", "cached", "lipformer"):
        assert finished(tiny_run / stage, tiny_config.replace(**engine), data)
        assert finished(tiny_run / stage, from_dict(tiny_config.to_dict() | {"preset": "mine"}), data)
        with pytest.raises(CheckpointError, match="base_width"):
            finished(tiny_run / stage, tiny_config.replace(base_width=24), data)
    assert finished(tiny_run / "codebook", tiny_config.replace(weight_decay=0.5), data), "stage 1 has none"
    with pytest.raises(CheckpointError, match="weight_decay"):
        finished(tiny_run / "cached", tiny_config.replace(weight_decay=0.5), data)


def test_the_launchers_precision_is_recorded(tiny_config, tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    AcceleratorState._reset_state(True)
    try:
        config = tiny_config.replace({"stage1.steps": 1, "stage1.prevent_collapse": False})
        train_codebook(config, tiny_corpus, tmp_path, progress=False)
    finally:
        AcceleratorState._reset_state(True)
    beside = json.loads((tmp_path / "codebook/model.json").read_text())
    for header in (checkpoint.header_of(tmp_path, "codebook"), beside):
        (maker,) = header["made_by"]
        assert maker["mixed_precision"] == "bf16" and maker["processes"] == 1 and header["config"]["precision"] == "no"


def test_a_corpus_is_prepared_for_a_run(tiny_run, tiny_config, tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr("lipformer_core.data.prepared.prepare.prepare", lambda **options: given.update(options))
    arguments = ["prepare", "videos", "--out", str(tmp_path), "--for", str(tiny_run), "--set", "jpeg_quality=80"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert given["config"] == tiny_config.replace(jpeg_quality=80)
    named = tiny_config.replace(test_persons=["anna"], speech_encoder="moonshine", max_yaw=20.0)
    monkeypatch.setattr(checkpoint, "config_of", lambda run: named)
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert given["config"] == named.replace(test_persons=(), jpeg_quality=80), "another corpus has other persons"


def test_a_corpus_is_prepared_for_the_weights_that_come_along_or_the_run_is_named(tmp_path):
    assert checkpoint.config_of("pretrained").crop_size == checkpoint.load_lipformer().config.data.size
    with pytest.raises(CheckpointError, match="nowhere"):
        checkpoint.config_of(tmp_path / "nowhere")


def test_a_retired_setting_is_named_with_its_reason_and_read_in_files_of_before(tiny_config):
    with pytest.raises(ConfigError, match="revive_dead_codes: no setting any more: prevent_collapse"):
        tiny_config.replace(revive_dead_codes=True)
    before = tiny_config.to_dict() | {"codebook_init": "random", "codebook_warmup": 0.0, "audio_gain": 0.3}
    del before["prevent_collapse"]
    assert from_dict(before) == tiny_config.replace({"stage1.prevent_collapse": False})
    assert from_dict(before | {"codebook_init": "kmeans"}) == tiny_config
    for part in ({"audio_neighbours": 2}, {"codebook_update": "average"}):
        with pytest.raises(ConfigError, match="parts that are no more"):
            from_dict(before | part)
