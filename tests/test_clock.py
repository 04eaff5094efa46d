"""One clock for sound and picture: late beginnings, holes, joined files, files cut anywhere; and rates as measured."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from material import FakeModel, draw_face, face_clip, frame_index, tone, write_video, write_wav

from lipformer_core.data.media import Damage, FrameReader, frame_times, iter_frames, probe, read_audio
from lipformer_core.data.media.rates import measured_rate, result_rate
from lipformer_core.data.media.source_streams import shown_frames, sound_from
from lipformer_core.dubbing.dub import dub, output_order
from lipformer_core.errors import UnreadableMedia


def clicks(seconds: float, at: tuple[float, ...], rate: int = 48_000) -> np.ndarray:
    """Silence with bursts of 30 ms."""
    samples = np.zeros(round(seconds * rate), np.float32)
    for moment in at:
        samples[round(moment * rate) : round((moment + 0.03) * rate)] = 0.8 * np.sin(np.arange(round(0.03 * rate)) / 4)
    return samples


def onsets(samples: np.ndarray, rate: int = 16_000) -> list[float]:
    """Seconds at which such bursts begin."""
    loud = np.flatnonzero(np.abs(samples) > 0.2)
    return [float(k) / rate for k in loud[np.diff(loud, prepend=-rate) > rate // 5]]


def write_sound_file(path: Path, samples: np.ndarray, codec: str, rate: int = 48_000) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        wanted = stream.codec_context.format.name
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        size = stream.codec_context.frame_size or 1_024
        for block in av.AudioResampler(wanted, "mono", rate, frame_size=size).resample(frame):
            container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    return path


def remux(source: Path, target: Path, change: Callable[[av.Packet], bool]) -> Path:
    """Copy packets; `change` may move one, or leave it out by False."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        streams = {s.index: made.add_stream_from_template(s) for s in given.streams}
        for packet in given.demux():
            if packet.dts is not None and change(packet):
                packet.stream = streams[packet.stream_index]
                made.mux(packet)
    return target


def moved(seconds: float, kind: str = "audio") -> Callable[[av.Packet], bool]:
    def change(packet: av.Packet) -> bool:
        if packet.stream.type == kind:
            packet.pts += round(seconds / packet.time_base)
            packet.dts += round(seconds / packet.time_base)
        return True

    return change


def without(first: float, last: float, kind: str = "audio") -> Callable[[av.Packet], bool]:
    return lambda packet: packet.stream.type != kind or not first <= packet.pts * packet.time_base < last


FORMATS = [
    ("libopus", "mka"),
    ("libopus", "mp4"),
    ("aac", "mp4"),
    ("aac", "mka"),
    ("pcm_s16le", "mka"),
    ("flac", "mka"),
]


@pytest.mark.parametrize(("codec", "ending"), FORMATS)
@pytest.mark.parametrize("late", [0.06, 0.5])
def test_a_late_beginning_is_silence_once(tmp_path, codec, ending, late):
    plain = write_sound_file(tmp_path / f"plain.{ending}", clicks(1.5, (0.3, 1.2)), codec)
    sound = read_audio(remux(plain, tmp_path / f"late.{ending}", moved(late)))
    np.testing.assert_allclose(onsets(sound), [0.3 + late, 1.2 + late], atol=0.03)
    assert abs(len(sound) / 16_000 - 1.5 - late) < 0.04


@pytest.mark.parametrize(("codec", "ending"), [*FORMATS, ("aac", "ts")])
def test_a_hole_is_filled_once_and_told(tmp_path, codec, ending):
    plain = write_sound_file(tmp_path / f"plain.{ending}", clicks(2.0, (0.3, 1.7)), codec)
    damage = Damage()
    holed = remux(plain, tmp_path / f"hole.{ending}", without(0.8, 1.4))
    sound = read_audio(holed, damage=damage)
    np.testing.assert_allclose(onsets(sound), [0.3, 1.7], atol=0.03)
    assert abs(damage.silence_s - 0.6) < 0.06 and "holes in the sound" in damage.warnings(holed)[0]


def test_times_below_zero_are_no_leap(tmp_path):
    frames, _ = face_clip(50)
    video = write_video(tmp_path / "v.mp4", frames, sound=clicks(2.0, (1.5,), 16_000))
    with_early = remux(video, tmp_path / "early.mp4", moved(-1.0))
    damage = Damage()
    np.testing.assert_allclose(onsets(read_audio(with_early, damage=damage)), [0.5], atol=0.03)
    assert damage.leaps == 0


