"""Sound is read where it lies: the same windows as from whole arrays, in little memory."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from lipformer_core.config import AudioSettings
from lipformer_core.data.audio import band_means, mel_windows
from lipformer_core.data.audio.speech import FEATURES
from lipformer_core.data.prepared.clips import ClipInfo, PreparedCorpus
from lipformer_core.data.prepared.shards import join, write_part
from lipformer_core.errors import DataError
from lipformer_core.files import write_json

ROWS, AROUND, CLIPS, FRAMES = 3001, 100, 12, 6
SETTINGS = AudioSettings(speech_encoder="moonshine")


def arrays(seed: int) -> dict[str, np.ndarray]:
    """Half a minute of sound with a second of surroundings before it and none after it, and hardly any picture."""
    rng = np.random.default_rng(seed)
    heard = {}
    for where, count in (("", ROWS), ("_before", AROUND), ("_after", 0)):
        heard[f"mel{where}"] = rng.uniform(-1, 1, (count, 80)).astype(np.float32)
        heard[f"speech{where}"] = rng.normal(0, 1, (count, FEATURES)).astype(np.float16)
    small = {"pose": np.zeros((FRAMES, 3), np.float32), "crop_offsets": np.zeros(FRAMES + 1, np.int64)}
    return heard | small


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    parts, metadata = folder / "parts", []
    parts.mkdir()
    (folder / "crops").write_bytes(b"")
    with (folder / "crops").open("rb") as crops:
        for number in range(CLIPS):
            name = f"clip{number}"
            metadata.append(
                dict(clip_id=name, person=name, split="train", n_frames=FRAMES, source=name, first_frame=0, still=False,
                     runs=[[0, FRAMES]], bytes=0)
            )  # fmt: skip
            write_part(parts / f"{name}.tar", [(metadata[-1], arrays(number), (0, 0))], crops)
    infos, shards = join([(m["clip_id"], m) for m in metadata], parts, folder, 2**30)
    clips = [vars(info) for info in infos]
    write_json(folder / "manifest.json", {"format": 2, "hash": "", "crop_size": 32, "shards": shards, "clips": clips})
    return PreparedCorpus(folder)


@pytest.mark.parametrize("normalised", [False, True])
def test_a_window_is_that_of_the_whole_sound(corpus, normalised):
    settings = replace(SETTINGS, mean_normalise=normalised)
    times = np.array([0, 740, 7, 3])  # the first and the last reach beyond the clip
    for number in (0, CLIPS - 1):
        clip, whole = corpus.open(f"clip{number}"), arrays(number)
        for name, array in whole.items():
            np.testing.assert_array_equal(clip.arrays[name], array)
        parts = [
            np.hstack([whole[f"{kind}{where}"] for kind in ("mel", "speech")]) for where in ("_before", "", "_after")
        ]
        rows = np.concatenate(parts, dtype=np.float32)
        expected = mel_windows(rows, times / 25 + AROUND / 100, settings.window)
        mel = mel_windows(rows[:, :80], times / 25 + AROUND / 100, 44)
        if normalised:
            expected = expected - band_means(parts[1].astype(np.float32))
        np.testing.assert_allclose(clip.heard(times, settings), expected, atol=1e-6)
        np.testing.assert_array_equal(clip.audio_windows(times, 44), mel)


def test_open_clips_hold_no_sound(corpus):
    fresh = PreparedCorpus(corpus.folder)
    tracemalloc.start()
    clips = [fresh.open(f"clip{number}") for number in range(CLIPS)]
    before = tracemalloc.get_traced_memory()[0]
    for clip in clips:
        assert clip.heard([3], SETTINGS).shape == (1, SETTINGS.window, 80 + FEATURES)
    held = (tracemalloc.get_traced_memory()[0] - before) / CLIPS
    tracemalloc.stop()
    assert held < 100_000, "of about 2.8 million bytes of sound a clip"


def test_a_shard_that_is_too_short_says_so(corpus, tmp_path):
    info = next(iter(corpus.clips("train")))
    (tmp_path / info.shard).write_bytes((corpus.folder / info.shard).read_bytes()[:1000])
    with pytest.raises(DataError, match="shorter"):
        type(corpus.open(info.clip_id))(ClipInfo(**vars(info)), tmp_path).audio_windows([0], 20)
