"""Shards: the same bytes whoever prepares them, in whatever order, and however often he is killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from lipformer_core import files
from lipformer_core.config import Config, flat, preset
from lipformer_core.data.prepared import extraction, shards
from lipformer_core.data.prepared import prepare as module
from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.data.prepared.prepare import prepare
from lipformer_core.errors import ConfigError, DataError


def content(folder: Path) -> dict[str, bytes]:
    """All files of a corpus but its report, which holds times."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith("report")}


def test_two_workers_write_the_same_bytes(tiny_config, tiny_corpus, tmp_path):
    prepare("synthetic", None, tmp_path, tiny_config, workers=2, progress=False)
    assert content(tmp_path) == content(tiny_corpus)


def test_a_dask_cluster_writes_the_same_bytes(tiny_config, tiny_corpus, tmp_path):
    from distributed import LocalCluster

    options = dict(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1")
    # a cluster tells its workers by this process's environment to use one thread, and leaves it there
    with patch.dict(os.environ), LocalCluster(**options) as cluster:
        where = dict(backend="dask", scheduler=cluster.scheduler_address)
        prepare("synthetic", None, tmp_path, tiny_config, progress=False, **where)
    assert content(tmp_path) == content(tiny_corpus)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "dask"}, "name the cluster's scheduler"),
        ({"backend": "dask", "scheduler": "nonsense://x"}, "nonsense"),
        ({"backend": "slurm"}, "none of 'local', 'dask'"),
    ],
)
def test_a_wrong_backend_says_so(tiny_config, tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        prepare("synthetic", None, tmp_path, tiny_config, progress=False, **options)


KILLED = {"data.synthetic.persons": [24, 4, 4]}


def start(out: Path, config: Config) -> subprocess.Popen:
    settings = [f"--set={name}={json.dumps(value)}" for name, value in flat(config.to_dict()) if name != "preset"]
    command = ["prepare", "--corpus", "synthetic", "--out", str(out), "--workers", "2", "--quiet", *settings]
    code = "from lipformer_core.cli import main; main()"
    pipes = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", code, *command], start_new_session=True, **pipes)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_random_moments_the_result_is_the_same(tiny_config, tmp_path):
    config = tiny_config.replace(KILLED)
    prepare("synthetic", None, tmp_path / "whole", config, workers=1, progress=False)
    out, rng, interrupted = tmp_path / "killed", random.Random(0), 0
    for attempt in range(4):
        process = start(out, config)
        began = len(list((out / "parts").glob("*.json")))
        while process.poll() is None and len(list((out / "parts").glob("*.json"))) <= began:
            time.sleep(0.01)  # until it has begun to work
        time.sleep(rng.random() * 0.4)
        # the whole group, or the main process alone: its workers are orphans then, and may write a while longer
        (os.killpg if attempt % 2 else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        interrupted += not (out / "manifest.json").exists()
        if (out / "manifest.json").exists():
            break
    assert interrupted >= 2
    process = start(out, config)
    assert process.wait(100) == 0, process.stderr.read().decode()
    assert content(out) == content(tmp_path / "whole")


def test_killed_while_joining_nothing_is_lost(tiny_config, tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "FRAMES_PER_SHARD", 30)
    prepare("synthetic", None, tmp_path / "whole", tiny_config, workers=1, progress=False)
    real, left = shards._write_shard, {"train-00000.tar": 1, "train-00002.tar": 1, "val-00000.tar": 1}

    def killed(path, members, parts):
        if left.pop(path.name, None):
            with shards.atomic(path) as file:
                file.write(b"half")
                raise KeyboardInterrupt
        return real(path, members, parts)

    monkeypatch.setattr(shards, "_write_shard", killed)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            prepare("synthetic", None, tmp_path / "out", tiny_config, workers=1, progress=False)
        assert not (tmp_path / "out" / "manifest.json").exists()
        monkeypatch.setattr(module, "prepare_source", lambda *args: pytest.fail("prepared again"))
    prepare("synthetic", None, tmp_path / "out", tiny_config, workers=1, progress=False)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_what_a_killed_run_left_half_written_is_removed(tiny_config, tiny_corpus, tmp_path, monkeypatch):
    def killed(file):
        raise KeyboardInterrupt  # and no time to tidy up

    mine = tmp_path / ".notes.tmp"
    mine.touch()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("lipformer_core.files.Path.unlink", lambda *args, **options: None)
        patch.setattr("lipformer_core.files.os.fsync", killed)
        with files.atomic(tmp_path / "train-00000.tar") as file:
            file.write(b"half")
    assert len(list(tmp_path.iterdir())) == 2
    prepare("synthetic", None, tmp_path, tiny_config, workers=1, progress=False)
    mine.unlink()
    assert content(tmp_path) == content(tiny_corpus)


def test_shards_are_bounded(tmp_path):
    parts, out, clips = tmp_path / "parts", tmp_path / "out", []
    parts.mkdir()
    out.mkdir()
    sizes = [300, 500, 400, 2000, 100, 100]
    for k, size in enumerate(sizes):
        metadata = {"clip_id": f"c{k}", "person": "p", "split": "train", "n_frames": 1, "source": f"c{k}"}
        metadata |= {"first_frame": 0, "still": False, "runs": [[0, 1]]}
        with (tmp_path / "crops").open("wb+") as crops:
            crops.write(bytes([k]) * size)
            shards.write_part(parts / f"{k}.tar", [(metadata, {}, (0, size))], crops)
        clips.append((str(k), metadata | {"bytes": size}))
    infos, hashes = shards.join(clips, parts, out, max_bytes=1000)
    assert [info.shard for info in infos] == [f"train-0000{n}.tar" for n in (0, 0, 1, 2, 3, 3)]
    assert set(hashes) == {p.name for p in out.iterdir()}
    for info, k in zip(infos, range(len(sizes)), strict=True):
        start, length = info.offsets["crops"]
        assert (out / info.shard).read_bytes()[start : start + length] == bytes([k]) * sizes[k]


def test_crops_are_stored_as_jpegs(tiny_corpus):
    clip = PreparedCorpus(tiny_corpus).open("synthetic00000")
    assert clip.encoded([3])[0][:2] == b"\xff\xd8" and clip.metadata["image_format"] == "jpeg"


def test_a_long_clip_becomes_several_of_one_person(tiny_config, tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "CLIP_FRAMES", 6)
    corpus = prepare("synthetic", None, tmp_path, tiny_config, workers=1, progress=False)
    whole = PreparedCorpus(tiny_corpus).open("synthetic00000")
    pieces = [info for info in corpus.clips("train") if info.source == "synthetic00000"]
    assert [(p.clip_id, p.first_frame, p.n_frames) for p in pieces] == [
        ("synthetic00000-000", 0, 5), ("synthetic00000-001", 5, 4), ("synthetic00000-002", 9, 5)
    ]  # fmt: skip
    for info in pieces:
        piece, at = corpus.open(info.clip_id), info.first_frame
        assert (info.person, info.split) == (whole.info.person, whole.info.split)
        np.testing.assert_array_equal(piece.frames(range(info.n_frames)), whole.frames(range(at, at + info.n_frames)))
        np.testing.assert_array_equal(piece.landmarks, whole.landmarks[at : at + info.n_frames])
        np.testing.assert_array_equal(  # the sound goes on beyond the cut
            piece.audio_windows(range(info.n_frames), 40), whole.audio_windows(range(at, at + info.n_frames), 40)
        )


def test_two_runs_into_one_folder_do_not_meet(tiny_config, tmp_path):
    from filelock import FileLock

    (tmp_path / "parts").mkdir()
    with FileLock(tmp_path / "parts" / "lock"), pytest.raises(DataError, match="another run"):
        prepare("synthetic", None, tmp_path, tiny_config, progress=False)


def test_an_unfinished_corpus_with_other_settings_is_refused(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_finish", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare("synthetic", None, tmp_path, tiny_config, workers=1, progress=False)
    with pytest.raises(DataError, match="unfinished.*[( ]size: 32 there, 64 asked"):
        prepare("synthetic", None, tmp_path, tiny_config.replace({"data.size": 64}), workers=1, progress=False)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_filmed_clips_give_the_same_bytes_in_every_process(clips_folder, weights_folder, tmp_path):
    """The landmark network itself is deterministic, whatever it saw before and wherever it runs."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for path in sorted((clips_folder / "grid_s1").iterdir())[:4]:
        (videos / path.name).symlink_to(path)
    config = preset("quick")
    for workers in (1, 2):
        corpus = prepare("grid", videos, tmp_path / str(workers), config, workers=workers, progress=False)
    assert content(tmp_path / "1") == content(tmp_path / "2")
    assert not corpus.manifest["dropped"] and corpus.manifest["versions"]["tracker"] == "mediapipe"
    clip = corpus.open(corpus.clips("train")[0].clip_id)
    assert clip.valid.all() and clip.info.n_frames == 75 and clip.opening.max() > 0.1