def test_sound_that_has_no_picture_says_so(tmp_path):
    frames, _ = face_clip(10)
    video = write_video(tmp_path / "v.mp4", frames, sound=tone(0.4))
    early = remux(video, tmp_path / "early.mkv", moved(40, "video"))
    with pytest.raises(UnreadableMedia, match="ends before the first picture"):
        read_audio(early)
    apart = remux(video, tmp_path / "apart.mkv", moved(90_000))  # no pause, but clocks that know nothing of each other
    assert len(read_audio(apart)) < 0.6 * 16_000


def test_pictures_that_are_missing_are_told(tmp_path):
    frames, _ = face_clip(50)
    video = write_video(tmp_path / "v.mp4", frames, gop=1)
    holed = remux(video, tmp_path / "holed.mp4", without(0.39, 1.19, "video"))
    shown, report = dubbed(tmp_path, holed, 2.0)
    assert shown == [*range(10), *[9] * 20, *range(30, 50)]
    assert any("held for 0.84 s from 0.36 s on" in warning for warning in report.warnings), report.warnings


def test_preparation_hears_late_sound_in_its_place(tmp_path):
    frames, _ = face_clip(25)
    video = write_video(tmp_path / "v.mp4", frames, sound=clicks(1.0, (0.2,), 16_000))
    late = remux(video, tmp_path / "late.mp4", moved(0.5))
    sound = np.concatenate(list(sound_from(late, 0.0, 0.0)))
    np.testing.assert_allclose(onsets(sound), [0.7], atol=0.02)
    assert len(sound) < 1.6 * 16_000


def transport_stream(path: Path, n: int = 75, seconds: float = 3.0) -> Path:
    """Pictures that tell their index, a key frame a second, and a click every half second."""
    frames = np.stack([draw_face(48, 64, None, k % 196) for k in range(n)])
    at = tuple(np.arange(0.25, seconds, 0.5))
    mp4 = write_video(path.with_suffix(".mp4"), frames, sound=clicks(seconds, at, 16_000), gop=25)
    with av.open(str(mp4)) as given:  # a transport stream is written in order of time
        packets = sorted((p for p in given.demux() if p.dts is not None), key=lambda p: float(p.dts * p.time_base))
        with av.open(str(path), "w") as made:
            streams = {s.index: made.add_stream_from_template(s) for s in given.streams}
            for packet in packets:
                packet.stream = streams[packet.stream_index]
                made.mux(packet)
    return path


def clicked_pictures(path: Path, seconds: np.ndarray) -> list[int]:
    """Which picture is on screen at each moment."""
    shown = list(iter_frames(path))
    times = np.array([time for time, _ in shown])
    return [frame_index(shown[int(np.searchsorted(times, s + 1e-3, side="right")) - 1][1]) for s in seconds]


def test_a_file_cut_between_key_frames_keeps_its_sound_in_step(tmp_path):
    whole = transport_stream(tmp_path / "whole.ts")
    cut = tmp_path / "cut.ts"
    remux(whole, cut, lambda p: p.stream.type != "video" or p.pts * p.time_base > 0.2)
    damage = Damage()
    sound = read_audio(cut, damage=damage)
    heard = np.array(onsets(sound))
    whole_heard = np.array(onsets(read_audio(whole)))
    assert frame_index(next(iter_frames(cut))[1]) == 25 and len(heard) == 4
    assert abs(len(sound) / 16_000 - 2.0) < 0.1 and abs(damage.early_s - 1.0) < 0.1
    assert clicked_pictures(cut, heard) == clicked_pictures(whole, whole_heard[2:])
    assert "before the first picture" in damage.warnings(cut)[0]


def test_joined_files_go_on_where_the_first_one_ends(tmp_path):
    one = transport_stream(tmp_path / "one.ts", 50, 2.0)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(one.read_bytes() * 2)
    damage = Damage()
    times = frame_times(joined, damage)
    assert len(times) == 100 and damage.leaps == 1
    np.testing.assert_allclose(np.diff(times), 0.04, atol=0.15)
    expected = [frame_index(p) for _, p in iter_frames(joined)]
    order = [99, 60, 30, 98, 2, 0, 75]
    with FrameReader(joined, times, seekable=not damage.leaps) as reader:
        assert [frame_index(reader[k]) for k in order] == [expected[k] for k in order] == [k % 50 for k in order]
    heard = np.array(onsets(read_audio(joined)))
    assert len(heard) == 8
    np.testing.assert_allclose(heard[4:] - heard[:4], 2.0, atol=0.15)
    pictures = np.array(clicked_pictures(joined, heard))
    assert np.abs(pictures[4:] - pictures[:4]).max() <= 1  # in step behind the join as before it


