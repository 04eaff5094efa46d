"""Bad inputs of `lipformer dub`, made here: one sentence and exit code 2, or what is documented; no half file."""

import io
import json
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from material import FakeModel, draw_face, face_clip, tone, write_video, write_wav
from PIL import Image
from typer.testing import CliRunner

from lipformer_core.cli import app
from lipformer_core.data.media import probe

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="96" height="96"><rect width="9" height="9"/></svg>'
SUBTITLES = b"1\n00:00:00,000 --> 00:00:01,000\nHello\n"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The files that all cases begin with: their names and bytes."""
    folder = tmp_path_factory.mktemp("good")
    frames, marks = face_clip(10)
    write_video(folder / "video.mp4", frames)
    write_wav(folder / "audio.wav", tone(0.4))
    np.savez(folder / "track.npz", landmarks=marks)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path, good, monkeypatch):
    """A folder with these files, in which the command line runs with a fake model."""
    for name, content in good.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lipformer_core.checkpoint.load_lipformer", lambda *_a, **_k: FakeModel())
    return tmp_path


def dub(video="video.mp4", audio="audio.wav", out="out.mp4", landmarks="track.npz", *options):
    """Run the command; it must say one sentence or be done, and leave nothing hidden."""
    before = {path: path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}
    marks = ["--landmarks", landmarks] if landmarks else []
    result = CliRunner().invoke(app, ["dub", "--quiet", "-o", out, *marks, *options, "--", video, audio])
    after = {path: path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}
    new = {str(path) for path in after.keys() - before.keys()}
    assert {path: after[path] for path in before} == before
    assert result.exit_code in (0, 2), result.exception
    assert new <= (set() if result.exit_code else {out, "report.json"})
    return result


def refused(result, *words):
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ") and len(result.stderr.strip().splitlines()) == 1
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.output


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG that claims a size, whatever rows it holds."""
    head = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    coded = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(coded)


def hollow(whole: bytes) -> bytes:
    """An MP4 whose pictures are nothing but zeros, its index unharmed."""
    data, index = whole.find(b"mdat") + 4, whole.find(b"moov") - 4
    return whole[:data] + bytes(index - data) + whole[index:]


def encoded(frame: np.ndarray, ending: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, ending)
    return buffer.getvalue()


def riff(data: bytes, channels: int = 1, rate: int = 16_000, bits: int = 16, claimed: int | None = None) -> bytes:
    """A WAV with any numbers in its head."""
    block = channels * bits // 8
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * block, block, bits)
    size = len(data) if claimed is None else claimed
    return b"RIFF" + struct.pack("<I", 36 + size) + b"WAVE" + head + b"data" + struct.pack("<I", size) + data


