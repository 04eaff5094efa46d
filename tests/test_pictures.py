"""Pictures as a player shows them: orientation, stills, dynamic range, pixel aspect, transparency, sizes, memory."""

from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from material import FakeModel, draw_face, face_clip, tone, write_video, write_wav
from PIL import Image

from lipformer_core.data.faces import tracking
from lipformer_core.data.faces.alignment import crop_transforms
from lipformer_core.data.media import FrameReader, frame_times, iter_frames, probe, video
from lipformer_core.data.media.demux import video_stream
from lipformer_core.data.media.pictures import Pictures
from lipformer_core.data.media.source_streams import shown_frames
from lipformer_core.data.media.tone import HLG, PQ, to_bt709
from lipformer_core.dubbing.compositing import paste
from lipformer_core.dubbing.dub import dub
from lipformer_core.dubbing.frames import generating
from lipformer_core.errors import NoFaceFound, UnreadableMedia

# EXIF's orientation: what is done to the stored picture so that it stands upright.
UPRIGHT = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
    8: lambda p: np.rot90(p),
}


@pytest.fixture(scope="module")
def frames():
    return face_clip(25)[0]


def first_picture(path, **options):
    return next(iter_frames(path, **options))[1]


def difference(a, b):
    assert a.shape == b.shape
    return np.abs(a.astype(int) - b).mean()


