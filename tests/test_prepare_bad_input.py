"""Bad input and bad places to write: a row with its reason or a typed error each, and nothing half-written."""

import io
import os
import re
import subprocess
import sys
import tarfile
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from material import draw_face, face_landmarks, frame_index, tone, write_video, write_wav

from lipformer_core.data.audio.av_offset import Offset
from lipformer_core.data.corpora import ClipSource
from lipformer_core.data.media.source_streams import SoundFile, shown_frames, sound_from, write_sound
from lipformer_core.data.prepared import extraction
from lipformer_core.data.prepared.extraction import mel_frames, part_name, prepare_source
from lipformer_core.data.prepared.preparation_report import read_report
from lipformer_core.data.prepared.prepare import prepare
from lipformer_core.errors import DataError, MediaError

SIZE = (96, 128)


class Eyes:
    """Finds the drawn face where it is drawn: in the middle of an upright picture."""

    def detect(self, rgb: np.ndarray) -> list:
        height, width = rgb.shape[:2]
        points = face_landmarks((width / 2, height * 0.32), height * 0.27)
        skin = np.abs(rgb[int(height * 0.55), width // 2].astype(int) - (205, 160, 135)).max() < 40
        return [(points, np.zeros(3, np.float32))] if skin else []


def pictures(n: int, height: int = SIZE[0], width: int = SIZE[1]) -> np.ndarray:
    marks = [face_landmarks((width / 2, height * 0.32), height * 0.27, 0.1 + 0.1 * np.sin(k)) for k in range(n)]
    rng = np.random.default_rng(0)
    grain = rng.integers(-12, 12, (height, width, 1))
    drawn = np.stack([draw_face(height, width, m, k) for k, m in enumerate(marks)])
    return np.clip(drawn + grain, 0, 255).astype(np.uint8)


@pytest.fixture
def lenient(tiny_config, monkeypatch):
    """Settings for drawn faces and a buzz for a voice, with a finder of drawn faces."""
    monkeypatch.setattr(extraction, "_tracker", Eyes)
    monkeypatch.setattr("lipformer_core.data.prepared.prepare.tracker_name", lambda: "none")
    return tiny_config.replace({"data.quality_gate": False})


def prepared(folder: Path, out: Path, config: object, corpus: str = "folder") -> dict[str, dict]:
    """The report's rows by clip."""
    prepare(corpus, folder, out, config, workers=1, progress=False)
    return {row["clip_id"]: row for row in read_report(out)}


def test_every_bad_file_is_a_row_and_the_good_ones_are_kept(lenient, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    good = write_video(folder / "good.mp4", pictures(30), sound=tone(1.2))
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "cut off.mp4").write_bytes(good.read_bytes()[:-2000])
    (folder / "text.mkv").write_text("no video at all")
    write_video(folder / "silent.mp4", pictures(30))
    with av.open(str(folder / "sound only.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        block = av.AudioFrame.from_ndarray(tone(1.0)[None], format="fltp", layout="mono")
        block.sample_rate, block.pts = 16_000, 0
        container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    blank = np.full((30, *SIZE, 3), 128, np.uint8)
    write_video(folder / "nobody.mp4", blank, sound=tone(1.2))
    rows = prepared(folder, tmp_path / "out", lenient)
    assert rows.pop("good")["status"] == "kept"
    expected = {
        "empty": "UnreadableMedia.*empty",
        "cut_off": "UnreadableMedia.*cut off, damaged",
        "text": "UnreadableMedia",
        "silent": "NoAudioStream",
        "sound_only": "NoVideoStream",
        "nobody": "NoFaceFound",
    }
    assert set(rows) == set(expected)
    for name, words in expected.items():
        assert rows[name]["status"] == "dropped" and rows[name]["clips"] == 0
        assert re.search(words, rows[name]["reason"]), rows[name]["reason"]
    assert not (tmp_path / "out" / "parts").exists()
    assert [p.name for p in (tmp_path / "out").iterdir() if p.name.startswith(".")] == []
    table = (tmp_path / "out" / "report.csv").read_text().splitlines()
    assert len(table) == 1 + 7 and table[0].startswith("clip_id,person,split,status,reason")


@pytest.mark.slow
def test_a_longer_video_takes_little_more_memory(lenient, tmp_path):
    """Arrays are seen by tracemalloc; of a frame, a picture has 37 kB here, a crop 3 kB and the sound 3.8 kB.

    The first video imports libraries; the others are longer than the minute of sound that is worked on at once.
    """
    lengths, peaks = (30, 1_600, 4_800), []
    for n in lengths:
        path = write_video(tmp_path / f"{n}.mp4", np.resize(pictures(25), (n, *SIZE, 3)), sound=tone(n / 25))
        parts = tmp_path / f"parts{n}"
        parts.mkdir()
        tracemalloc.start()
        row = prepare_source(ClipSource(str(n), "p", "train", str(path)), parts, lenient)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert sum(clip["n_frames"] for clip in row["clips"]) == n
    assert (peaks[2] - peaks[1]) / (lengths[2] - lengths[1]) < 3_000  # bytes a frame


@pytest.mark.parametrize("case", ["odd", "variable rate", "50 fps", "12.5 fps", "unicode", "8-bit 8 kHz"])
def test_unusual_files_are_kept(lenient, tmp_path, case):
    folder = tmp_path / "videos"
    folder.mkdir()
    path, seconds = folder / "clip.mp4", 1.2
    if case == "odd":
        write_video(path, pictures(30, 97, 129), sound=tone(1.2))
    elif case == "variable rate":
        times = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.08, 30))
        seconds = times[-1] - times[0]
        write_video(path, pictures(30), 50, times=times, sound=tone(2.0))
    elif case == "50 fps":
        write_video(path, pictures(60), 50, sound=tone(1.2))
    elif case == "12.5 fps":
        write_video(path, pictures(15), Fraction(25, 2), sound=tone(1.2))
    elif case == "unicode":
        write_video(folder / "Ünïcode ‒ 名前 (1).mp4", pictures(30), sound=tone(1.2))
    else:
        write_with_8_bit_sound(folder / "clip.mkv", pictures(30), tone(1.2, 8_000))
    (row,) = prepared(folder, tmp_path / "out", lenient).values()
    assert row["status"] == "kept", row["reason"]
    assert abs(row["frames"] - 25 * seconds) <= 1.5


def test_slides_and_pictures_that_stand_still_teach_nothing(lenient, tmp_path):
    """Under a picture that is held, or in the place of damaged ones, the sound goes on."""
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "slides.mp4", pictures(3), 1, sound=tone(3.0))
    times = np.concatenate([np.arange(30) / 25, 3 + np.arange(30) / 25])
    write_video(folder / "pause.mp4", pictures(60), times=times, sound=tone(4.2))
    rows = prepared(folder, tmp_path / "out", lenient)
    assert rows["slides"]["status"] == "dropped" and "stands still" in rows["slides"]["reason"]
    assert rows["pause"]["status"] == "trimmed" and "stands still" in rows["pause"]["reason"]
    (cut,) = [cut for cut in rows["pause"]["trimmed"] if "stands still" in cut["reason"]]
    assert abs(cut["first"] - 34) <= 1 and abs(cut["last"] - 75) <= 1


def write_with_8_bit_sound(path: Path, frames: np.ndarray, sound: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
        audio = container.add_stream("pcm_u8", rate=8_000, layout="mono")
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))
        block = av.AudioFrame.from_ndarray(((sound + 1) * 127.5).astype(np.uint8)[None], format="u8", layout="mono")
        block.sample_rate, block.pts = 8_000, 0
        container.mux(audio.encode(block))
        container.mux(audio.encode(None))


