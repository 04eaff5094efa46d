"""What a corpus is made of: replaced and foreign files, names in any bytes, and the sound that players take."""

import json
import os
import shutil
import sys

import av
import numpy as np
import pytest
from material import tone, write_video
from test_prepare_bad_input import lenient, pictures  # noqa: F401 - a fixture

from lipformer_core.data.corpora import list_sources
from lipformer_core.data.media.demux import audio_stream
from lipformer_core.data.media.soundtrack import read_audio
from lipformer_core.data.prepared.preparation_report import read_report
from lipformer_core.data.prepared.prepare import prepare
from lipformer_core.errors import DataError


def run(folder, out, config):
    return prepare("folder", folder, out, config, workers=1, progress=False)


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "a.mp4", pictures(30), sound=tone(1.2))
    return folder


def test_a_video_replaced_under_its_name_is_noticed_and_a_copy_of_it_is_not(lenient, videos, tmp_path):  # noqa: F811
    out = tmp_path / "out"
    made = run(videos, out, lenient).hash
    shutil.copyfile(videos / "a.mp4", tmp_path / "copy")
    os.replace(tmp_path / "copy", videos / "a.mp4")  # the same bytes with another date: unpacked again, copied back
    assert run(videos, out, lenient).hash == made
    content = bytearray((videos / "a.mp4").read_bytes())
    content[len(content) // 2] ^= 1  # as long as before
    (videos / "a.mp4").write_bytes(content)
    with pytest.raises(DataError, match=r"other clips \(a\.mp4 changed since\)"):
        run(videos, out, lenient)


def test_a_corpus_of_before_files_were_recorded_is_still_returned(lenient, videos, tmp_path):  # noqa: F811
    made = run(videos, tmp_path / "out", lenient)
    manifest = json.loads((made.folder / "manifest.json").read_text())
    assert list(manifest.pop("files")) == ["a.mp4"]
    del manifest["made_by"]
    (made.folder / "manifest.json").write_text(json.dumps(manifest))
    write_video(videos / "a.mp4", pictures(31), sound=tone(1.3))
    assert run(videos, tmp_path / "out", lenient).hash == made.hash


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="its file names are Unicode")
def test_names_that_are_not_utf_8_are_rows_like_others(lenient, videos, tmp_path):  # noqa: F811
    for name in (b"caf\xe9", b"caf\xea"):
        (videos / os.fsdecode(name)).mkdir()
        shutil.copy(videos / "a.mp4", videos / os.fsdecode(name) / os.fsdecode(name + b".mp4"))
    (videos / os.fsdecode(b"broken\xff.mp4")).write_bytes(b"")
    corpus = run(videos, tmp_path / "out", lenient)
    rows = read_report(corpus.folder)
    assert {row["person"] for row in rows} == {"a", r"caf\xe9", r"caf\xea", r"broken\xff"}
    assert sorted(row["status"] for row in rows) == ["dropped", "kept", "kept", "kept"]
    for name in ("report.csv", "report.jsonl", "manifest.json"):
        (corpus.folder / name).read_text(encoding="utf-8").encode()
    assert run(videos, tmp_path / "out", lenient).hash == corpus.hash


def test_phones_and_cameras_endings_are_read_and_foreign_files_are_rows(lenient, videos, tmp_path):  # noqa: F811
    write_video(videos / "b.MTS", pictures(30), sound=tone(1.2))
    write_video(videos / "c.3gp", pictures(30), sound=tone(1.2))
    for name in ("a.srt", "notes", "talk.xyz"):
        (videos / name).write_text("")
    corpus = run(videos, tmp_path / "out", lenient)
    rows = {row["clip_id"]: row for row in read_report(corpus.folder)}
    assert {name for name, row in rows.items() if row["status"] == "kept"} == {"a", "b", "c"}
    assert rows["a_srt"]["reason"].endswith(": .srt") and rows["notes"]["reason"].endswith(": none")
    assert rows["talk_xyz"]["status"] == "dropped" and len(rows) == 6
    (videos / "a.txt").write_text("what lies beside the videos is no part of the corpus")
    assert run(videos, tmp_path / "out", lenient).hash == corpus.hash


def test_pictures_report_what_is_none(tmp_path, tiny_config):
    for name in ("a.jpg", "b.HEIC", "c.mp4"):
        (tmp_path / name).touch()
    sources = {s.clip_id: s for s in list_sources("images", tmp_path, tiny_config.data)}
    assert [name for name, s in sources.items() if not s.missing] == ["a", "b"]
    assert sources["c_mp4"].missing.endswith(": .mp4")


@pytest.mark.parametrize(("default", "taken"), [((False, True), 1), ((True, False), 0), ((False, False), 0)])
def test_the_default_track_is_heard(tmp_path, default, taken):
    path, levels = tmp_path / "two.mka", (0.2, 0.8)
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in levels]
        for stream, chosen in zip(streams, default, strict=True):
            stream.disposition = av.stream.Disposition.default if chosen else av.stream.Disposition(0)
        for stream, level in zip(streams, levels, strict=True):
            samples = np.full((1, 16_000), int(level * 32767), np.int16)
            block = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            block.sample_rate, block.pts = 16_000, 0
            container.mux(stream.encode(block))
            container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert audio_stream(container).index == taken
    assert np.median(read_audio(path)) == pytest.approx(levels[taken], abs=0.01)