FACE = draw_face(96, 128, None)
PICTURES = {
    "empty.mp4": lambda _: b"",
    "half.mp4": lambda whole: whole[: len(whole) // 2],
    "head.mp4": lambda whole: whole[:40],
    "last_byte.mp4": lambda whole: whole[:-1],
    "no_data.mp4": lambda whole: hollow(whole),
    "zeros.mp4": lambda whole: bytes(len(whole)),
    "noise.mp4": lambda whole: np.random.default_rng(0).bytes(len(whole)),
    "noise.mkv": lambda whole: b"\x1a\x45\xdf\xa3" + np.random.default_rng(1).bytes(len(whole)),
    "text.mp4": lambda _: b"no video\n" * 99,
    "page.mp4": lambda _: b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "archive.mp4": lambda _: b"PK\x03\x04" + bytes(99),
    "drawing.svg": lambda _: SVG,
    "subtitles.srt": lambda _: SUBTITLES,
    "cut.png": lambda _: encoded(FACE, "PNG")[:60],
    "head.jpg": lambda _: encoded(FACE, "JPEG")[:30],
    "head.gif": lambda _: encoded(FACE, "GIF")[:13],
    "cut.webp": lambda _: encoded(FACE, "WEBP")[:40],
    "huge.png": lambda _: png(2**31 - 1, 2**31 - 1),
    "bomb.png": lambda _: png(60_000, 60_000, bytes(9)),
    "nothing.png": lambda _: png(0, 0),
    "number.png": lambda _: b"\x89PNG\r\n\x1a\n",
    "sound.mp4": lambda _: b"ID3\x04" + bytes(200),
    "audio.wav": None,
    "track.npz": None,
    "missing.mp4": None,
    ".": None,
    "x" * 300 + ".mp4": None,
    "/dev/null": None,
    "http://127.0.0.1:1/video.mp4": None,
}


@pytest.mark.parametrize("name", PICTURES, ids=lambda name: name[:40])
def test_a_bad_video_or_portrait(folder, good, name):
    make = PICTURES[name]
    if make is not None:
        (folder / name).write_bytes(make(good["video.mp4"]))
    refused(dub(name, landmarks=None), name.replace("//", "/"))


SOUNDS = {
    "empty.wav": b"",
    "head.wav": riff(b"")[:20],
    "text.wav": b"nor is this any sound\n" * 50,
    "no_samples.wav": riff(b""),
    "no_channels.wav": riff(bytes(64), channels=0),
    "no_rate.wav": riff(bytes(64), rate=0),
    "no_bits.wav": riff(bytes(64), bits=0),
    "noise.mp3": np.random.default_rng(2).bytes(2_000),
    "head.ogg": b"OggS" + bytes(40),
    "head.flac": b"fLaC" + bytes(40),
    "subtitles.srt": SUBTITLES,
    "portrait.png": encoded(FACE, "PNG"),
    "video.mp4": None,  # it has no sound
    "track.npz": None,
    "missing.wav": None,
    ".": None,
}


@pytest.mark.parametrize("name", SOUNDS)
def test_a_bad_sound(folder, name):
    if SOUNDS[name] is not None:
        (folder / name).write_bytes(SOUNDS[name])
    refused(dub(audio=name), name)


class _Told:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def _marks(folder, **arrays):
    np.savez(folder / "bad.npz", **arrays)


LANDMARKS = {
    "missing": lambda folder, good: None,
    "empty": lambda folder, good: (folder / "bad.npz").write_bytes(b""),
    "text": lambda folder, good: (folder / "bad.npz").write_bytes(b"x,y\n1,2\n"),
    "half": lambda folder, good: (folder / "bad.npz").write_bytes(good["track.npz"][:900]),
    "another array": lambda folder, good: _marks(folder, points=np.zeros((10, 68, 2))),
    "too few rows": lambda folder, good: _marks(folder, landmarks=np.zeros((9, 68, 2))),
    "five points": lambda folder, good: _marks(folder, landmarks=np.zeros((10, 5, 2))),
    "flat": lambda folder, good: _marks(folder, landmarks=np.zeros((10, 136))),
    "words": lambda folder, good: _marks(folder, landmarks=np.full((10, 68, 2), "left")),
    "code": lambda folder, good: (folder / "bad.npz").write_bytes(pickle.dumps(_Told())),
    "code inside": lambda folder, good: _marks(folder, landmarks=np.array([_Told()], dtype=object)),
    "not a number": lambda folder, good: _marks(folder, landmarks=np.full((10, 68, 2), np.nan)),
    "infinite": lambda folder, good: _marks(folder, landmarks=np.full((10, 68, 2), np.inf)),
    "far away": lambda folder, good: _marks(folder, landmarks=face_clip(10)[1] + 1e6),
    "enormous": lambda folder, good: _marks(folder, landmarks=face_clip(10)[1] * 1e30),
    "a number": lambda folder, good: _marks(folder, landmarks=3.0),
    "one point": lambda folder, good: _marks(folder, landmarks=np.full((10, 68, 2), 40.0)),
    "eyes and nose in one point": lambda folder, good: _marks(folder, landmarks=_one_point(face_clip(10)[1])),
    "no face": lambda folder, good: _marks(folder, landmarks=np.ones((10, 68, 2)), valid=np.zeros(10, bool)),
    "valid too short": lambda folder, good: _marks(folder, landmarks=np.ones((10, 68, 2)), valid=np.ones(3, bool)),
    "pose too short": lambda folder, good: _marks(folder, landmarks=np.ones((10, 68, 2)), pose=np.zeros((3, 3))),
}


def _one_point(landmarks: np.ndarray) -> np.ndarray:
    landmarks[:, 27:48] = landmarks[:, 27:28]
    return landmarks


@pytest.mark.parametrize("case", LANDMARKS)
def test_bad_landmarks(folder, good, case):
    LANDMARKS[case](folder, good)
    refused(dub(landmarks="bad.npz"), "bad.npz")
    assert not (folder / "executed").exists()


OPTIONS = {
    "--face left": "left",
    "--face -1": "-1",
    f"--face {'9' * 5000}": "999",
    "--start 9": "9 s",
    "--start -1": "-1",
    "--start nan": "nan",
    "--end 0": "0 s",
    "--end -2": "-2",
    "--end nan": "nan",
    "--start 0.3 --end 0.2": "0.3",
    "--reference 99": "99",
    "--reference -3": "-3",
    "--reference nan": "nan",
    "--policy error": "0.40 s",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_that_asks_for_the_impossible(folder, option):
    if "policy" in option:
        write_wav(folder / "audio.wav", tone(0.9))
        OPTIONS[option] = "0.90 s"
    refused(dub("video.mp4", "audio.wav", "out.mp4", "track.npz", *option.split()), OPTIONS[option])


@pytest.mark.parametrize("option", ["--policy twice", "--crf 52", "--crf -1", "--crf high", "--start soon", "--colour"])
def test_an_option_that_the_command_does_not_know(folder, option):
    result = dub("video.mp4", "audio.wav", "out.mp4", "track.npz", *option.split())
    assert result.exit_code == 2 and option.split()[0] in result.stderr


OUTPUTS = ["out.avi", "out", "nowhere/out.mp4", ".", "video.mp4", "./audio.wav", "track.npz", "", "x" * 300 + ".mp4"]


@pytest.mark.parametrize("out", OUTPUTS, ids=lambda name: name[:20])
def test_a_place_that_nothing_can_be_written_to(folder, out):
    refused(dub(out=out))


@pytest.mark.parametrize("report", [".", "out.mp4", "video.mp4", "audio.wav/report.json"])
def test_a_report_that_cannot_be_written(folder, report):
    refused(dub("video.mp4", "audio.wav", "out.mp4", "track.npz", "--report", report))


# What is odd but can be dubbed: the words that the report's warnings hold, none where nothing is lost.
USABLE = {
    "not a number": (lambda f: write_wav(f / "audio.wav", np.full(6_400, np.nan, np.float32)), "silence"),
    "infinite": (lambda f: write_wav(f / "audio.wav", np.full(6_400, np.inf, np.float32)), ""),
    "silence": (lambda f: write_wav(f / "audio.wav", np.zeros(6_400, np.float32)), "silence"),
    "far too loud": (lambda f: write_wav(f / "audio.wav", 1e6 * tone(0.4)), ""),
    "one sample": (lambda f: write_wav(f / "audio.wav", np.ones(1, np.float32)), ""),
    "claims too much": (lambda f: (f / "audio.wav").write_bytes(riff(bytes(12_800), claimed=2**31)), ""),
    "claims nothing": (lambda f: (f / "audio.wav").write_bytes(riff(bytes(12_800), claimed=0)), ""),
    "two pictures": (lambda f: write_video(f / "video.mp4", face_clip(2)[0]), ""),
}


@pytest.mark.parametrize("case", USABLE)
def test_what_is_odd_but_can_be_dubbed(folder, case):
    make, warned = USABLE[case]
    make(folder)
    if case == "two pictures":
        np.savez(folder / "track.npz", landmarks=face_clip(2)[1])
    result = dub("video.mp4", "audio.wav", "out.mp4", "track.npz", "--report", "report.json")
    assert result.exit_code == 0, result.output
    report = json.loads((folder / "report.json").read_text())
    assert warned in " ".join(report["warnings"])
    assert abs(probe(folder / "out.mp4").pictures_s - report["audio_s"]) <= 0.04 + 1e-3