def test_a_phones_video_stands_upright(lenient, tmp_path):
    """Stored on its side, with the angle in its metadata."""
    folder = tmp_path / "videos"
    folder.mkdir()
    upright = pictures(30)
    write_video(folder / "phone.mp4", np.rot90(upright, -1, axes=(1, 2)), rotation=90, sound=tone(1.2))
    write_video(folder / "plain.mp4", upright, sound=tone(1.2))
    rows = prepared(folder, tmp_path / "out", lenient)
    assert {row["status"] for row in rows.values()} == {"kept"}


def test_a_stretch_of_a_long_file(lenient, tmp_path):
    """A time range, a crop, and sound from a file of its own: what lists of clips such as HDTF's ask for."""
    from lipformer_core.data.corpora import ClipSource

    frames = pictures(60, 96, 128)
    wide = np.concatenate([np.zeros((60, 96, 128, 3), np.uint8), frames], axis=2)
    path = write_video(tmp_path / "long.mp4", wide)
    sound = write_wav(tmp_path / "sound.wav", tone(2.4))
    files = dict(path=str(path), audio_path=str(sound), crop=(128, -5, 256, 96))
    parts = [ClipSource("a", "p", "train", **files, start_s=0.8, end_s=2.0), ClipSource("b", "p", "train", **files)]
    parts.append(ClipSource("c", "p", "train", **files | {"crop": (300, 0, 400, 96)}))
    rows = [prepare_source(source, tmp_path, lenient) for source in parts]
    assert [row["reason"] for row in rows[:2]] == [None, None]
    assert "lies outside the picture of 256 x 96 pixels" in rows.pop()["reason"]
    assert [row["clips"][0]["n_frames"] for row in rows] == [30, 60]
    part, whole = (arrays_of(tmp_path, name) for name in "ab")
    np.testing.assert_allclose(part["mel"], whole["mel"][80 : 80 + mel_frames(30)], atol=1e-5)
    np.testing.assert_allclose(part["mel_before"][2:], whole["mel"][2:80], atol=1e-5)
    assert len(part["mel_after"]) == 100 and len(whole["mel_before"]) == 0
    np.testing.assert_allclose(part["transforms"], whole["transforms"][20:50], atol=1e-6)  # of the whole picture
    eyes = np.linalg.inv(part["transforms"][0, :, :2]) @ (part["landmarks"][0, 36] - part["transforms"][0, :, 2])
    assert eyes[0] > 128


