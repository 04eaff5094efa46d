"""The prepared form: complete or absent, resumable, split by person, random access."""

import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from lipformer_core.data.corpora import list_sources
from lipformer_core.data.faces.alignment import invert, mouth_shape, transform_points
from lipformer_core.data.prepared import prepare as module
from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.data.prepared.extraction import source_state
from lipformer_core.data.prepared.prepare import prepare
from lipformer_core.data.prepared.summary import held_out_person
from lipformer_core.data.synthetic import synthesise_clip
from lipformer_core.errors import DataError
from lipformer_core.timing import MEL_PER_FRAME


def test_arrays_and_pictures_belong_together(tiny_corpus, tiny_config):
    corpus = PreparedCorpus(tiny_corpus)
    clip = corpus.open("synthetic00000")
    n = clip.info.n_frames
    sound, shown = (
        {"mel", "mel_before", "mel_after", "sound"},
        {"landmarks", "transforms", "pose", "opening", "width", "valid"},
    )
    assert set(clip.arrays) == sound | shown | {"crop_offsets"}
    assert clip.frames([0, n - 1]).shape == (2, tiny_config.data.size, tiny_config.data.size, 3)
    assert clip.landmarks.shape == (n, 68, 2) and clip.transforms.shape == (n, 2, 3)
    assert len(clip.mel) == MEL_PER_FRAME * n + 1
    np.testing.assert_allclose(mouth_shape(clip.landmarks)[0], clip.opening, atol=1e-5)
    with pytest.raises(IndexError, match="synthetic00000"):
        clip.frames([n])
    made = synthesise_clip(tiny_config.data.synthetic.seed, 0, 0, n, tiny_config.data.synthetic.size)
    np.testing.assert_allclose(transform_points(invert(clip.transforms), clip.landmarks), made.landmarks, atol=1e-2)
    np.testing.assert_allclose(clip.opening, made.opening, atol=1e-3)
    assert len(clip.sound) == 160 * len(clip.mel)
    np.testing.assert_allclose(clip.sound[: len(made.audio)] / 2**15, made.audio[: len(clip.sound)], atol=2e-5)


def test_random_access_reads_the_same_frame_as_the_whole_clip(tiny_corpus):
    clip = PreparedCorpus(tiny_corpus).open("synthetic00003")
    whole = clip.frames(range(clip.info.n_frames))
    for i in (7, 0, 13, 7):
        assert np.array_equal(clip.frames([i])[0], whole[i])


def test_shards_are_plain_tars_in_webdataset_layout(tiny_corpus):
    with tarfile.open(tiny_corpus / "train-00000.tar") as tar:
        names = tar.getnames()
    assert names[:3] == ["synthetic00000.json", "synthetic00000.npz", "synthetic00000.crops"]


def test_persons_are_in_one_split_only(tiny_corpus):
    corpus = PreparedCorpus(tiny_corpus)
    persons = [{info.person for info in corpus.clips(split)} for split in ("train", "val", "test")]
    assert [len(p) for p in persons] == [6, 2, 2]
    assert not persons[0] & persons[1] and not persons[0] & persons[2] and not persons[1] & persons[2]


def test_an_interrupted_preparation_ends_in_the_same_bytes(tiny_config, tiny_corpus, tmp_path, monkeypatch):
    real, made = module.prepare_source, []

    def stop_after_four(source, parts, config):
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(source.clip_id)
        return real(source, parts, config)

    monkeypatch.setattr(module, "prepare_source", stop_after_four)
    with pytest.raises(KeyboardInterrupt):
        prepare("synthetic", None, tmp_path, tiny_config, workers=1, progress=False)
    with pytest.raises(DataError, match="manifest"):
        PreparedCorpus(tmp_path)
    resumed = []
    monkeypatch.setattr(module, "prepare_source", lambda s, p, c: (resumed.append(s.clip_id), real(s, p, c))[1])
    prepare("synthetic", None, tmp_path, tiny_config, workers=1, progress=False)
    assert not set(resumed) & set(made) and len(resumed) + len(made) == 10
    assert PreparedCorpus(tmp_path).manifest["shards"] == PreparedCorpus(tiny_corpus).manifest["shards"]
    assert not (tmp_path / "parts").exists()


def test_a_finished_corpus_is_returned_and_other_settings_are_refused(tiny_config, tiny_corpus, monkeypatch):
    monkeypatch.setattr(module, "prepare_source", lambda *args: pytest.fail("prepared again"))
    assert prepare("synthetic", None, tiny_corpus, tiny_config).hash == PreparedCorpus(tiny_corpus).hash
    with pytest.raises(DataError, match="synthetic: .*'seed': 0.* there, .*'seed': 1.* asked"):
        prepare("synthetic", None, tiny_corpus, tiny_config.replace({"data.synthetic.seed": 1}))


def test_named_persons_make_another_corpus(tiny_config, tiny_corpus, tmp_path):
    config = tiny_config.replace(
        {"data.val_persons": ["synthetic00002"], "data.test_persons": ["synthetic00000", "synthetic00009"]}
    )
    corpus = prepare("synthetic", None, tmp_path, config, workers=1, progress=False)
    persons = {split: {info.person for info in corpus.clips(split)} for split in ("train", "val", "test")}
    assert persons["val"] == {"synthetic00002"} and persons["test"] == {"synthetic00000", "synthetic00009"}
    assert len(persons["train"]) == 7 and "named" in corpus.manifest["split_rule"]
    assert held_out_person(config.data) == 0 and held_out_person(tiny_config.data) == 8
    assert prepare("synthetic", None, tmp_path, config).hash == corpus.hash
    assert corpus.hash != PreparedCorpus(tiny_corpus).hash
    with pytest.raises(DataError, match="test_persons"):
        prepare("synthetic", None, tmp_path, tiny_config)


def test_a_list_that_has_changed_is_another_corpus(tiny_config, tiny_corpus, monkeypatch):
    """Also where its clips are called the same: another person, split or stretch of the video."""
    sources = list_sources("synthetic", None, tiny_config.data)
    for change in ({"person": "x"}, {"split": "val"}, {"end_s": 1.0}):
        changed = [replace(sources[0], **change), *sources[1:]]
        assert source_state(changed[0]) != source_state(sources[0])
        monkeypatch.setattr(module, "list_sources", lambda *_, changed=changed: changed)
        with pytest.raises(DataError, match="other clips"):
            prepare("synthetic", None, tiny_corpus, tiny_config)


def test_a_clip_that_cannot_be_used_is_a_row_with_its_reason(tiny_config, tmp_path):
    source = tmp_path / "videos"
    source.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (source / name).write_bytes(b"")
    with pytest.raises(DataError, match="not one of 2 clips.*a: .*UnreadableMedia"):
        prepare("folder", source, tmp_path / "out", tiny_config, workers=1, progress=False)


def test_a_missing_or_foreign_manifest(tiny_corpus, tmp_path):
    with pytest.raises(DataError, match="lipformer prepare"):
        PreparedCorpus(tmp_path)
    shutil.copy(tiny_corpus / "manifest.json", tmp_path)
    text = (tmp_path / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(text.replace('"format": 2', '"format": 99'))
    with pytest.raises(DataError, match="format 99"):
        PreparedCorpus(tmp_path)
