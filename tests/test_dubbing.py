"""Dubbing: every row of the table of inputs, on small videos with a fake model that paints loudness."""

import json
import tracemalloc
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from functools import partial
from pathlib import Path
from time import time
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from material import FAKE_CONFIG, FakeModel, draw_face, face_clip, frame_index, tone, write_video, write_wav

from lipformer_core.checkpoint import fingerprint
from lipformer_core.data.audio import log_mel, mel_windows
from lipformer_core.data.faces.tracking import FaceTrack
from lipformer_core.data.media import (
    Damage,
    FrameReader,
    MediaInfo,
    VideoWriter,
    frame_times,
    iter_frames,
    probe,
    read_audio,
)
from lipformer_core.dubbing import timeline
from lipformer_core.dubbing.compositing import swayed
from lipformer_core.dubbing.dub import COMMENT, dub, output_order
from lipformer_core.dubbing.report import quality_warnings
from lipformer_core.dubbing.source_face import follow
from lipformer_core.errors import (
    AudioTooLong,
    ConfigError,
    DataError,
    MediaError,
    NoAudioStream,
    NoFaceFound,
    NoVideoStream,
    UnreadableMedia,
)
from lipformer_core.progress import tqdm

RATES = [Fraction(24_000, 1_001), 24, 25, Fraction(30_000, 1_001), 30, 50, 60]


class Material:
    """A video with its landmarks, a sound, and a place for the result, in one folder."""

    def __init__(self, folder, n=25, fps=25, seconds=1.0, size=(96, 128), valid=None, rate=16_000, **options):
        self.folder = folder
        self.frames, self.marks = face_clip(n, *size)
        self.video = write_video(folder / "video.mp4", self.frames, fps, **options)
        self.audio = write_wav(folder / "audio.wav", tone(seconds, rate), rate)
        self.track = folder / "track.npz"
        np.savez(self.track, landmarks=self.marks, valid=np.ones(n, bool) if valid is None else valid)
        self.out = folder / "out.mp4"
        self.model = FakeModel()

    def dub(self, **options):
        given = {"landmarks": self.track, "progress": False, **options}
        return dub(self.model, given.pop("video", self.video), given.pop("audio", self.audio), self.out, **given)

    def shown(self):
        return [picture for _, picture in iter_frames(self.out)]


def test_only_the_mouth_changes_and_it_follows_the_sound(tmp_path):
    m = Material(tmp_path, n=50, seconds=2.0)
    report = m.dub(report=tmp_path / "report.json")
    shown = np.stack(m.shown()).astype(int)
    assert shown.shape == m.frames.shape and [frame_index(p) for p in shown] == list(range(50))
    change = np.abs(shown - m.frames).mean(3)
    eyes = int(m.marks[0, 36:48, 1].max())
    assert change[:, : eyes + 4].mean() < 2.5 and change[:, :, :20].mean() < 2.5  # no more than the codec's noise
    mouth = m.marks[:, 48:68].mean(1).round().astype(int)
    bright = np.array([shown[k, y - 2 : y + 3, x - 4 : x + 5].mean() for k, (x, y) in enumerate(mouth)])
    loud = tone(2.0).reshape(50, 640).std(1) > 0.1
    assert bright[loud][1:-1].mean() > bright[~loud][1:-1].mean() + 60
    assert m.model.references == 1 and m.model.largest_batch <= 16
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["statuses"] == {"generated": 50, "interpolated": 0, "passed through": 0}
    assert written["ranges"] == [{"first": 0, "last": 49, "start_s": 0.0, "end_s": 2.0, "status": "generated"}]
    assert {"tracking", "audio", "model", "compositing", "encoding", "total"} <= set(written["seconds"])
    assert written["fps"] == 25 and written["frames"] == report.frames == 50 and written["frames_per_second"] > 0
    with av.open(str(m.out)) as container:
        by = written["made_by"]
        assert container.metadata["comment"] == (
            f"{COMMENT} LipFormer {by['version']}, weights {by['weights']}, {by['at']}."
        )
        assert (
            by["weights"] == fingerprint(m.model)[:12]
            and abs(datetime.fromisoformat(by["at"]).timestamp() - time()) < 99
        )


