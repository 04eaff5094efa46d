"""What cannot be decoded is skipped and counted; where nothing can be, one typed error says so."""

from pathlib import Path

import av
import numpy as np
import pytest
from material import FakeModel, face_clip, frame_index, tone, write_video, write_wav

from lipformer_core.data.media import Damage, FrameReader, frame_times, iter_frames, probe, read_audio
from lipformer_core.data.media.source_streams import shown_frames
from lipformer_core.dubbing.dub import dub
from lipformer_core.errors import NoAudioStream, NoVideoStream, UnreadableMedia


def damage_packets(source: Path, target: Path, which: set[int], kind: str = "video") -> Path:
    """Overwrite some packets of the file with zeros, in place: everything else stays as it was."""
    content = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        packets = [p for p in container.demux(**{kind: 0}) if p.size]
    for k in which:
        content[packets[k].pos : packets[k].pos + packets[k].size] = bytes(packets[k].size)
    target.write_bytes(content)
    return target


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """25 pictures, each a key frame, and a second of sound."""
    frames, _ = face_clip(25)
    return write_video(tmp_path_factory.mktemp("clip") / "v.mp4", frames, sound=tone(1.0), gop=1)


@pytest.mark.parametrize("which", [{7}, {7, 13}, {24}, {0}, {23, 24}, set(range(5))])
def test_damaged_pictures_are_left_out_and_counted(tmp_path, clip, which):
    path = damage_packets(clip, tmp_path / "damaged.mp4", which)
    damage = Damage()
    found = [(time, frame_index(picture)) for time, picture in iter_frames(path, damage)]
    assert damage.pictures == len(which) and [k for _, k in found] == sorted({*range(25)} - which)
    times = frame_times(path)
    first = found[0][1]
    np.testing.assert_allclose(times, [(k - first) / 25 for _, k in found], atol=1e-3)  # each in its place
    with FrameReader(path, times) as reader:
        order = [*range(len(times) - 1, -1, -1), 0, len(times) - 1]
        assert [frame_index(reader[k]) for k in order] == [found[k][1] for k in order]
    assert len(list(shown_frames(path))) == round(times[-1] * 25) + 1


def test_a_dubbing_holds_the_picture_and_reports_the_count(tmp_path, clip):
    path = damage_packets(clip, tmp_path / "damaged.mp4", {24})
    n = len(frame_times(path))
    np.savez(tmp_path / "track.npz", landmarks=face_clip(n)[1])
    sound = write_wav(tmp_path / "s.wav", tone(1.0))
    out = tmp_path / "out.mp4"
    report = dub(FakeModel(), path, sound, out, landmarks=tmp_path / "track.npz", progress=False)
    shown = [frame_index(picture) for _, picture in iter_frames(out)]
    assert len(shown) == 25 and shown[-1] == shown[-2] == 23 and shown[:24] == list(range(24))
    assert [w for w in report.warnings if "pictures that could not be decoded: 1;" in w]
    assert not any("varies" in warning for warning in report.warnings)


def test_nothing_to_decode_is_a_typed_error_but_the_sound_beside_it_is_used(tmp_path, clip):
    path = damage_packets(clip, tmp_path / "damaged.mp4", set(range(25)))
    for use in (frame_times, lambda p: list(iter_frames(p)), lambda p: list(shown_frames(p))):
        with pytest.raises(UnreadableMedia, match="no picture could be decoded"):
            use(path)
    assert not probe(path).has_video and abs(len(read_audio(path)) / 16_000 - 1.0) < 0.1
    with pytest.raises(NoVideoStream, match="can be decoded"):
        dub(FakeModel(), path, path, tmp_path / "out.mp4", progress=False)
    silent = write_video(tmp_path / "silent.mp4", face_clip(5)[0])
    with pytest.raises(UnreadableMedia, match="no picture could be decoded"):
        probe(damage_packets(silent, tmp_path / "all.mp4", set(range(5))))


