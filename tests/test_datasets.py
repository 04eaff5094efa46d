"""Data sets and streams over a prepared corpus: every frame once, honest references, the same by disk and by URL."""

import functools
import http.server
import json
import shutil
import threading
import time
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, WeightedRandomSampler

from lipformer_core.data import references, shards
from lipformer_core.data.clips import PreparedCorpus
from lipformer_core.data.datasets import FaceDataset, PairDataset
from lipformer_core.data.prefetch import prefetched
from lipformer_core.data.prepare import prepare
from lipformer_core.data.streaming import stream_clips, stream_frames, stream_pairs
from lipformer_core.errors import DataError


@pytest.fixture(scope="module")
def many_shards(tiny_config, tmp_path_factory):
    """The tiny corpus in shards of two clips."""
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "FRAMES_PER_SHARD", 30)
        prepare("synthetic", None, folder, tiny_config, workers=1, progress=False)
    assert len(list(folder.glob("train-*.tar"))) == 3
    return folder


@pytest.fixture(scope="module")
def served(many_shards):
    """URL of a server of this machine that hands the corpus out."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=many_shards)
    handler.log_message = lambda *args: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_faces_are_all_valid_frames_once(tiny_corpus):
    corpus = PreparedCorpus(tiny_corpus)
    data = FaceDataset(corpus, "train")
    places = [data.locate(i) for i in range(len(data))]
    expected = [(info.clip_id, int(f)) for info in corpus.clips("train") for f in info.valid_frames]
    assert [(info.clip_id, frame) for info, frame in places] == expected
    assert data[len(data) - 1]["frame"] == data[-1]["frame"] == places[-1][1]
    with pytest.raises(IndexError):
        data[len(data)]
    item = data[20]
    stored = corpus.open(item["clip_id"]).frames([item["frame"]])[0]
    assert torch.equal(((item["image"] + 1) * 127.5).round().byte(), torch.from_numpy(stored).permute(2, 0, 1))


def test_frames_without_a_face_are_in_no_data_set(tiny_corpus, tmp_path):
    shutil.copytree(tiny_corpus, tmp_path / "c")
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    clip = next(c for c in manifest["clips"] if c["split"] == "train")
    clip["runs"] = [[2, 3], [5, 9]]
    (tmp_path / "c" / "manifest.json").write_text(json.dumps(manifest))
    data = FaceDataset(tmp_path / "c", "train")
    assert [data.locate(i)[1] for i in range(5)] == [2, 5, 6, 7, 8]
    assert data.locate(5)[0].clip_id != clip["clip_id"]
    pairs = PairDataset(tmp_path / "c", "train", 20)
    assert [pairs.locate(i)[1] for i in range(4)] == [2, 6, 7, 8], "5 has nothing further than 3 frames away"


def test_every_person_is_drawn_equally_often(tiny_corpus, tmp_path):
    shutil.copytree(tiny_corpus, tmp_path / "c")
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    for clip in manifest["clips"][:4]:
        clip["person"] = "often"
    (tmp_path / "c" / "manifest.json").write_text(json.dumps(manifest))
    data = FaceDataset(tmp_path / "c", "train")
    sampler = WeightedRandomSampler(data.person_weights(), 3000, generator=torch.Generator().manual_seed(0))
    drawn = Counter(data.locate(i)[0].person for i in sampler)
    assert len(drawn) == 3 and all(abs(count / 1000 - 1) < 0.15 for count in drawn.values())


def test_a_pair_is_target_reference_and_sound_of_one_clip(tiny_corpus):
    corpus = PreparedCorpus(tiny_corpus)
    data = PairDataset(corpus, "train", 20)
    for i in range(len(data)):
        item = data[i]
        clip = corpus.open(item["clip_id"])
        assert abs(item["frame"] - item["reference_frame"]) > references.NEAREST, "copying would do"
        both = [item["frame"], item["reference_frame"]]
        np.testing.assert_array_equal(item["audio"], clip.audio_windows([item["frame"]], 20)[0])
        np.testing.assert_array_equal(item["landmarks"], clip.landmarks[both])
        np.testing.assert_array_equal(item["pose"], clip.pose[both])
        for image, stored in zip((item["target"], item["reference"]), clip.frames(both), strict=True):
            assert torch.equal(((image + 1) * 127.5).round().byte(), torch.from_numpy(stored).permute(2, 0, 1))


def test_references_depend_on_seed_epoch_and_item_alone(tiny_corpus):
    def drawn(seed=0, epoch=0):
        data = PairDataset(tiny_corpus, "train", 20, seed)
        data.set_epoch(epoch)
        return [data[i]["reference_frame"] for i in range(30)]

    assert drawn() == drawn()
    assert drawn() != drawn(epoch=1) and drawn() != drawn(seed=1)


def test_references_are_of_another_time_pose_or_mouth():
    rng = np.random.default_rng(0)
    n = 200
    yaw, opening, valid = rng.normal(0, 10, n), rng.random(n), np.ones(n, bool)
    valid[50:60] = False
    draws = np.array([references.draw_reference(rng, yaw, valid, 100, opening) for _ in range(4000)])
    assert np.abs(draws - 100).min() > references.NEAREST and valid[draws].all()
    uniform = np.flatnonzero(valid & (np.abs(np.arange(n) - 100) > references.NEAREST))
    pose_gap = np.abs(yaw[draws] - yaw[100]).mean() / np.abs(yaw[uniform] - yaw[100]).mean()
    mouth_gap = np.abs(opening[draws] - opening[100]).mean() / np.abs(opening[uniform] - opening[100]).mean()
    assert pose_gap > 1.1 and mouth_gap > 1.1


def test_without_openings_the_rule_draws_what_training_has_always_drawn():
    """The numbers behind every trained result: a frame of four, in half of the draws the widest pose gap."""

    def before(rng, yaw, valid, target):
        candidates = np.flatnonzero(valid)
        far = candidates[np.abs(candidates - target) > 3]
        candidates = far if len(far) else candidates
        few = rng.choice(candidates, min(4, len(candidates)), replace=False)
        if rng.random() < 0.5:
            return int(few[0])
        return int(few[np.abs(yaw[few] - yaw[target]).argmax()])

    yaw = np.random.default_rng(1).normal(0, 10, 40)
    for seed in range(50):
        for valid in (np.ones(40, bool), np.arange(40) % 7 > 2, np.arange(40) < 3):
            pair = [f(np.random.default_rng(seed), yaw, valid, 1) for f in (before, references.draw_reference)]
            assert pair[0] == pair[1]


def test_a_loader_batches_them(tiny_corpus):
    batch = next(iter(DataLoader(PairDataset(tiny_corpus, "train", 20), batch_size=4, num_workers=2)))
    assert batch["target"].shape == (4, 3, 32, 32) and batch["audio"].shape == (4, 20, 80)


def same(streamed, stored):
    assert streamed.info.person == stored.info.person and streamed.info.runs == stored.info.runs
    assert set(streamed.arrays) == set(stored.arrays)
    for name, array in stored.arrays.items():
        np.testing.assert_array_equal(streamed.arrays[name], array)
    np.testing.assert_array_equal(streamed.frames([0, 5]), stored.frames([0, 5]))
    np.testing.assert_array_equal(streamed.audio_windows([0, 13], 20), stored.audio_windows([0, 13], 20))


@pytest.mark.parametrize("kind", ["folder", "file", "http"])
def test_a_stream_gives_what_random_access_gives(many_shards, served, kind):
    root = {"folder": many_shards, "file": many_shards.as_uri(), "http": served}[kind]
    corpus = PreparedCorpus(many_shards)
    clips = list(stream_clips(root, "train"))
    assert [c.info.clip_id for c in clips] == [info.clip_id for info in corpus.clips("train")]
    for clip in clips:
        same(clip, corpus.open(clip.info.clip_id))


def test_streamed_frames_are_the_data_sets_items(many_shards, served):
    data = FaceDataset(many_shards, "train")
    for streamed, stored in zip(stream_frames(served, "train"), data, strict=True):
        assert (streamed["clip_id"], streamed["frame"]) == (stored["clip_id"], stored["frame"])
        assert torch.equal(streamed["image"], stored["image"])


def test_streamed_pairs_keep_the_rule(many_shards):
    items = list(stream_pairs(many_shards, "train", 20, shuffle=3))
    targets = [(item["clip_id"], item["frame"]) for item in items]
    data = PairDataset(many_shards, "train", 20)
    assert sorted(targets) == sorted((info.clip_id, frame) for info, frame in map(data.locate, range(len(data))))
    assert all(abs(item["frame"] - item["reference_frame"]) > references.NEAREST for item in items)
    assert len({clip for clip, _ in targets[:4]}) >= 2, "clips take turns"
    again = list(stream_pairs(many_shards, "train", 20, shuffle=3))
    assert [i["reference_frame"] for i in again] == [i["reference_frame"] for i in items]


def test_shuffling_mixes_but_loses_nothing(many_shards):
    def order(**options):
        return [(item["clip_id"], item["frame"]) for item in stream_frames(many_shards, "train", **options)]

    plain, mixed = order(), order(shuffle=40)
    assert mixed != plain and sorted(mixed) == sorted(plain)
    assert mixed == order(shuffle=40) and mixed != order(shuffle=40, epoch=1) and mixed != order(shuffle=40, seed=1)
    assert len({clip for clip, _ in mixed[:10]}) > 2


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2, 5])
def test_workers_share_the_shards(many_shards, workers):
    """Also more workers than the three shards."""
    loader = DataLoader(stream_frames(many_shards, "train", shuffle=20), batch_size=7, num_workers=workers)
    seen = [pair for batch in loader for pair in zip(batch["clip_id"], batch["frame"].tolist(), strict=True)]
    assert len(seen) == len(set(seen)) == len(FaceDataset(many_shards, "train"))


def test_processes_of_a_distributed_training_share_the_shards(many_shards, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        seen += [clip.info.clip_id for clip in stream_clips(many_shards, "train")]
    assert sorted(seen) == sorted(info.clip_id for info in PreparedCorpus(many_shards).clips("train"))


def test_a_damaged_or_missing_corpus_is_named(many_shards, served, tmp_path):
    for root in (tmp_path, f"{served}/nowhere", "http://127.0.0.1:9"):
        with pytest.raises(DataError, match="manifest.json"):
            stream_clips(root, "train")
    with pytest.raises(DataError, match="no clips in the split 'dev'"):
        stream_clips(many_shards, "dev")
    shutil.copytree(many_shards, tmp_path / "c")
    shard = tmp_path / "c" / "train-00001.tar"
    shard.write_bytes(shard.read_bytes()[:4000])
    with pytest.raises(DataError, match="train-00001.tar.*to its end"):
        list(stream_clips(tmp_path / "c", "train"))
    with pytest.raises(DataError, match="train-00001.tar: damaged"):
        PreparedCorpus(tmp_path / "c").verify()
    PreparedCorpus(many_shards).verify()


def test_prefetching_changes_nothing_but_the_waiting(tiny_corpus):
    data = PairDataset(tiny_corpus, "train", 20)
    found = list(prefetched(data.__getitem__, range(40), threads=3, ahead=5))
    assert [item["frame"] for item in found] == [data[i]["frame"] for i in range(40)]
    assert all(torch.equal(item["target"], data[i]["target"]) for i, item in enumerate(found))


def test_prefetching_is_ahead_by_no_more_than_asked_and_stops():
    made = []
    batches = prefetched(lambda number: made.append(number) or number, range(1000), ahead=3)
    assert [next(batches) for _ in range(5)] == list(range(5))
    batches.close()
    assert 5 <= len(made) <= 9


def test_what_a_batch_raises_comes_when_it_is_due():
    batches = prefetched(lambda number: 1 // (2 - number), range(5), ahead=4)
    assert next(batches) == 0 and next(batches) == 1
    with pytest.raises(ZeroDivisionError):
        next(batches)


def test_work_is_done_while_the_consumer_works():
    batches = prefetched(lambda number: time.sleep(0.05) or number, range(6), threads=1, ahead=2)
    next(batches)
    waited = 0.0
    for _ in range(5):
        time.sleep(0.15)  # a step
        began = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - began
    assert waited < 0.1, "five batches would take 0.25 s"
