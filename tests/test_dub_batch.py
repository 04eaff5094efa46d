"""Many dubbings in one command: one loading, one table, what is finished is left alone, failures are rows."""

import csv
import json
import shutil

import numpy as np
import pytest
from material import FakeModel, face_clip, frame_index, tone, write_video, write_wav
from typer.testing import CliRunner

from lipformer_core import cli
from lipformer_core.data.media import iter_frames, probe
from lipformer_core.dubbing import batch
from lipformer_core.dubbing.batch import dub_batch
from lipformer_core.errors import DataError, OutputError, WeightsMissing

HEAD = "video,audio,landmarks,output,policy,start,end,note\n"
GOOD = "v.mp4,short.wav,v.npz,,,,,of the column note nothing is read\n"


@pytest.fixture
def folder(tmp_path):
    """A folder with a video of one second, its landmarks, and two sounds."""
    frames, marks = face_clip(25)
    write_video(tmp_path / "v.mp4", frames)
    np.savez(tmp_path / "v.npz", landmarks=marks)
    write_wav(tmp_path / "short.wav", tone(0.4))
    write_wav(tmp_path / "long.wav", tone(1.3))
    return tmp_path


def listed(folder, *lines):
    path = folder / "list.csv"
    path.write_text(HEAD + "".join(lines))
    return path


def run(folder, *lines, **options):
    return dub_batch(FakeModel(), listed(folder, *lines), folder / "out", progress=False, **options)