def test_damaged_sound_is_silence_of_the_same_length(tmp_path, clip):
    whole = read_audio(clip)
    damage = Damage()
    path = damage_packets(clip, tmp_path / "damaged.mp4", {4, 5, 9}, "audio")
    got = read_audio(path, damage=damage)
    assert len(got) == len(whole) and damage.sounds >= 1 and damage.silence_s > 0.05
    later = slice(12 * 1_024 + 2_048, None)
    np.testing.assert_allclose(got[later], whole[later], atol=0.02)
    with pytest.raises(UnreadableMedia, match="not one of .* blocks of sound"):
        read_audio(damage_packets(clip, tmp_path / "all.mp4", set(range(17)), "audio"))


def write_mp3(path: Path, seconds: float, rate: int, layout: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libmp3lame", rate=rate, layout=layout)
        samples = np.stack([tone(seconds, rate)] * (1 if layout == "mono" else 2))
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        for block in av.AudioResampler("fltp", layout, rate, frame_size=stream.codec_context.frame_size).resample(
            frame
        ):
            container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("second", [(44_100, "mono"), (22_050, "stereo")])
def test_joined_sounds_are_heard_to_their_end(tmp_path, second):
    """As users of text-to-speech join them, tags and all, also where rate and channels change."""
    one = write_mp3(tmp_path / "one.mp3", 1.0, 44_100, "mono")
    two = write_mp3(tmp_path / "two.mp3", 1.0, *second)
    joined = tmp_path / "joined.mp3"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    for path in (one, two, joined):
        sound = read_audio(path)
        seconds = 2.0 if path == joined else 1.0
        assert seconds - 0.01 < len(sound) / 16_000 < seconds + 0.2
        assert np.abs(sound[-8_000:]).max() > 0.2


def test_pictures_that_nobody_can_decode_are_typed_errors(tmp_path):
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in face_clip(3)[0]]
    pictures[0].save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:1_000])
    pictures[0].save(tmp_path / "moving.webp", save_all=True, append_images=pictures[1:])
    for name in ("cut.png", "moving.webp"):
        for use in (probe, frame_times, lambda p: list(shown_frames(p))):
            with pytest.raises(UnreadableMedia, match=f"{name}: no picture could be decoded"):
                use(tmp_path / name)


def test_a_jpeg_that_is_cut_off_is_told(tmp_path):
    from PIL import Image

    Image.fromarray(face_clip(1)[0][0]).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) * 3 // 4])
    (tmp_path / "tail.jpg").write_bytes(content + b"written behind it")
    for name, partial in [("a.jpg", 0), ("cut.jpg", 1), ("tail.jpg", 0)]:
        damage = Damage()
        ((time, picture),) = iter_frames(tmp_path / name, damage)
        assert time == 0 and picture.shape == (96, 128, 3) and damage.partial == partial
    assert "only in part: 1" in Damage(partial=1).warnings(tmp_path / "cut.jpg")[0]


@pytest.mark.parametrize("tail", [b"TRAILER WORD of some tool", b"\x7f\xff\xff\xffuuid" + bytes(20), b"abcdefgh" * 9])
def test_bytes_behind_the_last_box_do_no_harm(tmp_path, clip, tail):
    path = tmp_path / "v.mp4"
    path.write_bytes(clip.read_bytes() + tail)
    assert probe(path).has_video and len(frame_times(path)) == 25 and len(read_audio(path)) > 15_000


def test_a_stream_of_an_unknown_kind_is_passed_over(tmp_path):
    path = tmp_path / "v.mkv"
    write_video(path, face_clip(5)[0], sound=tone(0.2))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"A_AAC", b"A_XYZ"))
    assert not probe(path).has_audio and len(frame_times(path)) == 5
    with pytest.raises(NoAudioStream):
        read_audio(path)
    path.write_bytes(content.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XYZ"))
    assert not probe(path).has_video and len(read_audio(path)) > 3_000