def encode(path, frames, pixels="yuv420p", layout="rgb24", **context):
    """A video whose codec context has the given attributes (`color_trc` and the like)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "8", "preset": "ultrafast"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=layout)
            if "colorspace" in context:
                frame = frame.reformat(format=pixels, dst_colorspace=context["colorspace"], dst_color_range=1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def dubbed(folder, video, marks, seconds=0.2, model=None):
    np.savez(folder / "marks.npz", landmarks=marks)
    audio = write_wav(folder / "audio.wav", tone(seconds))
    out = folder / "out.mp4"
    return dub(model or FakeModel(), video, audio, out, landmarks=folder / "marks.npz", progress=False), out


@pytest.mark.parametrize("number", UPRIGHT)
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_all_eight_orientations_of_a_photo(tmp_path, frames, number, ending):
    exif = Image.Exif()
    exif[0x0112] = number
    Image.fromarray(frames[0]).save(tmp_path / f"a.{ending}", quality=95, exif=exif)
    picture, info = first_picture(tmp_path / f"a.{ending}"), probe(tmp_path / f"a.{ending}")
    assert difference(picture, UPRIGHT[number](frames[0])) < 4
    assert picture.shape[:2] == (info.height, info.width)


@pytest.mark.parametrize("mirror", [{}, {"hflip": True}, {"vflip": True}])
@pytest.mark.parametrize("turn", [0, 90, 180, 270, 87])
def test_all_display_matrices_of_a_video(tmp_path, frames, turn, mirror):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "8"})
        stream.height, stream.width = frames.shape[1:3]
        stream.set_display_rotation(turn, **mirror)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frames[0], format="rgb24")))
        container.mux(stream.encode(None))
    expected = np.rot90(frames[0], round(turn / 90))  # and then
    expected = expected[:, ::-1] if "hflip" in mirror else expected[::-1] if "vflip" in mirror else expected
    info = probe(path)
    assert difference(first_picture(path), expected) < 4
    assert (info.height, info.width) == expected.shape[:2]
    assert any("nearest quarter" in note for note in info.notes) == (turn == 87)


def test_what_holds_one_picture_is_a_still(tmp_path, frames):
    names = {"one.mp4": True, "two.mp4": False, "one.gif": True, "two.gif": False}
    pictures = [Image.fromarray(p) for p in frames[:2]]
    for name, still in names.items():
        if name.endswith("mp4"):
            write_video(tmp_path / name, frames[: 1 if still else 2])
        else:
            pictures[0].save(tmp_path / name, save_all=True, append_images=[] if still else pictures[1:], duration=40)
        assert probe(tmp_path / name).is_image == still, name
    info = probe(write_video(tmp_path / "cover.mp4", frames[:1], sound=tone(1.0)))
    assert info.is_image and info.fps == 25 and info.duration_s > 0.9


def test_a_still_avif_is_a_portrait(tmp_path, frames):
    from PIL import features

    if not features.check("avif"):
        pytest.skip("Pillow was built without AVIF")
    exif = Image.Exif()
    exif[0x0112] = 5
    Image.fromarray(frames[0]).save(tmp_path / "a.avif", quality=95, exif=exif)
    info = probe(tmp_path / "a.avif")
    assert info.is_image and info.fps == 25 and (info.width, info.height) == (96, 128)
    assert difference(first_picture(tmp_path / "a.avif"), UPRIGHT[5](frames[0])) < 4


def test_a_picture_in_tiles_is_refused_with_a_hint():
    tiles = [SimpleNamespace(disposition=Disposition.dependent, codec_context=object())] * 4
    container = SimpleNamespace(name="file:a.heic", streams=SimpleNamespace(video=tiles))
    with pytest.raises(UnreadableMedia, match=r"^a\.heic.*4 coded parts.*JPEG or PNG"):
        video_stream(container)
    whole = SimpleNamespace(disposition=Disposition.default, codec_context=object())
    container.streams.video = [tiles[0], whole]
    assert video_stream(container) is whole


def grey(signal):
    return np.full((2, 2, 3), round(65_535 * signal), np.uint16)


def test_tone_mapping_keeps_midtones_and_rolls_off_highlights():
    # HLG at 0.5 is 1/12 of the scene's peak, 50.7 cd/m² on a display of 1000 and gamma 1.2: 0.25 of reference white.
    assert np.abs(to_bt709(grey(0.5), HLG, 9).astype(int) - 255 * 0.2496 ** (1 / 2.4)).max() <= 1
    # PQ at 0.4247 is 50.7 cd/m².
    assert np.abs(to_bt709(grey(0.4413), PQ, 9).astype(int) - 255 * 0.2496 ** (1 / 2.4)).max() <= 2
    for transfer, white in ((HLG, 0.75), (PQ, 0.5807)):  # reference white, 203 cd/m²
        ramp = [to_bt709(grey(x), transfer, 9)[0, 0] for x in np.linspace(0, 1, 60)]
        assert (np.ptp(ramp, axis=1) <= 1).all() and (np.diff(np.mean(ramp, axis=1)) >= 0).all()
        assert ramp[0].max() == 0 and ramp[-1].min() == 255
        assert 215 < to_bt709(grey(white), transfer, 9).mean() < 240
    skin = np.full((2, 2, 3), (0.62, 0.55, 0.50)) * 65_535
    shown = to_bt709(skin.astype(np.uint16), HLG, 9)[0, 0].astype(int)
    assert shown[0] > shown[1] > shown[2] and shown[0] - shown[2] > 0.12 * 255  # more saturated in the smaller gamut


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_is_tone_mapped_and_said(tmp_path, frames, transfer):
    signal = (frames[:3].astype(np.uint16) * 257 * 0.7).astype(np.uint16)
    tags = dict(color_trc=transfer, color_primaries=9, colorspace=9, color_range=1)
    path = encode(tmp_path / "a.mp4", signal, "yuv420p10le", "rgb48le", **tags)
    assert any("high dynamic range" in note for note in probe(path).notes)
    assert difference(first_picture(path), to_bt709(signal[0], transfer, 9)) < 5


def test_ten_bits_and_tagged_matrices_give_the_same_picture(tmp_path):
    frame = np.zeros((720, 1280, 3), np.uint8) + np.array([200, 60, 40], np.uint8)
    for space, pixels in ((1, "yuv420p10le"), (6, "yuv420p"), (5, "yuv420p10le"), (1, "yuv444p")):
        matrix = {"colorspace": 5 if space == 6 else space}
        path = encode(tmp_path / "a.mp4", [frame], pixels, **matrix, color_range=1)
        assert difference(first_picture(path), frame) < 3, (space, pixels)
        assert not probe(path).notes


def test_a_matrix_that_cannot_be_converted_is_refused(tmp_path, frames):
    path = encode(tmp_path / "a.mp4", frames[:2], "yuv420p10le")
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    frame.colorspace = 14  # ICtCp
    with pytest.raises(UnreadableMedia, match="matrix 14"):
        Pictures()(frame)


def test_oblong_pixels_are_cropped_square_and_written_as_they_are(tmp_path):
    frames, marks = face_clip(5, 96, 128)
    narrow = [np.array(Image.fromarray(p).resize((96, 96), Image.Resampling.BOX)) for p in frames]
    squeezed = (marks + 0.5) * [0.75, 1] - 0.5
    path = encode(tmp_path / "a.mp4", narrow, sample_aspect_ratio=Fraction(4, 3))
    info = probe(path)
    assert (info.width, info.height, info.pixel_aspect) == (96, 96, Fraction(4, 3))
    assert difference(first_picture(path, square=True), frames[0]) < 4
    assert next(shown_frames(path)).shape == (96, 128, 3)
    seen = []
    model = FakeModel()
    model.look = lambda target, ref: seen.append(target[:, :, :32]) or FakeModel.look(model, target, ref)
    _, out = dubbed(tmp_path, path, squeezed, model=model)
    info = probe(out)
    assert (info.width, info.height, info.pixel_aspect) == (96, 96, Fraction(4, 3))
    dubbed(tmp_path, write_video(tmp_path / "b.mp4", frames), marks, model=model)
    assert (seen[0] - seen[1]).abs().mean() < 0.06


def test_a_turned_video_with_oblong_pixels_has_its_aspect_turned(tmp_path, frames):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.sample_aspect_ratio = stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        stream.set_display_rotation(90)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frames[0], format="rgb24")))
        container.mux(stream.encode(None))
    info = probe(path)
    assert (info.width, info.height, info.pixel_aspect) == (96, 128, Fraction(3, 4))
    assert first_picture(path, square=True).shape == (171, 96, 3)


def test_density_for_print_is_no_pixel_aspect(tmp_path, frames):
    Image.fromarray(frames[0]).save(tmp_path / "a.jpg", dpi=(300, 150))
    Image.fromarray(frames[0]).save(tmp_path / "a.png", dpi=(300, 150))
    for name in ("a.jpg", "a.png"):
        assert probe(tmp_path / name).pixel_aspect == 1


@pytest.mark.parametrize("second", [(48, 64), (192, 256), (128, 96)])
def test_a_size_that_changes_midway_becomes_the_first_one(tmp_path, frames, second):
    other = [np.array(Image.fromarray(p).resize(second[::-1])) for p in frames[10:20]]
    later = np.arange(10, 20) / 25
    parts = [write_video(tmp_path / "1.ts", frames[:10]), write_video(tmp_path / "2.ts", np.stack(other), times=later)]
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(p.read_bytes() for p in parts))
    pictures = [p for _, p in iter_frames(path)]
    assert {p.shape for p in pictures} == {(96, 128, 3)} and len(pictures) == 20
    if second == (128, 96):
        assert pictures[-1][:, :20].max() < 20 and pictures[-1][:, 30:90].mean() > 60  # upright between black bars
    else:
        assert difference(pictures[-1], frames[19]) < 6
    with FrameReader(path, frame_times(path), (128, 96)) as reader:
        assert reader[19].shape == (96, 128, 3) and reader.resized
    marks = face_clip(20)[1]
    report, out = dubbed(tmp_path, path, marks, seconds=0.7)
    assert (probe(out).width, probe(out).height) == (128, 96)
    assert any("size changes" in warning for warning in report.warnings)


def test_transparency_is_put_on_white_and_said(tmp_path, frames):
    alpha = np.full((96, 128), 255, np.uint8)
    opaque = Image.fromarray(np.dstack([frames[0], alpha]))
    opaque.save(tmp_path / "opaque.png")
    assert not probe(tmp_path / "opaque.png").notes
    alpha[:, :30], alpha[:, 30:60] = 0, 128
    Image.fromarray(np.dstack([frames[0], alpha])).save(tmp_path / "a.png")
    Image.fromarray(np.dstack([frames[0], alpha])).save(tmp_path / "a.webp", lossless=True, exact=True)
    expected = frames[0] * (alpha[..., None] / 255) + 255 * (1 - alpha[..., None] / 255)
    for name in ("a.png", "a.webp"):
        assert difference(first_picture(tmp_path / name), expected) < 2, name
        assert any("white" in note for note in probe(tmp_path / name).notes)
    palette = Image.fromarray(np.uint8([[0, 1], [1, 0]]), "P")
    palette.putpalette([255, 0, 255, 10, 20, 30])
    palette.save(tmp_path / "p.png", transparency=0)
    assert first_picture(tmp_path / "p.png").tolist() == [[[255] * 3, [10, 20, 30]], [[10, 20, 30], [255] * 3]]


def test_a_black_and_white_picture_stays_so(tmp_path):
    frames, marks = face_clip(1)
    black_and_white = np.repeat(frames[0].mean(2, keepdims=True).astype(np.uint8), 3, 2)
    transform = crop_transforms(marks, np.ones(1, bool), 64)[0]
    crop = np.full((64, 64, 3), (230, 90, 40), np.uint8)
    result = paste(black_and_white, crop, transform)
    assert np.ptp(result.astype(int), axis=2).max() <= 1 and difference(result, black_and_white) > 1
    assert np.ptp(paste(frames[0], crop, transform).astype(int), axis=2).max() > 60
    Image.fromarray(black_and_white[..., 0]).save(tmp_path / "a.png")
    _, out = dubbed(tmp_path, tmp_path / "a.png", marks)
    assert all(np.ptp(p.astype(int), axis=2).max() <= 3 for _, p in iter_frames(out))


def test_an_output_that_few_players_show_is_said(tmp_path):
    frames, marks = face_clip(3, 95, 128)
    path = encode(tmp_path / "a.mp4", frames, pixels="yuv444p")
    report, out = dubbed(tmp_path, path, marks)
    assert any("4:4:4" in warning and "95" in warning for warning in report.warnings)
    frames, marks = face_clip(3)
    path = encode(tmp_path / "a.mp4", frames, pixels="yuv444p")
    report, out = dubbed(tmp_path, path, marks)
    with av.open(str(out)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    assert not any("4:4:4" in warning for warning in report.warnings)


def test_large_pictures_are_held_by_bytes(tmp_path, monkeypatch):
    assert video.frames_held(256, 256) == 32 and video.frames_held(4_320, 7_680) == 2
    monkeypatch.setattr(video, "CACHED_BYTES", 6 * 96 * 128 * 3)  # half of which are a piece
    frames, marks = face_clip(20)
    path = write_video(tmp_path / "a.mp4", frames)
    model = FakeModel()
    report, out = dubbed(tmp_path, path, marks, seconds=0.8, model=model)
    assert model.largest_batch == 3 and report.frames == 20 and len(frame_times(out)) == 20
    model = FakeModel()
    Image.fromarray(frames[0]).save(tmp_path / "a.png")
    dubbed(tmp_path, tmp_path / "a.png", marks[:1], seconds=0.8, model=model)
    assert model.largest_batch == 16 // generating(torch.device("cpu"))  # of one picture, which is there once


def test_trackers_see_large_pictures_smaller():
    seen = []
    corner = np.zeros((68, 2), np.float32)
    corner[:, 0] = np.linspace(100, 200, 68)
    corner[:, 1] = np.linspace(50, 90, 68)

    class Tracker:
        def detect(self, rgb):
            seen.append(rgb.shape)
            return [(corner, np.zeros(3, np.float32))]

    frames = [draw_face(1_440, 2_560, None)] * 2
    track = tracking.track_faces(frames, Tracker())
    assert seen == [(1_080, 1_920, 3)] * 2
    np.testing.assert_allclose(track.landmarks[0], (corner + 0.5) * 2_560 / 1_920 - 0.5, atol=0.01)
    with pytest.raises(NoFaceFound):
        tracking.track_faces(frames[:1], type("Blind", (), {"detect": lambda self, rgb: []})())
