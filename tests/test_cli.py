"""The command line passes on what it was given, and turns typed errors into one message and exit code 2."""

import inspect
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

import lipformer_core
from lipformer_core.cli import app
from lipformer_core.cli.options import parse_settings
from lipformer_core.config import Config, from_dict, preset
from lipformer_core.errors import ConfigError, UnreadableMedia

runner = CliRunner()
TRAINING = ["train codebook", "train sync", "train wav2lip", "train lipformer"]
COMMANDS = ["prepare", *TRAINING, "personalise", "dub", "dub-batch", "evaluate", "compare", "bench", "fetch", "info"]


@pytest.fixture
def calls(monkeypatch):
    """Stand-ins for what the commands open; returns the calls they received."""
    received = []

    def stand_in(module: str, function: str):
        fake = ModuleType(module)
        setattr(fake, function, lambda *args, **kwargs: received.append((function, args, kwargs)) or function)
        monkeypatch.setitem(sys.modules, module, fake)

    for module, function in [
        ("lipformer_core.data.prepared.prepare", "prepare"),
        ("lipformer_core.training.codebook", "train_codebook"),
        ("lipformer_core.training.lipformer", "train_lipformer"),
        ("lipformer_core.training.sync", "train_sync"),
        ("lipformer_core.training.wav2lip", "train_wav2lip"),
        ("lipformer_core.checkpoint", "load_lipformer"),
        ("lipformer_core.dubbing.dub", "dub"),
        ("lipformer_core.dubbing.batch", "dub_batch"),
        ("lipformer_core.evaluation.protocol", "evaluate"),
        ("lipformer_core.bench", "bench"),
    ]:
        stand_in(module, function)
    return received


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command):
    result = runner.invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"lipformer {command}" in result.output


def test_version():
    assert runner.invoke(app, ["--version"]).output.strip() == f"lipformer {lipformer_core.__version__}"


def test_prepare_passes_everything_on(calls, tmp_path):
    arguments = ["prepare", "videos", "--out", str(tmp_path), "--workers", "2", "--set", "data.size=48", "--quiet"]
    assert runner.invoke(app, arguments).exit_code == 0
    ((_, _, given),) = calls
    assert (given["corpus"], given["source"], given["out"]) == ("folder", "videos", tmp_path)
    assert (given["workers"], given["progress"], given["config"].data.size) == (2, False, 48)
    assert (given["backend"], given["scheduler"], given["config"].data.correct_offset) == ("local", None, False)


@pytest.mark.parametrize("stage", ["codebook", "sync", "wav2lip", "lipformer"])
def test_training_gets_preset_settings_and_seed(calls, tmp_path, stage):
    arguments = ["train", stage, "--data", "d", "--run", str(tmp_path), "--seed", "7", "--set", "stage1.lr=1e-3"]
    result = runner.invoke(app, [*arguments, "--set", "codebook.widths=[32, 64]"])
    assert result.exit_code == 0, result.output
    ((name, (config, data, run), _),) = calls
    assert isinstance(config, Config)
    assert (name, config.seed, config.stage1.lr, config.codebook.widths) == (f"train_{stage}", 7, 1e-3, (32, 64))
    assert (data, run) == ([Path("d")], tmp_path)


def test_stage_2_stops_where_told(calls):
    arguments = ["train", "lipformer", "--data", "d", "--run", "r", "--until", "warping"]
    assert runner.invoke(app, arguments).exit_code == 0
    assert calls[0][2]["until"] == "warping"


def test_the_commands_fit_the_functions_that_they_call():
    """The stand-ins above take anything; the real signatures must take what the commands pass."""
    from lipformer_core.data.prepared.prepare import prepare
    from lipformer_core.dubbing.dub import dub
    from lipformer_core.evaluation.protocol import evaluate
    from lipformer_core.personalise import personalise
    from lipformer_core.training.codebook import train_codebook
    from lipformer_core.training.lipformer import train_lipformer
    from lipformer_core.training.sync import train_sync

    bind = inspect.signature(prepare).bind
    bind(corpus="folder", source="s", out="o", config=None, workers=1, progress=True, backend="dask", scheduler="a")
    inspect.signature(train_codebook).bind(None, "d", "r", progress=True)
    inspect.signature(train_sync).bind(None, "d", "r", progress=True)
    inspect.signature(train_lipformer).bind(None, "d", "r", progress=True, until="warping")
    options = dict(face="largest", policy="loop", landmarks=None, report=None, progress=True)
    inspect.signature(dub).bind(None, "v", "a", "o", **options)
    inspect.signature(personalise).bind("v", "r", "o", {"stage2.joint.steps": 9}, progress=True)
    inspect.signature(evaluate).bind("r", "d", "o", split="test", max_clips=None, device="cpu", progress=True)


