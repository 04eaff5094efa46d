"""Results: what may be written where, and what is left when writing fails or is ended from outside."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from material import FakeModel, face_clip, frame_index, tone, write_video, write_wav
from typer.testing import CliRunner

from lipformer_core import cli
from lipformer_core.data.media import VideoWriter, iter_frames, probe, read_audio
from lipformer_core.dubbing.dub import dub
from lipformer_core.errors import OutputError, UnreadableMedia
from lipformer_core.files import claimed, hidden_beside, sweep


@pytest.fixture
def material(tmp_path):
    """A video, a sound and landmarks: their names, as `dub` takes them."""
    frames, marks = face_clip(5)
    np.savez(tmp_path / "track.npz", landmarks=marks)
    video, audio = write_video(tmp_path / "v.mp4", frames), write_wav(tmp_path / "a.wav", tone(0.2))
    return dict(video=video, audio=audio, landmarks=tmp_path / "track.npz", progress=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", ["video", "audio", "landmarks", "out"])
def test_no_output_replaces_an_input_or_the_other_output(material, tmp_path, monkeypatch, name):
    named = material.get(name, tmp_path / "out.mp4")
    out = tmp_path / "out.mp4"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    spellings = [named, Path(named.name), tmp_path / "folder" / ".." / named.name]
    if name != "out":
        os.link(named, tmp_path / "hard.json")
        (tmp_path / "soft.json").symlink_to(named)
        spellings += [tmp_path / "hard.json", tmp_path / "soft.json"]
    before = contents(tmp_path)
    for report in spellings:
        with pytest.raises(OutputError, match=r"would replace the input|two outputs"):
            dub(FakeModel(), out=out, report=report, **material)
    assert contents(tmp_path) == before


def test_the_command_line_keeps_the_runs_own_files(tmp_path, material):
    (tmp_path / "run" / "lipformer").mkdir(parents=True)
    model = tmp_path / "run" / "lipformer" / "model.safetensors"
    model.write_bytes(b"weights")
    words = ["dub", str(material["video"]), str(material["audio"]), "-o", str(tmp_path / "o.mp4")]
    result = CliRunner().invoke(cli.app, [*words, "--run", str(tmp_path / "run"), "--report", str(model)])
    assert result.exit_code == 2 and "would replace" in result.stderr and model.read_bytes() == b"weights"


def test_what_cannot_be_written_is_said_before_the_work(material, tmp_path, monkeypatch):
    model = FakeModel()
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    out, given = tmp_path / "out.mp4", []
    for name in ("folder.mp4", "pipe.mp4", f"{material['audio'].name}/o.mp4", f"{'x' * 300}.mp4"):
        bad = tmp_path / name
        given += [dict(out=bad), dict(out=out, report=bad)]
    before = contents(tmp_path)
    for paths in given:
        with pytest.raises(OutputError, match=r"folder|pipe|cannot be written"):
            dub(model, **paths, **material)
    read_only = OSError(30, "Read-only file system")
    monkeypatch.setattr(Path, "touch", lambda *_, **__: (_ for _ in ()).throw(read_only))
    for paths in (dict(out=out), dict(out=out, report=tmp_path / "new" / "report.json")):
        with pytest.raises(OutputError, match="Read-only"):
            dub(model, **paths, **material)
    assert model.references == 0 and contents(tmp_path) == before and not (tmp_path / "new").exists()


def test_a_full_disk_is_a_typed_error_and_leaves_nothing(tmp_path, material):
    resource = pytest.importorskip("resource")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    before, limits = contents(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, limits[1]))
    try:
        with (
            pytest.raises(OutputError, match=r"out\.mp4: cannot be written"),
            VideoWriter(tmp_path / "out.mp4", 64, 64, 25, material["audio"]) as writer,
        ):
            for _ in range(20):
                writer.write(noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(tmp_path) == before


def test_a_report_that_cannot_be_written_in_the_end_is_a_typed_error(material, tmp_path, monkeypatch):
    from lipformer_core.dubbing import report as dub_report

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dub_report, "write_json", full)
    with pytest.raises(OutputError, match=r"report\.json.*No space left"):
        dub(FakeModel(), out=tmp_path / "out.mp4", report=tmp_path / "report.json", **material)
    assert (tmp_path / "out.mp4").is_file()


@pytest.mark.parametrize("stem", ["x" * 240, "ü" * 120, "12:30", "file:a", "50%d", "-o", "a b'c"])
def test_any_name_will_do_for_inputs_and_outputs(material, tmp_path, monkeypatch, stem):
    monkeypatch.chdir(tmp_path)
    video, audio = Path(f"{stem}.mp4"), Path(f"{stem}.wav")
    os.rename(material["video"], video)
    os.rename(material["audio"], audio)
    (tmp_path / "out").mkdir()
    out, report = (Path("out") / f"{stem}.{ending}" for ending in ("mp4", "json"))
    dub(FakeModel(), **material | dict(video=video, audio=audio), out=out, report=report)
    assert [frame_index(picture) for _, picture in iter_frames(out)] == list(range(5))
    assert json.loads(report.read_text())["frames"] == 5
    assert len(read_audio(out)) and len(list((tmp_path / "out").iterdir())) == 2


def test_a_name_that_is_too_long_for_an_input_is_a_missing_file():
    with pytest.raises(UnreadableMedia, match="no such file"):
        probe(Path("x" * 300))


def test_hidden_files_of_the_dead_are_swept_and_those_of_the_living_are_not(tmp_path):
    dead, living = (hidden_beside(tmp_path / "out", ".partial.mp4") for _ in range(2))
    others = tmp_path / ".mine.partial.mp4"
    for path in (dead, others):
        path.touch()
    with claimed(living):
        sweep(tmp_path, ".partial.*")
        assert living.is_file() and others.is_file() and not dead.exists()
    sweep(tmp_path, ".partial.*")
    assert not living.exists()


# Writes pictures for ever, as a command of the command line; under nohup too, where SIGHUP comes ignored.
ENDLESS = """
import signal
import numpy as np
from lipformer_core import cli
from lipformer_core.data.media import VideoWriter