def test_a_model_of_normalised_sound_hears_it_less_the_recordings_mean(tmp_path):
    m, heard = Material(tmp_path), {}
    for normalised in (False, True):
        m.model.config = FAKE_CONFIG.replace({"audio.mean_normalise": normalised})
        seen = heard[normalised] = []
        say = partial(FakeModel.say, m.model)
        m.model.say = lambda face, audio, seen=seen, say=say, **how: seen.append(audio) or say(face, audio, **how)
        m.dub()
    plain, less = (torch.cat(heard[k]) for k in (False, True))
    mean = torch.from_numpy(log_mel(read_audio(m.audio)).mean(0))
    torch.testing.assert_close(less, plain - mean, atol=1e-5, rtol=0)


def test_features_of_the_speech_encoder_are_held_as_corpora_hold_them(tmp_path, monkeypatch):
    m, heard = Material(tmp_path), []
    rows = np.random.default_rng(0).normal(0, 3, (101, 368)).astype(np.float32)
    monkeypatch.setattr("lipformer_core.dubbing.dub.sound_rows", lambda *_a, **_k: rows)
    m.model.config = FAKE_CONFIG.replace({"audio.speech_encoder": "moonshine"})
    say = partial(FakeModel.say, m.model)
    m.model.say = lambda face, audio, **how: heard.append(audio) or say(face, audio[..., :80], **how)
    m.dub()
    expected = mel_windows(rows.astype(np.float16), np.arange(25) / 25, 16)
    np.testing.assert_array_equal(torch.cat(heard), expected)


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("seconds", [0.5, 1.3])
def test_rate_is_kept_and_duration_is_the_sounds(tmp_path, fps, seconds):
    m = Material(tmp_path, n=round(fps), fps=fps, seconds=seconds)
    m.dub()
    info = probe(m.out)
    assert info.fps == fps
    assert abs(len(frame_times(m.out)) / fps - seconds) <= 1 / fps
    assert abs(info.duration_s - seconds) <= 1 / fps + 1e-3
    assert abs(len(read_audio(m.out)) / 16_000 - seconds) <= 1 / fps + 1e-3


def test_variable_rate_becomes_constant_and_shows_what_was_on_screen(tmp_path):
    times = np.concatenate([np.arange(10) / 50, 0.2 + np.arange(20) / 20, 1.2 + np.arange(20) / 50])
    m = Material(tmp_path, n=50, times=times, seconds=1.5)
    report = m.dub()
    info = probe(m.out)
    steps = np.diff(frame_times(m.out))
    np.testing.assert_allclose(steps, 1 / float(info.fps), atol=1e-4)
    for k, picture in enumerate(m.shown()):
        on_screen = np.searchsorted(times, k / float(info.fps) + 2e-3, side="right") - 1
        assert frame_index(picture) == on_screen
    assert abs(info.duration_s - 1.5) <= 1 / float(info.fps) + 1e-3
    assert any("varies" in warning for warning in report.warnings)


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 2), (44_100, 2), (22_050, 1), (8_000, 1)])
def test_sound_keeps_its_rate_and_channels(tmp_path, rate, channels):
    m = Material(tmp_path)
    write_wav(m.audio, np.stack([tone(1.0, rate)] * channels, 1), rate)
    m.dub()
    info = probe(m.out)
    assert (info.sample_rate, info.channels) == (rate, channels)


def packets(path):
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(audio=0) if p.size]


