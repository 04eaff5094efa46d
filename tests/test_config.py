"""Settings: what they may be, what decides about finished work, and data settings for a run."""

import json
import math
import re

import pytest
from accelerate.state import AcceleratorState
from typer.testing import CliRunner

from lipformer_core import checkpoint
from lipformer_core.cli import app
from lipformer_core.config import Config, flat, from_dict, preset
from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.errors import CheckpointError, ConfigError
from lipformer_core.personalise import personal_config
from lipformer_core.presets import PRESETS
from lipformer_core.provenance import PACKAGE
from lipformer_core.renamed import RENAMED
from lipformer_core.training.codebook import train_codebook
from lipformer_core.training.loop import finished


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stage2.apart.steps", -1),
        ("stage2.cached.steps", -5),
        ("stage2.joint.steps", 0),
        ("seed", -1),
        ("seed", True),
        ("stage1.batch", 0),
        ("stage1.batch", 2.0),
        ("stage1.steps", "9"),
        ("engine.check_every", 0),
        ("engine.precision", "int8"),
        ("data.size", 0),
        ("data.quality_gate", 1),
        ("data.synthetic.persons", (6, 2)),
        ("data.val_persons", (3,)),
        ("codebook.widths", (1, 0)),
        ("codebook.widths", ()),
        ("stage1.lr", math.nan),
        ("stage2.joint.lr", math.inf),
        ("stage2.cached.lr", -1e-4),
        ("sync.width", 12),
        ("optimiser.weight_average", 1),
        ("optimiser.accumulate", 0),
        ("stage2.looks", 0),
        ("lips.reference", "mine"),
        ("seed", 2**32),  # torch's generators take no more once a step's number is in it
        ("codebook.size", 2**16 + 1),  # cached codes are 16 bits
        ("data.synthetic.size", 8),
        ("stage1", 3),
    ],
)
def test_a_value_that_cannot_be_meant_is_named_by_its_dotted_setting(name, value):
    with pytest.raises(ConfigError, match=rf"^{name}(\.\d)?: "):
        preset("quick", {name: value})


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("data.size", {"data.size": 100}),
        ("codebook.widths", {"codebook.local": False, "codebook.widths": (48,)}),
        ("lips.width", {"lips.width": 100}),
        ("data.val_persons, data.test_persons: anna", {"data.val_persons": ["anna"], "data.test_persons": ["anna"]}),
    ],
)
def test_values_that_do_not_go_together_are_named(name, changes):
    with pytest.raises(ConfigError, match=f"^{name}"):
        preset("quick", changes)


def test_zero_turns_off_what_can_be_off():
    off = {"stage2.apart.steps": 0, "stage2.cached.steps": 0, "stage1.lr": 0, "optimiser.weight_average": 0}
    config = preset("quick", off)
    assert not (config.stage2.apart.steps or config.stage1.lr or config.optimiser.weight_average)


@pytest.mark.parametrize(
    "beyond",
    [
        {"lips.reference": "own"},
        {"lips.keep_reference": 1.0},
        *(
            {"lips.ablation": name}
            for name in ("no_warping", "no_reference", "reference_queries", "unscaled", "likeliest_codes", "mean_codes")
        ),
    ],
)
def test_the_papers_design_has_nothing_of_ours(beyond):
    with pytest.raises(ConfigError, match=r"^lips\.design"):
        preset("paper", beyond)
    assert preset("paper", beyond | {"lips.design": "ours"}).lips.design == "ours"


def test_without_a_reference_none_can_be_kept():
    with pytest.raises(ConfigError, match=r"^lips\.keep_reference"):
        preset("realtime", {"lips.ablation": "no_reference"})


def test_the_papers_design_can_be_had_with_a_frozen_decoder_and_the_nearest_reference():
    lips = preset("paper", lips={"ablation": "frozen_decoder", "reference": "nearest"}).lips
    assert (lips.design, lips.ablation, lips.reference) == ("paper", "frozen_decoder", "nearest")


def test_nested_and_dotted_changes_agree():
    dotted = {"data.size": 128, "stage1.lr": 0.0, "data.synthetic.persons": [3, 1, 1], "seed": 4}
    nested = {"data": {"size": 128, "synthetic": {"persons": (3, 1, 1)}}, "stage1": {"lr": 0.0}, "seed": 4}
    quick = preset("quick")
    changed = quick.replace(dotted)
    assert changed == quick.replace(nested) == quick.replace(**nested) == preset("quick", dotted)
    assert changed == quick.replace(
        {"data.size": 128, "seed": 4}, stage1={"lr": 0.0}, data={"synthetic.persons": (3, 1, 1)}
    )
    assert changed != quick and changed.data.synthetic.persons == (3, 1, 1)
    assert changed.data.synthetic.frames == quick.data.synthetic.frames, "its neighbours stay"
    assert changed.to_dict() == json.loads(json.dumps(changed.to_dict())) and from_dict(changed.to_dict()) == changed


def test_there_are_at_most_65_settings_and_every_preset_is_one_instance_of_them():
    names = {name for name, _ in flat(Config().to_dict())} - {"preset"}
    assert 40 < len(names) <= 65
    for name in PRESETS:
        config = preset(name)
        assert config.preset == name and {key for key, _ in flat(config.to_dict())} - {"preset"} == names
        assert from_dict(config.to_dict()) == config
    assert preset("paper") == Config()
    with pytest.raises(ConfigError, match="tiny, small, quick, realtime, paper"):
        preset("huge")