def test_a_leaping_clock_makes_no_hole_but_a_pause_of_one_stream_does(tmp_path):
    one = transport_stream(tmp_path / "one.ts", 50, 2.0)
    later = remux(one, tmp_path / "later.ts", lambda p: moved(50_000, "audio")(p) and moved(50_000, "video")(p))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(one.read_bytes() + later.read_bytes())
    assert frame_times(joined)[-1] < 4.1 and len(read_audio(joined)) < 4.2 * 16_000
    long = transport_stream(tmp_path / "long.ts", 400, 16.0)
    paused = remux(long, tmp_path / "paused.ts", without(2, 14))
    np.testing.assert_allclose(
        onsets(read_audio(paused)), [0.25, 0.75, 1.25, 1.75, *np.arange(14.25, 16, 0.5)], atol=0.1
    )


@pytest.mark.parametrize(
    ("steps", "claims", "expected", "result"),
    [
        ([41, 41, 17] * 12, (1_000,), 30, 30),  # a browser's recorder
        ([1_000] * 3, (1,), 1, 25),
        ([5_000] * 3, (), Fraction(1, 5), 25),
        ([80, 80, 90] * 10, (), 12, 24),  # a GIF: hundredths of a second
        ([33, 33, 34] * 20, (1_000,), 30, 30),
        ([33, 33, 34, 100] * 20, (24,), 30, 30),  # some pictures left out
        ([42, 42, 41, 42] * 24, (Fraction(24_000, 1_001),), Fraction(24_000, 1_001), Fraction(24_000, 1_001)),
        ([17, 16, 17] * 20 + [4_000], (), 60, 60),  # a long hold at the end
        ([8, 8, 9] * 20, (), 120, 60),
        ([4, 4, 4, 4, 5] * 20, (), Fraction(5_000, 21), Fraction(1_250, 21)),
        ([], (1_000,), 240, 60),
        ([], (), 25, 25),
    ],
)
def test_rates_are_measured_and_results_have_a_floor_and_a_ceiling(steps, claims, expected, result):
    times = np.cumsum([0, *steps]) / 1_000 if steps else []
    rate = measured_rate(times, [Fraction(claim) for claim in claims])
    assert abs(float(rate) / float(expected) - 1) < 0.01
    assert abs(float(result_rate(rate)) / float(result) - 1) < 0.01


@pytest.mark.parametrize("rate", [Fraction(24_000, 1_001), 24, 25, Fraction(30_000, 1_001), 30, 48, 50, 60])
def test_usual_rates_are_kept(rate):
    assert result_rate(Fraction(rate)) == rate


def dubbed(tmp_path: Path, video: Path, seconds: float) -> tuple[list[int], object]:
    """Pictures of a dubbing with a fake model, and its report."""
    _, marks = face_clip(len(frame_times(video)))
    np.savez(tmp_path / "track.npz", landmarks=marks)
    sound = write_wav(tmp_path / "sound.wav", tone(seconds))
    out = tmp_path / "out.mp4"
    report = dub(FakeModel(), video, sound, out, landmarks=tmp_path / "track.npz", progress=False)
    return [frame_index(picture) for _, picture in iter_frames(out)], report


def test_a_slow_video_gets_a_mouth_that_moves(tmp_path):
    frames, _ = face_clip(3)
    shown, report = dubbed(tmp_path, write_video(tmp_path / "slides.mp4", frames, 1), 3.0)
    assert report.fps == 25 and shown == [0] * 25 + [1] * 25 + [2] * 25
    assert any("so that the mouth can move" in warning for warning in report.warnings)


def test_a_fast_video_becomes_one_of_an_equal_part(tmp_path):
    frames, _ = face_clip(60)
    shown, report = dubbed(tmp_path, write_video(tmp_path / "fast.mp4", frames, 120), 0.5)
    assert report.fps == 60 and shown == list(range(0, 60, 2))
    assert any("has 120" in warning and "has 60" in warning for warning in report.warnings)


def test_a_long_last_picture_is_held_before_the_video_turns_back(tmp_path):
    frames, _ = face_clip(10)
    path = write_video(tmp_path / "v.mkv", frames, 25, times=np.arange(10) / 25)
    held = remux(path, tmp_path / "held.mp4", lambda p: lengthen(p, 9 / 25))
    info = probe(held)
    assert info.fps == 25 and abs(info.pictures_s - 1.36) < 0.05
    order = output_order(frame_times(held), info, 1.36, "error")
    assert order.tolist() == [*range(10), *[9] * 24]


def lengthen(packet: av.Packet, since: float) -> bool:
    packet.duration = round((1.0 if packet.pts * packet.time_base >= since - 1e-3 else 0.04) / packet.time_base)
    return True


def test_a_container_that_claims_a_thousand_is_not_believed(tmp_path):
    frames, _ = face_clip(37)
    times = np.cumsum([0, *[0.041, 0.041, 0.017] * 12])
    path = tmp_path / "v.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=1_000)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1_000)
        for frame, time in zip(frames, times, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = round(time * 1_000), Fraction(1, 1_000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    assert probe(path).fps == 30
    assert len(list(shown_frames(path))) == 30