@pytest.mark.parametrize("late", [0.0, 0.3])
def test_aac_is_taken_over_as_it_is(tmp_path, late):
    """The sound of another video, packet by packet, and where it was; what has to be cut off is coded anew."""
    m = Material(tmp_path, seconds=0.8)
    silence, beep = np.zeros(round((0.2 + late) * 48_000), np.float32), tone(0.5, 48_000)
    spoken = tmp_path / "spoken.mp4"
    with VideoWriter(spoken, 128, 96, 25, (np.concatenate([silence, beep]), 48_000)) as writer:
        for frame in m.frames:
            writer.write(frame)
    report = m.dub(audio=spoken)
    assert packets(m.out) == packets(spoken)[: len(packets(m.out))] and len(packets(m.out)) > 30
    onsets = [int(np.argmax(np.abs(read_audio(path)) > 0.05)) / 16_000 for path in (spoken, m.out)]
    assert onsets[1] == pytest.approx(onsets[0], abs=1e-3)
    assert abs(probe(m.out).duration_s - report.audio_s) < 0.04
    cut = m.dub(audio=m.audio)
    assert cut.frames == 20 and probe(m.out).has_audio


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("pingpong", [*range(10), *range(8, -1, -1), *range(1, 10), 8, 7]),
        ("loop", [*range(10)] * 3),
        ("cut", [*range(10)]),
    ],
)
def test_sound_longer_than_the_video(tmp_path, policy, expected):
    m = Material(tmp_path, n=10, seconds=1.2)
    report = m.dub(policy=policy)
    expected = expected[: 30 if policy != "cut" else 10]
    assert [frame_index(p) for p in m.shown()] == expected
    assert report.frames == len(expected)
    assert abs(len(read_audio(m.out)) - 640 * len(expected)) <= 640


def test_sound_longer_than_the_video_as_an_error(tmp_path):
    m = Material(tmp_path, n=10, seconds=1.2)
    with pytest.raises(AudioTooLong, match=r"1\.20 s.*0\.40 s"):
        m.dub(policy="error")
    assert not m.out.exists()
    with pytest.raises(ConfigError, match="pingpong"):
        m.dub(policy="stretch")


def test_order_of_a_long_pingpong_stays_inside(tmp_path):
    info = probe(Material(tmp_path, n=10).video)
    order = output_order(np.arange(10) / 25, info, 60.0, "pingpong")
    assert len(order) == 1_500 and set(order) == set(range(10)) and np.abs(np.diff(order)).max() == 1
    assert len(output_order(np.zeros(1), info, 1.0, "pingpong")) == 25


@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0.4, None, range(10, 30)),
        (0.41, 0.8, [*range(10, 20), *range(18, 9, -1), 11]),
        (1.99, None, [49] * 20),
        (0, 0.2, [0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2, 3]),
    ],
)
def test_a_stretch_of_the_video_is_dubbed_alone(tmp_path, tracked, start, end, expected):
    m = Material(tmp_path, n=50, seconds=0.8)
    looked_at = []

    class Tracker:
        def detect(self, rgb):
            looked_at.append(frame_index(rgb))
            return [(m.marks[looked_at[-1]], np.zeros(3))]

    report = m.dub(start=start, end=end, **({"landmarks": None, "tracker": Tracker()} if tracked else {}))
    assert [frame_index(picture) for picture in m.shown()] == list(expected)
    assert report.statuses["generated"] == 20 and min(expected) <= report.reference_frame <= max(expected)
    if tracked:
        assert looked_at[0] == expected[0] and max(expected) <= looked_at[-1] <= max(expected) + 26
    with pytest.raises(ConfigError, match="ends at 2.00 s"):
        m.dub(start=2.5)
    for wrong in ({"start": -1}, {"start": 1, "end": 1}):
        with pytest.raises(ConfigError, match="no stretch"):
            m.dub(**wrong)


def test_a_reference_may_be_named_by_its_time(tmp_path):
    valid = np.ones(25, bool)
    valid[3] = False
    m = Material(tmp_path, valid=valid)
    assert m.dub(reference=0.55).reference_frame == 13
    with pytest.raises(ConfigError, match=r"0\.12 s.*another time"):
        m.dub(reference=0.12)


def test_lossless_keeps_every_pixel_outside_of_the_lower_face(tmp_path):
    m = Material(tmp_path)
    m.dub(crf=0)
    given = np.stack([picture for _, picture in iter_frames(m.video)])
    changed = (np.stack(m.shown()) != given).any(3)
    nose = m.marks[:, 33, 1].astype(int)
    jaw = m.marks[:, :17]
    assert changed.any((1, 2)).all()
    for k, (left, right) in enumerate(zip(jaw[:, 0, 0], jaw[:, 16, 0], strict=True)):
        rows, columns = np.nonzero(changed[k])
        assert rows.min() >= nose[k] - 1 and columns.min() > left - 2 and columns.max() < right + 2


