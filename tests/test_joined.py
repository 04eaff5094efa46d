"""Several prepared corpora as one: equal shares, names apart; and the looks of training frames."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch

from lipformer_core.config import Stage1
from lipformer_core.data.prepared.clips import MANIFEST, PreparedCorpus, open_corpus
from lipformer_core.errors import DataError
from lipformer_core.training.codebook import train_codebook
from lipformer_core.training.looks import clip_looks, draw_looks
from lipformer_core.training.sampling import FrameSampler


@pytest.fixture(scope="module")
def other_corpus(tiny_corpus, tmp_path_factory):
    """The tiny corpus again, under other names and with two training persons only."""
    folder = tmp_path_factory.mktemp("other") / "corpus"
    shutil.copytree(tiny_corpus, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    train = [clip for clip in manifest["clips"] if clip["split"] == "train"]
    manifest["clips"] = [
        clip | {"clip_id": f"other_{clip['clip_id']}"} for clip in manifest["clips"] if clip not in train[2:]
    ]
    manifest["hash"] = "0" * 64
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_joined_corpora_get_equal_shares_and_their_persons_too(tiny_corpus, other_corpus, tiny_config):
    joined = open_corpus([tiny_corpus, other_corpus])
    assert open_corpus(tiny_corpus).hash == open_corpus([tiny_corpus]).hash == PreparedCorpus(tiny_corpus).hash
    sampler = FrameSampler(joined, "train")
    drawn = Counter(info.clip_id for info, _ in sampler.draw((1, 2), 240))
    assert sum(n for name, n in drawn.items() if name.startswith("other_")) == 120
    assert set(drawn.values()) == {60, 20}  # two persons there, six here
    assert joined.open("other_synthetic00000").info.clip_id == "other_synthetic00000"
    assert joined.hash not in (PreparedCorpus(tiny_corpus).hash, "0" * 64)
    pixels = sampler.pixels(sampler.draw((1, 2), 4))
    assert pixels.shape == (4, 32, 32, 3)


def test_samples_of_a_key_do_not_depend_on_how_many_are_drawn(tiny_corpus, other_corpus, tiny_config):
    sampler = FrameSampler(open_corpus([tiny_corpus, other_corpus]), "train")
    whole = sampler.draw((3, 7), 24)
    assert sampler.draw((3, 7), 8, first=12) == whole[12:20]
    assert sampler.draw((3, 8), 24) != whole


def test_what_cannot_be_joined_is_named(tiny_corpus, tmp_path):
    with pytest.raises(DataError, match="clip synthetic00000 is in"):
        open_corpus([tiny_corpus, tiny_corpus])
    shutil.copytree(tiny_corpus, tmp_path / "large")
    manifest = json.loads((tmp_path / "large" / MANIFEST).read_text()) | {"crop_size": 64}
    (tmp_path / "large" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"\[32, 64\] pixels"):
        open_corpus([tiny_corpus, tmp_path / "large"])


def test_a_codebook_trains_on_joined_corpora(tiny_corpus, other_corpus, tiny_config, tmp_path):
    autoencoder = train_codebook(tiny_config, [tiny_corpus, other_corpus], tmp_path, progress=False)
    assert all(torch.isfinite(p).all() for p in autoencoder.parameters())


def test_look_0_is_the_frame_as_filmed_and_the_others_are_not():
    settings, image = Stage1(augment=1.0, mirror=True), torch.rand(3, 3, 96, 96) * 2 - 1
    looks = clip_looks(["a", "a", "b"], [0, 1, 0], settings)
    seen = looks.images(image)
    torch.testing.assert_close(seen[[0, 2]], image[[0, 2]], atol=3e-3, rtol=0)
    assert (seen[1] - image[1]).abs().mean() > 0.1
    assert torch.equal(clip_looks(["a"], [1], settings).gain, looks.gain[1:2])  # the same in every run


@pytest.mark.parametrize("mirror", [False, True])
def test_points_go_where_the_picture_goes(mirror, monkeypatch):
    monkeypatch.setattr("lipformer_core.training.looks.COLOUR", 0.0)
    monkeypatch.setattr("lipformer_core.training.looks.GAMMA", 0.0)
    settings = Stage1(augment=1.0, mirror=mirror)
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    points = torch.tensor([[40.0, 52.0], [60.0, 45.0], [47.5, 70.0]])
    spots = torch.stack([torch.exp(-((x - px) ** 2 + (y - py) ** 2) / 18) for px, py in points])
    looks = draw_looks([np.random.default_rng(n) for n in range(6)], settings)
    assert bool(looks.mirrored.any()) == mirror
    seen = looks.images((spots * 2 - 1).expand(6, 3, 96, 96).contiguous()) / 2 + 0.5
    mass = seen.sum((2, 3))
    centres = torch.stack([(seen * x).sum((2, 3)) / mass, (seen * y).sum((2, 3)) / mass], -1)
    torch.testing.assert_close(looks.points(points.expand(6, 3, 2), 96), centres, atol=0.3, rtol=0)
    assert (centres - points).abs().max() > 1