def arrays_of(parts: Path, clip_id: str) -> dict[str, np.ndarray]:
    with tarfile.open(parts / f"{part_name(clip_id)}.tar") as tar:
        return dict(np.load(io.BytesIO(tar.extractfile(f"{clip_id}.npz").read())))


def test_sound_that_is_constantly_early_is_moved_on_request(lenient, tmp_path, monkeypatch):
    from lipformer_core.data.corpora import ClipSource

    path = write_video(tmp_path / "v.mp4", pictures(60), sound=tone(2.4))
    mels = {}
    for name, offset, correct in [("plain", 3, False), ("moved", 3, True), ("back", -3, True), ("unsure", 3, True)]:
        estimate = Offset(offset, 0.5 if name == "unsure" else 20.0, 0.9)
        monkeypatch.setattr("lipformer_core.data.audio.av_offset.estimate_offset", lambda *args, e=estimate: e)
        config = lenient.replace({"data.correct_offset": correct})
        row = prepare_source(ClipSource(name, "p", "train", str(path)), tmp_path, config)
        moved = offset if name in ("moved", "back") else 0
        assert row["measured"]["corrected"] == row["clips"][0]["audio_offset"] == moved
        mels[name] = arrays_of(tmp_path, name)["mel"]
    np.testing.assert_array_equal(mels["moved"][12:], mels["plain"][:-12])  # three pictures late: sound three later
    np.testing.assert_array_equal(mels["back"][:-12], mels["plain"][12:])
    np.testing.assert_array_equal(mels["unsure"], mels["plain"])


def test_a_portrait_is_a_silent_still(lenient, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k, picture in enumerate(pictures(6)):
        cv2.imwrite(str(folder / f"p{k}.png"), picture[..., ::-1])
    corpus = prepare("images", folder, tmp_path / "out", lenient, workers=1, progress=False)
    infos = [info for split in ("train", "val", "test") for info in corpus.clips(split)]
    assert len(infos) == 6 and all(info.still and info.n_frames == 1 for info in infos)
    clip = corpus.open(infos[0].clip_id)
    assert (clip.mel == -1).all() and (clip.audio_windows([0], 20) == -1).all()
    assert not [i for split in ("train", "val", "test") for i in corpus.clips(split, stills=False)]


def test_a_place_that_cannot_be_written_is_an_error(tiny_config, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot write"):
        prepare("synthetic", None, tmp_path / "file" / "out", tiny_config, workers=1, progress=False)
    with pytest.raises(DataError, match="cannot write"):
        prepare("synthetic", None, tmp_path / "file", tiny_config, workers=1, progress=False)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.fixture
def mounted(tmp_path):
    """A function that mounts a file system in memory; skips where that is not allowed."""
    points = []

    def mount(options: str) -> Path:
        point = tmp_path / f"disk{len(points)}"
        point.mkdir()
        try:
            done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)], capture_output=True)
        except FileNotFoundError:
            pytest.skip("no mount command")
        if done.returncode:
            pytest.skip("mounting is not allowed here")
        points.append(point)
        return point

    yield mount
    for point in points:
        subprocess.run(["umount", str(point)], check=True)