def test_every_row_is_dubbed_as_it_says_and_has_its_line(folder):
    rows = run(folder, GOOD, "v.mp4,long.wav,v.npz,second.mkv,loop,0.2,0.6,\n")
    assert [row["output"] for row in rows] == ["v_says_short.mp4", "second.mkv"]
    assert [(row["status"], row["frames"]) for row in rows] == [("dubbed", 10), ("dubbed", 32)]
    pictures = [frame_index(picture) for _, picture in iter_frames(folder / "out/second.mkv")]
    assert pictures == [5 + k % 10 for k in range(32)]
    with (folder / "out/dubs.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    for row, path in zip(table, ("v_says_short.mp4", "second.mkv"), strict=True):
        assert abs(float(row["output_s"]) - float(row["audio_s"])) <= 0.04
        assert probe(folder / "out" / path).pictures_s == pytest.approx(float(row["output_s"]), abs=2e-3)
        assert float(row["frames_per_second"]) > 0 and row["generated"] == row["frames"] and not row["error"]
        assert json.loads((folder / "out" / f"{path}.json").read_text())["frames"] == int(row["frames"])


def test_a_failure_is_a_row_with_its_sentence_and_the_others_go_on(folder):
    (folder / "cut.mp4").write_bytes((folder / "v.mp4").read_bytes()[:-900])
    bad = [
        ("missing.mp4,short.wav,v.npz,a.mp4,,,,\n", "missing.mp4: no such file"),
        ("cut.mp4,short.wav,v.npz,b.mp4,,,,\n", "cut.mp4: cannot be read"),
        ("v.mp4,v.mp4,v.npz,c.mp4,,,,\n", "v.mp4: no sound inside"),
        ("v.mp4,long.wav,v.npz,d.mp4,error,,,\n", "the sound lasts 1.30 s, the video 1.00 s"),
        ("v.mp4,short.wav,v.npz,e.mp4,,soon,,\n", "start soon: write seconds"),
        ("v.mp4,short.wav,v.npz,f.mp4,,3,,\n", "nothing from 3 s on"),
        ("v.mp4,short.wav,v.npz,g.avi,,,,\n", "g.avi"),
        ("v.mp4,short.wav,v.npz,../h.mp4,,,,\n", "without a folder of its own"),
        ("v.mp4,short.wav,v.npz,./last.mp4,,,,\n", "without a folder of its own"),
        ("v.mp4,short.wav,v.npz,,,,,\n", "an earlier row is called so"),
    ]
    rows = run(folder, GOOD, *(line for line, _ in bad), GOOD.replace(",,,,,", ",last.mp4,,,,"))
    assert [row["status"] for row in rows] == ["dubbed", *["failed"] * len(bad), "dubbed"]
    for row, (_, sentence) in zip(rows[1:], bad, strict=False):
        assert sentence in row["error"]
    made = {path.name for path in (folder / "out").iterdir() if path.name != ".dubs.lock"}
    assert made == {"dubs.csv", "dubs.json", *(f"{n}.mp4{e}" for n in ("v_says_short", "last") for e in ("", ".json"))}


def test_what_is_finished_is_kept_until_a_file_or_a_setting_changes(folder, monkeypatch):
    dubbed = []
    monkeypatch.setattr(batch, "dub", lambda *a, real=batch.dub, **k: dubbed.append(k["out"].name) or real(*a, **k))
    second = "v.mp4,long.wav,v.npz,second.mp4,,,,\n"

    def statuses(*lines, **options):
        dubbed.clear()
        return [row["status"] for row in run(folder, *lines, **options)], list(dubbed)

    assert statuses(GOOD) == (["dubbed"], ["v_says_short.mp4"])
    assert statuses(GOOD, second) == (["kept", "dubbed"], ["second.mp4"])
    assert statuses(second, GOOD) == (["kept", "kept"], [])
    shutil.copy(folder / "v.mp4", folder / "same.mp4")  # another date alone is no change
    (folder / "same.mp4").replace(folder / "v.mp4")
    assert statuses(GOOD, second)[1] == []
    write_wav(folder / "short.wav", tone(0.44))
    assert statuses(GOOD, second)[1] == ["v_says_short.mp4"]
    assert statuses(GOOD, second.replace(",,,,", ",,0.2,,"))[1] == ["second.mp4"]
    assert statuses(GOOD, mark=True)[1] == ["v_says_short.mp4"]
    (folder / "out/v_says_short.mp4").unlink()
    assert statuses(GOOD, mark=True)[1] == ["v_says_short.mp4"]


def test_a_stopped_batch_goes_on_with_the_row_that_was_not_finished(folder, monkeypatch):
    lines = [GOOD.replace(",,,,,", f",{name}.mp4,,,,") for name in "abc"]
    real, calls = batch.dub, []

    def stopped(*args, **options):
        calls.append(options["out"].name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(batch, "dub", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(folder, *lines)
    assert [row["status"] for row in run(folder, *lines)] == ["kept", "dubbed", "dubbed"]
    assert calls == ["a.mp4", "b.mp4", "b.mp4", "c.mp4"]


def test_a_list_that_cannot_be_used_is_said_before_the_work(folder):
    model = FakeModel()
    (folder / "bad.csv").write_text("video,sound\na,b\n")
    with pytest.raises(DataError, match="no column `audio`"):
        dub_batch(model, folder / "bad.csv", folder / "out", progress=False)
    with pytest.raises(OutputError, match=r"v\.mp4: cannot be written"):
        dub_batch(model, listed(folder, GOOD), folder / "v.mp4", progress=False)
    assert model.references == 0 and not (folder / "out").exists()


def test_one_tracker_is_opened_for_all_rows_and_none_where_all_name_landmarks(folder, monkeypatch):
    opened = []
    marks = np.load(folder / "v.npz")["landmarks"]

    class Tracker:
        def __init__(self):
            opened.append(self)

        def detect(self, rgb):
            return [(marks[frame_index(rgb)], np.zeros(3))]

    monkeypatch.setattr(batch, "open_trackers", Tracker)
    run(folder, GOOD)
    assert not opened
    lines = [f"v.mp4,short.wav,,{name}.mp4,,,,\n" for name in "ab"]
    assert [row["status"] for row in run(folder, *lines)] == ["dubbed", "dubbed"] and len(opened) == 1

    def absent():
        raise WeightsMissing("no landmark network is present")

    monkeypatch.setattr(batch, "open_trackers", absent)
    with pytest.raises(WeightsMissing):
        run(folder, *lines)


def test_one_bar_counts_seconds_of_sound_over_all_rows(folder, monkeypatch):
    from lipformer_core.progress import tqdm

    bars = []
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(batch, "tqdm", lambda *a, **k: bars.append(tqdm(*a, **k)) or bars[-1])
    lines = GOOD, "v.mp4,long.wav,v.npz,,,,,\n", "missing.mp4,short.wav,v.npz,a.mp4,,,,\n"
    dub_batch(FakeModel(), listed(folder, *lines), folder / "out")
    (bar,) = bars
    assert bar.total == pytest.approx(2100, abs=10) and bar.n == bar.total  # milliseconds


def test_the_command_prints_a_line_a_row_and_its_exit_code_tells(folder, monkeypatch):
    monkeypatch.setattr("lipformer_core.checkpoint.load_lipformer", lambda *_, **__: FakeModel())

    def command(*lines):
        words = ["dub-batch", str(listed(folder, *lines)), "-o", str(folder / "out"), "--quiet"]
        return CliRunner().invoke(cli.app, words)

    result = command(GOOD)
    assert result.exit_code == 0 and "dubbed v_says_short.mp4: 0.40 s for 0.40 s of sound" in result.stdout
    result = command(GOOD, "gone{0}.mp4,short.wav,v.npz,a.mp4,,,,\n")
    assert result.exit_code == 1
    kept, failed, last = result.stdout.splitlines()
    assert kept.startswith("kept   v_says_short.mp4") and failed.startswith("failed a.mp4: ") and "gone{0}" in failed
    assert last.startswith("1 of 2 are there")
    result = CliRunner().invoke(cli.app, ["dub-batch", str(folder / "no.csv"), "-o", str(folder / "out")])
    assert result.exit_code == 2 and "no.csv: cannot be read as a CSV" in result.stderr


def test_an_infinite_end_is_none_at_all(folder):
    assert [row["frames"] for row in run(folder, "v.mp4,short.wav,v.npz,,,,inf,\n")] == [10]


def test_an_error_of_a_library_is_a_row_as_well(folder, monkeypatch):
    def out_of_memory(*_, out, real=batch.dub, **options):
        if out.name == "first.mp4":
            raise RuntimeError("CUDA out of memory")
        return real(*_, out=out, **options)

    monkeypatch.setattr(batch, "dub", out_of_memory)
    rows = run(folder, "v.mp4,short.wav,v.npz,first.mp4,,,,\n", GOOD)
    assert [row["status"] for row in rows] == ["failed", "dubbed"]
    assert rows[0]["error"] == "RuntimeError: CUDA out of memory"


def test_neither_list_nor_inputs_are_replaced(folder):
    before = (folder / "v.mp4").read_bytes()
    rows = dub_batch(FakeModel(), listed(folder, "v.mp4,short.wav,v.npz,v.mp4,,,,\n", GOOD), folder, progress=False)
    assert [row["status"] for row in rows] == ["failed", "dubbed"] and "would replace" in rows[0]["error"]
    assert (folder / "v.mp4").read_bytes() == before
    mine = folder / "out/dubs.csv"
    mine.parent.mkdir()
    mine.write_text(HEAD + "../v.mp4,../short.wav,../v.npz,,,,,\n")
    with pytest.raises(OutputError, match="would replace"):
        dub_batch(FakeModel(), mine, folder / "out", progress=False)
    assert mine.read_text().startswith(HEAD)


def test_rows_of_other_lists_stay_known(folder):
    run(folder, GOOD)
    run(folder, "v.mp4,long.wav,v.npz,second.mp4,,,,\n")
    assert [row["status"] for row in run(folder, GOOD)] == ["kept"]
    with (folder / "out/dubs.csv").open(newline="") as file:
        assert {row["output"] for row in csv.DictReader(file)} == {"v_says_short.mp4", "second.mp4"}


def test_two_calls_in_one_folder_do_not_write_one_table(folder, monkeypatch):
    def meanwhile(*_, real=batch.dub, **options):
        with pytest.raises(OutputError, match="another process"):
            run(folder, GOOD)
        return real(*_, **options)

    monkeypatch.setattr(batch, "dub", meanwhile)
    assert [row["status"] for row in run(folder, GOOD)] == ["dubbed"]


def test_a_folder_is_a_list_of_pairs_of_one_name(folder, monkeypatch):
    pairs = folder / "pairs"
    pairs.mkdir()
    for name in ("anna.mp4", "berta.mp4"):
        shutil.copy(folder / "v.mp4", pairs / name)
    shutil.copy(folder / "short.wav", pairs / "anna.WAV")
    marks = folder / "v.npz"
    dub = batch.dub
    monkeypatch.setattr(batch, "open_trackers", lambda: None)
    monkeypatch.setattr(batch, "dub", lambda *a, **k: dub(*a, **k | {"landmarks": marks}))
    rows = dub_batch(FakeModel(), pairs, folder / "out", progress=False)
    assert [(row["output"], row["status"]) for row in rows] == [("anna_says_anna.mp4", "dubbed")]
    (pairs / "anna.WAV").unlink()
    with pytest.raises(DataError, match="beside a sound of the same name"):
        dub_batch(FakeModel(), pairs, folder / "out", progress=False)