def test_a_visible_mark_is_written_into_the_corner_and_nowhere_else(tmp_path):
    m = Material(tmp_path, size=(192, 256))
    m.dub(crf=0)
    plain = np.stack(m.shown())
    m.dub(crf=0, mark=True)
    rows, columns = np.nonzero((np.stack(m.shown()) != plain).any((0, 3)))
    assert rows.min() > 170 and columns.max() < 110 and len(rows) > 200
    assert (np.stack(m.shown())[:, rows, columns] > 200).any() and frame_index(plain[-1]) == 24


def test_who_asks_is_told_the_share_that_is_done_and_may_stop_it(tmp_path):
    m = Material(tmp_path, n=50, seconds=2.0)
    shares = []

    class Tracker:
        def __init__(self):
            self.marks = iter(m.marks)

        def detect(self, rgb):
            return [(next(self.marks), np.zeros(3))]

    m.dub(progress=shares.append, landmarks=None, tracker=Tracker())
    assert shares == sorted(shares) and shares[0] < 0.05 and shares[-1] == 1 and len(shares) > 50
    m.out.unlink()

    def stop(share):
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        m.dub(progress=stop)
    assert not m.out.exists()


def test_the_bar_stands_before_the_sound_is_heard(tmp_path, monkeypatch):
    m, shown = Material(tmp_path), []
    monkeypatch.setattr(timeline, "tqdm", lambda **options: shown.append("bar") or tqdm(**options | {"disable": True}))
    monkeypatch.setattr(
        "lipformer_core.dubbing.dub.read_audio", lambda *a, real=read_audio, **k: shown.append("sound") or real(*a, **k)
    )
    m.dub(progress=True)
    assert shown == ["bar", "sound"]


def test_a_turned_face_is_told_by_its_frames_and_what_was_asked_is_told(tmp_path):
    m = Material(tmp_path)
    pose = np.zeros((25, 3), np.float32)
    pose[5:15, 0] = 40
    np.savez(m.track, landmarks=m.marks, pose=pose)
    report = m.dub(end=0.9, crf=20)
    assert [(run["first"], run["last"]) for run in report.turned] == [(5, 14)]
    assert "43% of the frames show the face turned by more than 35 degrees" in report.table()
    assert report.settings["end"] == 0.9 and report.settings["crf"] == 20 and report.settings["policy"] == "pingpong"


def test_a_large_face_is_told():
    none = np.zeros(3, bool)
    track = FaceTrack(np.zeros((3, 68, 2)), np.zeros((3, 3)), ~none, none, none, none)
    small, large = (np.tile(np.eye(3)[:2] / scale, (3, 1, 1)) for scale in (2, 3))
    still = MediaInfo(Path("a.png"), 1, 1, Fraction(25), 0.0, has_video=True, has_audio=False, is_image=True)
    assert quality_warnings(track, small, np.zeros(3), still) == []
    assert "3.0 times as large" in quality_warnings(track, large, np.zeros(3), still)[0]


def test_a_picture_that_is_held_beyond_the_sound_counts_to_its_end(tmp_path):
    """The length of a file of many packets is not known before it is decoded, and decoding ends with the sound."""
    m = Material(tmp_path, n=12, times=np.append(np.arange(11) / 25, 9.0))
    source = replace(probe(m.video), pictures_s=0.0)
    tracker = SimpleNamespace(detect=lambda rgb: [(m.marks[0], np.zeros(3))])
    times, track = follow(source, None, tracker, "largest", (0, 3.0), lambda share: None, Damage())
    assert len(times) == len(track) == 12 and track.valid.tolist() == [True] * 11 + [False]
    assert output_order(times, source, 2.0, "error").tolist() == [*range(10), *[10] * 40]


def test_pictures_of_one_time_are_one(tmp_path):
    m = Material(tmp_path, n=12)
    with FrameReader(m.video, np.minimum(np.arange(12), 9) / 25) as reader:
        np.testing.assert_array_equal(reader[11], reader[9])


def test_a_portrait_is_a_still(tmp_path):
    from PIL import Image

    m = Material(tmp_path, n=1, seconds=0.8)
    Image.fromarray(m.frames[0]).save(tmp_path / "face.png")
    for policy in ("pingpong", "error"):
        report = m.dub(video=tmp_path / "face.png", policy=policy)
        assert report.frames == 20 and report.fps == 25


