"""The cached codes: the encoder's own, kept through interruptions, and the work of all processes of a training."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lipformer_core import checkpoint, provenance
from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.errors import DataError
from lipformer_core.model.autoencoder import to_tensor
from lipformer_core.training import cache
from lipformer_core.training.cache import cache_codes


@pytest.fixture
def autoencoder(tiny_run):
    return checkpoint.load_codebook(tiny_run)


@pytest.fixture
def corpus(tiny_corpus):
    return PreparedCorpus(tiny_corpus)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.npy")}


@pytest.mark.parametrize("frames_a_file", [1, 2048])
def test_codes_are_the_encoders_own(frames_a_file, autoencoder, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "FILE_FRAMES", frames_a_file)
    codes = cache_codes(autoencoder, corpus, "train", tmp_path, "key")
    infos = corpus.clips("train")
    assert len(codes.files) == (len(infos) if frames_a_file == 1 else 1)
    for info in (infos[0], infos[-1]):
        frames = to_tensor(corpus.open(info.clip_id).frames(range(info.n_frames)))
        with torch.no_grad():
            upper, bottom = autoencoder.encode(frames)
            truth = autoencoder.upper_codebook.indices(upper), autoencoder.bottom_codebook.indices(bottom)
        for frame in (0, info.n_frames - 1):
            read = codes.read(info.clip_id, frame)
            assert np.array_equal(read, np.stack([half[frame] for half in truth]))


def test_portraits_are_not_encoded(autoencoder, corpus, tmp_path):
    infos = corpus.clips("train")
    corpus._infos[infos[1].clip_id] = replace(infos[1], still=True), corpus._infos[infos[1].clip_id][1]
    codes = cache_codes(autoencoder, corpus, "train", tmp_path, "key")
    assert set(codes.place) == {info.clip_id for info in infos} - {infos[1].clip_id}
    assert sum(len(file) for file in codes.files) == sum(i.n_frames for i in infos) - infos[1].n_frames


def test_codes_of_other_sources_are_not_taken(autoencoder, corpus, tmp_path, monkeypatch):
    folders = []
    for sources in ("these", "others"):
        monkeypatch.setattr(provenance, "sources", lambda kind, sources=sources: f"{sources} of {kind}")
        cache_codes(autoencoder, corpus, "val", tmp_path, "key")
        folders.append({path.name for path in tmp_path.iterdir()})
    assert len(folders[0]) == 1 and len(folders[1]) == 2


def test_no_more_than_so_many_files(autoencoder, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "FILE_FRAMES", 1)
    monkeypatch.setattr(cache, "MOST_FILES", 3)
    codes = cache_codes(autoencoder, corpus, "train", tmp_path, "key")
    assert 1 < len(codes.files) <= 3 < len(corpus.clips("train"))
    assert sum(len(file) for file in codes.files) == sum(info.n_frames for info in corpus.clips("train"))


def test_what_a_stopped_run_has_encoded_stays(autoencoder, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "FILE_FRAMES", 1)
    cache_codes(autoencoder, corpus, "train", tmp_path / "whole", "key")
    calls, encode = [], autoencoder.encode

    def stopped(images):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(len(images))
        return encode(images)

    monkeypatch.setattr(autoencoder, "encode", stopped)
    with pytest.raises(KeyboardInterrupt):
        cache_codes(autoencoder, corpus, "train", tmp_path / "parts", "key")
    assert len(contents(tmp_path / "parts")) == 2
    assert not list((tmp_path / "parts").rglob("*.tmp"))
    calls.clear()
    monkeypatch.setattr(autoencoder, "encode", lambda images: calls.append(len(images)) or encode(images))
    cache_codes(autoencoder, corpus, "train", tmp_path / "parts", "key")
    assert len(calls) == len(corpus.clips("train")) - 2
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_processes_share_the_work(autoencoder, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "FILE_FRAMES", 1)
    cache_codes(autoencoder, corpus, "train", tmp_path / "alone", "key")
    waits = []
    first, second = (
        SimpleNamespace(process_index=index, num_processes=2, wait_for_everyone=lambda: waits.append(1))
        for index in (0, 1)
    )
    with pytest.raises(DataError, match="file system"):  # the other one has written nothing here
        cache_codes(autoencoder, corpus, "train", tmp_path / "both", "key", accelerator=first)
    assert len(contents(tmp_path / "both")) == (len(corpus.clips("train")) + 1) // 2
    cache_codes(autoencoder, corpus, "train", tmp_path / "both", "key", accelerator=second)
    assert contents(tmp_path / "both") == contents(tmp_path / "alone") and len(waits) == 2