def test_a_read_only_disk_is_an_error(tiny_config, mounted):
    disk = mounted("ro,size=1m")
    with pytest.raises(DataError, match="cannot write.*Read-only"):
        prepare("synthetic", None, disk / "out", tiny_config, workers=1, progress=False)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_an_error_and_room_lets_it_go_on(tiny_config, tiny_corpus, mounted, workers):
    disk = mounted("size=120k")
    out = disk / "out"
    with pytest.raises(DataError, match="cannot write.*No space left.*run again"):
        prepare("synthetic", None, out, tiny_config, workers=workers, progress=False)
    assert not (out / "manifest.json").exists()
    assert not list(out.rglob(".*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    prepare("synthetic", None, out, tiny_config, workers=1, progress=False)
    assert (out / "manifest.json").read_bytes() == (tiny_corpus / "manifest.json").read_bytes()
    assert sorted(p.name for p in out.iterdir() if not p.name.startswith("report")) == sorted(
        p.name for p in tiny_corpus.iterdir() if not p.name.startswith("report")
    )


def test_a_file_size_limit_is_an_error_too(tmp_path):
    """The system's quota on a process's files; on the command line: one message and exit code 2."""
    limits = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    code = f"{limits}; from lipformer_core.cli import main; main()"
    settings = [f"data.synthetic.{part}" for part in ("persons=[1, 1, 1]", "size=64", "frames=[14, 14]")]
    command = ["prepare", "--corpus", "synthetic", "--out", str(tmp_path / "out"), "--quiet"]
    command += [f"--set={setting}" for setting in settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and "cannot write (File too large)" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").rglob("*.tmp")) and not list((tmp_path / "out").rglob("*.tar"))


@pytest.mark.parametrize("rate", [12.5, 25, 30, 50])
def test_what_is_shown_at_25_is_what_the_source_shows(tmp_path, rate):
    count = int(2 * rate)
    path = write_video(tmp_path / "v.mp4", np.stack([draw_face(64, 64, None, k) for k in range(count)]), Fraction(rate))
    shown = [frame_index(f) for f in shown_frames(path)]
    assert shown == [int(i / 25 * rate + 1e-6) for i in range(len(shown))] and abs(len(shown) - 50) <= 1
    part = [frame_index(f) for f in shown_frames(path, 0.4, 1.2)]
    assert part == shown[10:30]


def test_a_late_stretch_is_reached_by_seeking(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mp4", np.stack([draw_face(64, 64, None, k) for k in range(150)]), gop=10)
    expected = [frame_index(f) for f in shown_frames(path, 4.0, 5.0)]
    monkeypatch.setattr("lipformer_core.data.media.source_streams.SEEK_FROM", 1.0)
    assert [frame_index(f) for f in shown_frames(path, 4.0, 5.0)] == expected == list(range(100, 125))
    with pytest.raises(MediaError, match="ends at"):
        list(shown_frames(path, 30.0))


@pytest.mark.parametrize("start_s", [0.0, 0.5, 0.813])
def test_streamed_mel_is_the_mel_of_the_whole_sound(tmp_path, start_s, monkeypatch):
    from lipformer_core.data.audio import log_mel

    monkeypatch.setattr("lipformer_core.data.media.source_streams.BLOCK", 37)
    sound = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    path = write_wav(tmp_path / "s.wav", sound)
    before, n = min(20, int(start_s * 100)), 25
    with (tmp_path / "mel").open("wb+") as file:
        stream = sound_from(path, start_s, before / 100)
        mel = write_sound(stream, before, before + mel_frames(n) + 200, file)
        assert isinstance(mel, SoundFile) and mel.first == -before
        expected = log_mel(sound[round(start_s * 16_000) :])
        got = mel.mel(0, mel_frames(n))
        np.testing.assert_allclose(got[2:], expected[2 : mel_frames(n)], atol=1e-5)
        if before:
            whole = log_mel(sound[round(start_s * 16_000) - before * 160 :])
            np.testing.assert_allclose(mel.mel(2 - before, 0), whole[2:before], atol=1e-5)
        assert (mel.mel(300, 310) == -1).all() and (mel.mel(-500, -490) == -1).all()
        beside = mel.read(-before, mel_frames(n))[:, 80:].ravel()
        np.testing.assert_allclose(beside, sound[round(start_s * 16_000) - before * 160 :][: len(beside)], atol=1e-4)