def test_a_portrait_sways_gently_and_without_a_border(tmp_path):
    from PIL import Image

    m = Material(tmp_path, n=1, seconds=4.0, size=(240, 320))
    frame = np.full_like(m.frames[0], 200)
    frame[:2], frame[-2:], frame[:, :2], frame[:, -2:] = 0, 0, 0, 0  # a border that must stay out of view
    np.testing.assert_array_less(150, np.stack([swayed(frame, k / 25) for k in range(1000)]))
    m.frames[0][:60] = 60 + 120 * (np.indices((60, 320)).sum(0) // 16 % 2)[..., None]  # a wall behind the head
    Image.fromarray(m.frames[0]).save(tmp_path / "face.png")
    still, moving = (m.dub(video=tmp_path / "face.png", sway=sway) and np.stack(m.shown()) for sway in (False, True))
    top = np.s_[:, :50]
    steps = np.abs(np.diff(moving[top].astype(int), axis=0)).mean((1, 2, 3))
    assert np.abs(np.diff(still[top].astype(int), axis=0)).mean() < 0.2 < steps.mean() < 3
    with pytest.raises(ConfigError, match="moves by itself"):
        m.dub(video=write_video(tmp_path / "moving.mp4", np.repeat(m.frames, 5, axis=0)), sway=True)


def test_frames_without_a_face_pass_through_and_are_listed(tmp_path):
    valid = np.ones(50, bool)
    valid[20:40] = False
    m = Material(tmp_path, n=50, seconds=2.0, valid=valid)
    report = m.dub()
    assert [(r["first"], r["last"], r["status"]) for r in report.ranges] == [
        (0, 19, "generated"),
        (20, 39, "passed through"),
        (40, 49, "generated"),
    ]
    change = np.abs(np.stack(m.shown()).astype(int) - m.frames).mean((1, 2, 3))
    assert change[20:40].max() < 2 < change[5]


def test_tracker_gaps_and_the_choice_of_a_face(tmp_path):
    m = Material(tmp_path, n=40, seconds=1.6)
    seen = iter(range(40))

    class Tracker:
        def detect(self, rgb):
            k = next(seen)
            beside = m.marks[k] * 0.4
            if k in (0, 10, 11) or 20 <= k < 35:
                return [(beside, np.zeros(3))] if k else []
            return [(beside, np.zeros(3)), (m.marks[k], np.zeros(3))]

    report = m.dub(landmarks=None, tracker=Tracker(), face=1)
    assert [(r["first"], r["last"], r["status"]) for r in report.ranges] == [
        (0, 0, "passed through"),
        (1, 9, "generated"),
        (10, 11, "interpolated"),
        (12, 19, "generated"),
        (20, 34, "passed through"),
        (35, 39, "generated"),
    ]


def test_reference_is_frontal_and_never_a_blank_frame(tmp_path):
    m = Material(tmp_path, n=30)
    m.frames[:12] = 127
    write_video(m.video, m.frames)
    pose = np.zeros((30, 3), np.float32)
    pose[12:20, 0] = 40
    np.savez(m.track, landmarks=m.marks, pose=pose)
    assert m.dub().reference_frame >= 20


@pytest.mark.parametrize("size", [(95, 128), (96, 127), (121, 161)])
def test_odd_sizes_are_kept(tmp_path, size):
    m = Material(tmp_path, n=6, seconds=0.2, size=size)
    m.dub()
    info = probe(m.out)
    assert (info.height, info.width) == size


def test_rotation_of_the_source_is_applied(tmp_path):
    m = Material(tmp_path, n=6, seconds=0.2)
    turned = np.ascontiguousarray(np.rot90(m.frames, -1, (1, 2)))
    write_video(m.video, turned, rotation=90)
    m.dub()
    info = probe(m.out)
    assert (info.height, info.width) == (96, 128)
    assert [frame_index(p) for p in m.shown()] == list(range(5))


@pytest.mark.parametrize("level", [0.0, np.nan])
def test_silence_and_broken_sound_give_a_still_mouth(tmp_path, level):
    m = Material(tmp_path)
    write_wav(m.audio, np.full(16_000, level, np.float32))
    report = m.dub()
    assert any("silence" in warning for warning in report.warnings)
    mouth = m.marks[:, 48:68].mean(1).round().astype(int)
    bright = [p[y - 2 : y + 3, x - 4 : x + 5].mean() for p, (x, y) in zip(m.shown(), mouth, strict=True)]
    assert np.std(bright) < 6


def test_unusable_inputs_have_typed_errors_and_leave_nothing(tmp_path):
    m = Material(tmp_path)
    whole = m.video.read_bytes()
    bad = {"empty.mp4": b"", "cut.mp4": whole[: len(whole) // 2], "text.mp4": b"no video\n" * 99}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    before = {p.name for p in tmp_path.iterdir()}
    cases = [(UnreadableMedia, {"video": tmp_path / name}) for name in [*bad, "missing.mp4"]] + [
        (UnreadableMedia, {"audio": tmp_path / "empty.mp4"}),
        (NoVideoStream, {"video": m.audio}),
        (NoAudioStream, {"audio": m.video}),
        (DataError, {"landmarks": tmp_path / "text.mp4"}),
    ]
    for error, options in cases:
        with pytest.raises(error) as caught:
            m.dub(**options)
        assert next(iter(options.values())).name in str(caught.value)
    np.savez(m.track, landmarks=m.marks[:7])
    with pytest.raises(DataError, match="7 rows"):
        m.dub()
    np.savez(m.track, landmarks=m.marks, valid=np.zeros(25, bool))
    with pytest.raises(NoFaceFound):
        m.dub()
    with pytest.raises(NoFaceFound):
        m.dub(landmarks=None, tracker=type("Blind", (), {"detect": lambda self, rgb: []})())
    assert {p.name for p in tmp_path.iterdir()} == before


def test_output_must_not_replace_an_input(tmp_path):
    m = Material(tmp_path)
    before = m.video.read_bytes()
    m.out = m.video
    with pytest.raises(MediaError, match="replace the input"):
        m.dub()
    m.out = tmp_path / "link.mp4"
    m.out.symlink_to(m.video)
    with pytest.raises(MediaError, match="replace the input"):
        m.dub()
    assert m.video.read_bytes() == before


def test_an_interrupted_run_leaves_no_half_file(tmp_path):
    m = Material(tmp_path, n=50, seconds=2.0)
    say = m.model.say

    def interrupted(*inputs, **how):
        if interrupted.calls == 2:
            raise KeyboardInterrupt
        interrupted.calls += 1
        return say(*inputs, **how)

    interrupted.calls = 0
    m.model.say = interrupted
    before = {p.name for p in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        m.dub()
    assert {p.name for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("tracked", [False, True])
def test_memory_does_not_grow_with_length(tmp_path, monkeypatch, tracked):
    """Four times the length may cost landmarks and sound alone, in both passes and where stretches are joined.

    Pictures are numpy arrays, which tracemalloc sees where their rows do not lie as the decoder's do.
    """
    monkeypatch.setattr("lipformer_core.dubbing.dub.STRETCH", 60)
    peaks = []
    for n in (60, 240):
        folder = tmp_path / str(n)
        folder.mkdir()
        m = Material(folder, n=60, seconds=n / 25, size=(192, 250))
        m.frames, long = None, np.concatenate([m.marks] * (n // 60))
        write_video(m.video, np.stack([draw_face(192, 250, p, k % 190) for k, p in enumerate(long)]))
        np.savez(m.track, landmarks=long)
        marks = iter(long)
        tracker = SimpleNamespace(detect=lambda rgb, marks=marks: [(next(marks), np.zeros(3))])
        tracemalloc.start()
        m.dub(**({"landmarks": None, "tracker": tracker} if tracked else {}))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    pictures = 192 * 250 * 3
    assert peaks[0] > 20 * pictures  # the measure does see pictures
    assert peaks[1] < peaks[0] + 40 * pictures


def test_track_dataclass_says_how_long_it_is():
    nothing = np.zeros(3, bool)
    assert len(FaceTrack(np.zeros((3, 68, 2)), np.zeros((3, 3)), *[nothing] * 4)) == 3
