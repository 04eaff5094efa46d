"""Reading and writing of media: clocks, rotation, colours, errors, bounded memory."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from material import draw_face, face_clip, frame_index, tone, write_video, write_wav

from lipformer_core.data.media import FrameReader, VideoWriter, frame_times, iter_frames, probe, read_audio
from lipformer_core.errors import MediaError, NoAudioStream, NoVideoStream, UnreadableMedia

NTSC = Fraction(24_000, 1_001)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return face_clip(50)[0]


@pytest.mark.parametrize("fps", [NTSC, 24, 25, Fraction(30_000, 1_001), 30, 50, 60])
def test_rates_come_back_exactly(tmp_path, frames, fps):
    info = probe(write_video(tmp_path / "a.mp4", frames[:25], fps))
    assert info.fps == fps and (info.width, info.height) == (128, 96)
    assert info.has_video and not info.has_audio and not info.is_image
    np.testing.assert_allclose(frame_times(info.path), np.arange(25) / float(fps), atol=1e-4)


def test_frames_come_in_order_and_nearly_unchanged(tmp_path, frames):
    path = write_video(tmp_path / "a.mp4", frames)
    seen = [picture for _, picture in iter_frames(path)]
    assert [frame_index(p) for p in seen] == list(range(50))
    assert np.abs(seen[7].astype(int) - frames[7]).mean() < 4


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotation_is_applied(tmp_path, frames, rotation):
    info = probe(write_video(tmp_path / "a.mp4", frames[:3], rotation=rotation))
    picture = next(iter_frames(info.path))[1]
    assert picture.shape[:2] == (info.height, info.width) == ((96, 128) if rotation == 180 else (128, 96))
    assert np.abs(picture.astype(int) - np.rot90(frames[0], rotation // 90)).mean() < 4


def test_a_picture_is_a_video_of_one_frame(tmp_path, frames):
    from PIL import Image

    for name in ("a.png", "a.jpg"):
        Image.fromarray(frames[0]).save(tmp_path / name, quality=95)
        info = probe(tmp_path / name)
        assert info.is_image and info.fps == 25
        ((time, picture),) = iter_frames(tmp_path / name)
        assert time == 0 and np.abs(picture.astype(int) - frames[0]).mean() < 3


def test_photo_orientation_is_applied(tmp_path, frames):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    Image.fromarray(frames[0]).save(tmp_path / "a.jpg", quality=95, exif=exif)
    picture = next(iter_frames(tmp_path / "a.jpg"))[1]
    assert picture.shape == (128, 96, 3) and np.abs(picture.astype(int) - np.rot90(frames[0], -1)).mean() < 3


def test_every_broken_file_has_a_typed_error(tmp_path, frames):
    sound = tone(2.0)
    whole = write_video(tmp_path / "whole.mp4", frames, sound=sound).read_bytes()
    fast = tmp_path / "fast.mp4"
    with VideoWriter(fast, 128, 96, 25, (sound, 16_000)) as writer:
        for frame in frames:
            writer.write(frame)
    broken = {
        "empty.mp4": b"",
        "no_index.mp4": whole[: len(whole) // 2],
        "half.mp4": fast.read_bytes()[: fast.stat().st_size * 2 // 3],
        "text.mp4": b"this is no video\n" * 50,
        "text.wav": b"nor is this any sound\n" * 50,
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        for use in (probe, read_audio, lambda path: list(iter_frames(path))):
            with pytest.raises(UnreadableMedia, match=name):
                use(tmp_path / name)
    with pytest.raises(UnreadableMedia, match="no such file"):
        probe(tmp_path / "missing.mp4")
    with pytest.raises(NoVideoStream):
        list(iter_frames(write_wav(tmp_path / "a.wav", sound)))
    with pytest.raises(NoAudioStream):
        read_audio(write_video(tmp_path / "silent.mp4", frames[:3]))
    assert not probe(tmp_path / "a.wav").has_video


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_and_channels_become_16k_mono(tmp_path, rate, channels):
    samples = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    path = write_wav(tmp_path / "a.wav", np.stack([samples] * channels, 1), rate)
    got = read_audio(path)
    assert got.dtype == np.float32 and abs(len(got) - 16_000) <= 2
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert np.abs(got[200:15_800] - expected[200:15_800]).max() < 0.01


def test_sound_is_on_the_clock_of_the_pictures(tmp_path, frames):
    click = np.zeros(32_000, np.float32)
    click[16_000:16_400] = 0.8
    path = write_video(tmp_path / "a.mp4", frames, sound=click)
    onset = np.flatnonzero(np.abs(read_audio(path)) > 0.3)[0]
    assert abs(onset - 16_000) < 80  # 5 ms: AAC's priming is taken off


def test_not_a_number_in_a_sound_is_silence(tmp_path):
    samples = tone(0.5, 44_100)
    samples[5_000:5_100] = np.nan
    assert np.isfinite(read_audio(write_wav(tmp_path / "a.wav", samples, 44_100))).all()


@pytest.mark.parametrize("gop", [5, 250])
def test_reader_gives_any_frame_in_any_order_with_bounded_memory(tmp_path, gop):
    frames = np.stack([draw_face(48, 64, None, k) for k in range(100)])
    path = write_video(tmp_path / "a.mp4", frames, gop=gop)
    order = [*range(100), *range(99, -1, -1), 50, 3, 97, 0, 99, 42]
    with FrameReader(path, frame_times(path)) as reader:
        for i in order:
            assert frame_index(reader[i]) == i and len(reader._cache) <= 32
        with pytest.raises(IndexError):
            reader[100]


def test_reader_survives_files_without_timestamps(tmp_path):
    frames = np.stack([draw_face(48, 64, None, k) for k in range(60)])
    path = tmp_path / "a.h264"
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0", "crf": "8"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    order = [10, 59, 58, 2, 30]
    with FrameReader(path, frame_times(path)) as reader:
        assert [frame_index(reader[i]) for i in order] == order


@pytest.mark.parametrize("size", [(96, 128), (95, 128), (96, 127), (95, 127)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_written_video_keeps_size_colour_and_length(tmp_path, size, suffix):
    frames, _ = face_clip(12, *size)
    path = tmp_path / f"a{suffix}"
    with VideoWriter(path, size[1], size[0], 30, metadata={"comment": "hello"}) as writer:
        for frame in frames:
            writer.write(frame)
    info = probe(path)
    assert (info.height, info.width) == size and info.fps == 30 and len(frame_times(path)) == 12
    seen = [picture for _, picture in iter_frames(path)]
    error = np.abs(seen[5].astype(int) - frames[5])
    assert error.mean() < 3
    assert np.abs((seen[5].astype(int) - frames[5]).mean((0, 1))).max() < 1.0  # no cast of colour
    with av.open(str(path)) as container:
        assert {k.lower(): v for k, v in container.metadata.items()}["comment"] == "hello"


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 2), (44_100, 1), (16_000, 1), (11_025, 2)])
def test_written_sound_keeps_rate_channels_and_place(tmp_path, frames, rate, channels):
    click = np.zeros((2 * rate, channels), np.float32)
    click[rate : rate + rate // 40] = 0.8
    wav = write_wav(tmp_path / "a.wav", click, rate)
    with VideoWriter(tmp_path / "a.mp4", 128, 96, 25, wav) as writer:
        for frame in frames:
            writer.write(frame)
    info = probe(tmp_path / "a.mp4")
    assert (info.sample_rate, info.channels) == (rate, channels)
    sound = read_audio(tmp_path / "a.mp4")
    assert abs(len(sound) - 32_000) <= 0.04 * 16_000
    assert abs(np.flatnonzero(np.abs(sound) > 0.3)[0] - 16_000) < 160


def test_nothing_is_left_after_an_error_and_nothing_is_lost(tmp_path, frames):
    target = tmp_path / "a.mp4"
    target.write_bytes(b"precious")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), VideoWriter(target, 128, 96, 25) as writer:
            writer.write(frames[0])
            assert target.read_bytes() == b"precious"
            raise error
        assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"] and target.read_bytes() == b"precious"
    with pytest.raises(MediaError, match="not a single"), VideoWriter(target, 128, 96, 25):
        pass
    assert target.read_bytes() == b"precious"


def test_impossible_targets_are_refused(tmp_path):
    with pytest.raises(MediaError, match="avi"):
        VideoWriter(tmp_path / "a.avi", 128, 96, 25)
    with pytest.raises(MediaError, match="no such folder"):
        VideoWriter(tmp_path / "none" / "a.mp4", 128, 96, 25)
    with (
        pytest.raises(NoAudioStream),
        VideoWriter(tmp_path / "b.mp4", 128, 96, 25, write_video(tmp_path / "a.mp4", face_clip(3)[0])),
    ):
        pass
    assert {p.name for p in Path(tmp_path).iterdir()} == {"a.mp4"}


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
@pytest.mark.parametrize(("size", "crf"), [((96, 128), 17), ((95, 127), 23), ((96, 128), 0)])
def test_parts_are_joined_as_they_are_coded(tmp_path, name, size, crf):
    fps, frames = Fraction(30_000, 1_001), face_clip(40, *size)[0]
    given, coded = dict(crf=crf, pixel_aspect=Fraction(4, 3)), []
    with VideoWriter(tmp_path / name, *size[::-1], fps, (tone(2.0), 16_000), **given) as joined:
        for k, part in enumerate((frames[:16], frames[16:39], frames[39:])):
            path = tmp_path / f"{k}.mp4"
            with VideoWriter(path, *size[::-1], fps, **given) as writer:
                for frame in part:
                    writer.write(frame)
            coded += [picture for _, picture in iter_frames(path)]
            joined.append(path)
    assert (np.stack([picture for _, picture in iter_frames(tmp_path / name)]) == coded).all()
    np.testing.assert_allclose(frame_times(tmp_path / name), np.arange(40) / float(fps), atol=1e-3)
    info = probe(tmp_path / name)
    assert (info.fps, info.pixel_aspect, info.width, info.height) == (fps, Fraction(4, 3), *size[::-1])
    assert abs(len(read_audio(tmp_path / name)) / 16_000 - 40 / fps) < 0.04


def test_pictures_too_large_for_h264_are_refused_before_the_work(tmp_path):
    with pytest.raises(MediaError, match="no side above 16384"):
        VideoWriter(tmp_path / "wide.mp4", 17_000, 64, 25)