def app():
    with VideoWriter("out.mp4", 64, 64, 25) as writer:
        while True:
            writer.write(np.zeros((64, 64, 3), np.uint8))
            print(writer.frames_written, flush=True)

signal.signal(signal.SIGHUP, signal.SIG_DFL)
cli.app = app
cli.main()
"""


def python(code: str, folder: Path, *redirections: str) -> subprocess.Popen:
    """Run code in a folder; its stdout is a pipe."""
    command = ["sh", "-c", f'exec "$0" -c "$1" {" ".join(redirections)}', sys.executable, textwrap.dedent(code)]
    path = os.pathsep.join([str(Path(cli.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path})


def test_signals_leave_nothing_and_what_a_kill_left_goes_with_the_next_one(tmp_path):
    def ended_by(number: int) -> tuple[int, list[str]]:
        process = python(ENDLESS, tmp_path)
        assert process.stdout.readline()
        during = sorted(path.name for path in tmp_path.iterdir())
        process.send_signal(number)
        process.stdout.read()
        return process.wait(30), during

    assert ended_by(signal.SIGKILL)[0] == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    for number in (signal.SIGTERM, signal.SIGHUP):
        code, during = ended_by(number)
        assert code == 128 + number and len(during) == 1 and during != [left.name]
        assert not list(tmp_path.iterdir())


def test_closed_streams_take_nothing_into_the_output(tmp_path):
    code = """
    import os, sys
    from lipformer_core import cli
    from lipformer_core.data.faces.landmarks import _native_stderr_silenced
    from lipformer_core.progress import tqdm

    def app():
        with open("result", "w") as file:
            os.write(2, b"a library complains")
            print("and Python too", file=sys.stderr)
            with _native_stderr_silenced():
                list(tqdm(range(3)))
            file.write("whole")

    cli.app = app
    cli.main()
    """
    assert python(code, tmp_path, "2>&-", "0<&-").wait(60) == 0
    assert (tmp_path / "result").read_text() == "whole"


def test_a_closed_stderr_is_no_harm_to_the_library(tmp_path):
    code = """
    from lipformer_core.data.faces.landmarks import _native_stderr_silenced
    from lipformer_core.progress import tqdm

    with _native_stderr_silenced():
        print(sum(tqdm(range(3))))
    """
    process = python(code, tmp_path, "2>&-")
    assert process.communicate(timeout=60)[0].split() == [b"3"] and process.returncode == 0


@pytest.mark.parametrize("code", [28, 30, 13])
def test_what_the_system_refuses_is_one_line_on_the_command_line(monkeypatch, code):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code), "somewhere")

    monkeypatch.setattr("lipformer_core.checkpoint.load_lipformer", fail)
    result = CliRunner().invoke(cli.app, ["dub", "v", "a", "-o", "o.mp4"])
    assert result.exit_code == 2 and result.stderr.splitlines() == [
        f"error: [Errno {code}] {os.strerror(code)}: 'somewhere'"
    ]


def test_a_figure_is_held_within_its_bounds(capsys):
    from lipformer_core.results import hold

    hold("PSNR, dB", 28.349, 27, 30, digits=1)
    hold("silence", 0.31, high=0.2)
    hold("opening", None, low=0.85)
    hold("opening", float("nan"), low=0.85)
    assert capsys.readouterr().out.splitlines() == [
        "PSNR, dB: 28.3, within 27 to 30",
        "silence: 0.31, OUTSIDE 0.2 or less",
        "opening: none, OUTSIDE 0.85 or more",
        "opening: nan, OUTSIDE 0.85 or more",
    ]