def test_dub_loads_the_run_and_passes_the_face_as_a_number(calls):
    arguments = ["dub", "v.mp4", "a.wav", "--run", "r", "-o", "o.mp4", "--face", "1", "--policy", "loop", "--quiet"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert [name for name, _, _ in calls] == ["load_lipformer", "dub"]
    _, arguments, options = calls[1]
    assert [str(a) for a in arguments] == ["load_lipformer", "v.mp4", "a.wav", "o.mp4"]
    assert (options["face"], options["policy"], options["report"]) == (1, "loop", None)


def test_personalise_passes_settings_on_and_prints_the_table(calls, monkeypatch):
    fake = ModuleType("lipformer_core.personalise")
    fake.personalise = lambda *args, **kwargs: calls.append(("personalise", args, kwargs)) or "report"
    fake.table = lambda report: f"table of the {report}"
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    arguments = ["personalise", "v.mp4", "--run", "r", "--out", "o", "--set", "stage2.joint.steps=9", "--quiet"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    ((_, given, options),) = calls
    assert given == (Path("v.mp4"), Path("r"), Path("o"), {"stage2.joint.steps": 9})
    assert options == {"progress": False}
    assert "table of the report" in result.output


def test_evaluate_passes_folders_on(calls):
    arguments = ["evaluate", "--run", "r", "--data", "d", "--out", "o", "--max-clips", "3"]
    assert runner.invoke(app, arguments).exit_code == 0
    assert [str(a) for a in calls[0][1]] == ["r", "d", "o"]
    assert calls[0][2]["max_clips"] == 3


def test_evaluate_takes_the_weights_shipped_where_no_run_is_named(calls):
    result = runner.invoke(app, ["evaluate", "--data", "d", "--out", "o"])
    assert result.exit_code == 0, result.output
    assert calls[0][1] == (None, Path("d"), Path("o"))


def test_bench_passes_everything_on(calls, tmp_path, monkeypatch):
    fake = sys.modules["lipformer_core.bench"]
    fake.MODELS, fake.table, out = ("quick",), lambda results: f"a table of {results['fps']}", tmp_path / "b.json"
    bench = fake.bench
    monkeypatch.setattr(fake, "bench", lambda *given, **more: bench(*given, **more) and {"fps": 7})
    options = ["--runtime", "eager", "--runtime", "onnx", "--seconds", "1", "--clip", "0", "--training", "--quiet"]
    result = runner.invoke(app, ["bench", "realtime", "runs/a", *options, "--json", str(out), "--device", "cpu"])
    assert "a table of 7" in result.output and '"fps": 7' in out.read_text()
    _, given, more = calls[0]
    runner.invoke(app, ["bench"])
    assert given == (["realtime", "runs/a"],) and more["runtimes"] == ["eager", "onnx"]
    named = ("seconds", "clip_s", "training", "device", "progress", "video")
    assert [more[name] for name in named] == [1.0, 0.0, True, "cpu", False, None]
    assert calls[1][1] == (("quick",),) and calls[1][2]["runtimes"] == ["eager"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["prepare", "--out", "o"], "SOURCE"),
        (["train", "codebook", "--data", "d", "--run", "r", "--preset", "huge"], "huge"),
        (["train", "codebook", "--data", "d", "--run", "r", "--set", "no_such_field=1"], "no_such_field"),
        (["train", "codebook", "--data", "d", "--run", "r", "--set", "data.size=wide"], "data.size"),
        (["train", "codebook", "--data", "d", "--run", "r", "--set", "crop_size=64"], "it is data.size now"),
        (["train", "lipformer", "--data", "d", "--run", "r", "--set", "seed"], "key=value"),
        (["dub", "v", "a", "--run", "r", "-o", "o", "--face", "left"], "left"),
    ],
)
def test_a_typed_error_is_one_line_and_exit_code_2(calls, arguments, named):
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert named in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not result.stdout
    assert not calls


def test_an_error_message_is_printed_as_it_is(monkeypatch, calls):
    def fail(*_args, **_kwargs):
        raise UnreadableMedia("clip [bold].mp4: truncated")

    monkeypatch.setattr(sys.modules["lipformer_core.dubbing.dub"], "dub", fail)
    result = runner.invoke(app, ["dub", "v", "a", "--run", "r", "-o", "o"])
    assert result.exit_code == 2
    assert "error: clip [bold].mp4: truncated" in result.stderr


def test_a_bug_is_not_dressed_up_as_a_user_error(monkeypatch, calls):
    def fail(*_args, **_kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(sys.modules["lipformer_core.dubbing.dub"], "dub", fail)
    result = runner.invoke(app, ["dub", "v", "a", "--run", "r", "-o", "o"])
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


def test_settings_are_yaml():
    settings = ["a=1", "b=true", "c=1e-3", "d=text", "e=[1, 2]", "f=null", "g=x=y"]
    assert parse_settings(settings) == {
        "a": 1, "b": True, "c": 1e-3, "d": "text", "e": [1, 2], "f": None, "g": "x=y",
    }  # fmt: skip
    assert parse_settings(None) == {}
    for wrong in ("a", "=1", "a=[1"):
        with pytest.raises(ConfigError):
            parse_settings([wrong])


def test_lists_in_settings_have_items_of_the_settings_type():
    persons = preset("quick", parse_settings(["data.val_persons=[s1, s2]", "data.test_persons=[s3]"]))
    assert (persons.data.val_persons, persons.data.test_persons) == (("s1", "s2"), ("s3",))
    assert preset("quick").data.val_persons == () and from_dict(persons.to_dict()) == persons
    for wrong, why in [
        ("data.val_persons=[1, 2]", "0: 1: .*valid string"),
        ("data.val_persons=s1", " 's1': .*valid tuple"),
        ("codebook.widths=[32, s1]", "1: 's1': .*valid integer"),
        ("codebook.widths=[true]", "0: True: .*valid integer"),
    ]:
        with pytest.raises(ConfigError, match=f"{wrong.partition('=')[0]}[:.]{why}"):
            preset("quick", parse_settings([wrong]))
    with pytest.raises(ConfigError, match="s2 in both"):
        persons.replace({"data.test_persons": ["s2"]})


def test_python_interface_is_lazy_and_complete(calls):
    assert lipformer_core.load("run") == "load_lipformer"
    assert lipformer_core.dub("model", "video", "audio", "out") == "dub"
    assert {"load", "dub"} <= set(dir(lipformer_core))
    with pytest.raises(AttributeError):
        _ = lipformer_core.no_such_thing