def test_the_presets_name_is_no_setting(tiny_config):
    for change in (
        lambda: preset("quick", preset="paper"),
        lambda: tiny_config.replace({"preset": "quick"}),
        lambda: personal_config(tiny_config, {"preset": "paper"}),
    ):
        with pytest.raises(ConfigError, match="--preset"):
            change()
    assert from_dict(tiny_config.to_dict()) == tiny_config
    for unknown in ("name", "stage1.name", "data.size.name", "name.size"):
        with pytest.raises(ConfigError, match=f"^unknown setting {unknown};"):
            preset("quick", {unknown: 3})
    with pytest.raises(ConfigError, match=r"^unknown setting stage1\.name;"):
        from_dict({"stage1": {"name": 3}})


def test_a_setting_of_before_is_an_error_that_says_where_it_is_now(tiny_config):
    for change in (tiny_config.replace, lambda old: preset("quick", old), from_dict):
        with pytest.raises(ConfigError, match=r"^crop_size: no setting any more: it is data\.size now$"):
            change({"crop_size": 64})
        with pytest.raises(ConfigError, match="^revive_dead_codes: .*stage1.prevent_collapse"):
            change({"revive_dead_codes": True})
        with pytest.raises(ConfigError, match="^beta: .*model/codebook.py"):
            change({"beta": 0.5})
    with pytest.raises(ConfigError, match="stage1_steps: .*stage1.steps"):
        tiny_config.replace(stage1_steps=9)


def test_what_is_said_of_settings_of_before_is_true():
    names = {name for name, _ in flat(Config().to_dict())}
    parts = "|".join(sorted({name.split(".")[0] for name in names if "." in name}))
    for old, words in RENAMED.items():
        assert old not in names
        for file in re.findall(r"[\w/]+\.(?:py|md)", words):
            assert (PACKAGE / file).is_file() or (PACKAGE.parent / file).is_file(), f"{old}: {file}"
            words = words.replace(file, "")
        for new in re.findall(rf"\b(?:{parts})\.[a-z_.0-9]+", words):
            assert new in names, f"{old}: {new}"


ENGINE = {"precision": "bf16", "compile": True, "deterministic": True, "workers": 2, "check_every": 1}


def test_how_a_machine_computes_decides_about_nothing(tiny_run, tiny_config, tiny_corpus):
    data, other = PreparedCorpus(tiny_corpus).hash, tiny_config.replace(engine=ENGINE)
    assert set(ENGINE) == set(tiny_config.to_dict()["engine"])
    assert all(value != tiny_config.to_dict()["engine"][name] for name, value in ENGINE.items())
    for stage in ("codebook", "warping", "cached", "lipformer"):
        assert finished(tiny_run / stage, other, data)
        assert finished(tiny_run / stage, from_dict(tiny_config.to_dict() | {"preset": "mine"}), data)
        with pytest.raises(CheckpointError, match="codebook.widths"):
            finished(tiny_run / stage, tiny_config.replace({"codebook.widths": (16, 24)}), data)
        with pytest.raises(CheckpointError, match="other data"):
            finished(tiny_run / stage, tiny_config, "0" * 64)
    assert other.decisive("sync") == tiny_config.decisive("sync")


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"stage1.batch": 5}, {"codebook", "warping", "cached", "lipformer", "wav2lip"}),
        ({"optimiser.accumulate": 2}, {"codebook", "warping", "cached", "lipformer", "sync", "wav2lip"}),
        ({"data.size": 64}, {"codebook", "warping", "cached", "lipformer", "sync", "wav2lip"}),
        ({"data.quality_gate": False, "data.val_persons": ["anna"]}, set()),
        ({"audio.window": 24}, {"warping", "cached", "lipformer", "wav2lip"}),
        ({"stage2.looks": 2}, {"warping", "cached", "lipformer", "wav2lip"}),
        ({"stage2.apart.steps": 9}, {"warping", "cached", "lipformer"}),
        ({"stage2.cached.lr": 0.5}, {"cached", "lipformer"}),
        ({"stage2.joint.lr": 0.5}, {"lipformer"}),
        ({"sync.width": 16}, {"sync", "wav2lip"}),
        ({"wav2lip.steps": 9}, {"wav2lip"}),
    ],
)
def test_a_finished_stage_depends_on_its_own_settings_and_those_before_it(change, stages, tiny_config):
    other, all_stages = tiny_config.replace(change), ("codebook", "warping", "cached", "lipformer", "sync", "wav2lip")
    assert {stage for stage in all_stages if other.decisive(stage) != tiny_config.decisive(stage)} == stages


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
        assert maker["mixed_precision"] == "bf16" and maker["processes"] == 1
        assert header["config"]["engine"]["precision"] == "no"


def test_a_corpus_is_prepared_for_a_run(tiny_run, tiny_config, tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr("lipformer_core.data.prepared.prepare.prepare", lambda **options: given.update(options))
    arguments = ["prepare", "videos", "--out", str(tmp_path), "--for", str(tiny_run), "--set", "data.list_rows=a=b"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert given["config"] == tiny_config.replace({"data.list_rows": "a=b"})
    own = {"data.test_persons": ["anna"], "audio.speech_encoder": "moonshine", "data.quality_gate": False}
    monkeypatch.setattr(checkpoint, "config_of", lambda run: tiny_config.replace(own))
    assert CliRunner().invoke(app, arguments).exit_code == 0
    expected = tiny_config.replace(own | {"data.test_persons": (), "data.list_rows": "a=b"})
    assert given["config"] == expected, "another corpus has other persons"


def test_a_corpus_is_prepared_for_the_weights_that_come_along_or_the_run_is_named(tmp_path):
    assert checkpoint.config_of("pretrained").data.size == checkpoint.load_lipformer().config.data.size
    with pytest.raises(CheckpointError, match="nowhere"):
        checkpoint.config_of(tmp_path / "nowhere")
