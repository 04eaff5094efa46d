"""A prepared corpus as a stream over its shards, from a folder or a URL, by WebDataset: for what no disk holds.

Each stream is an iterable data set for torch's DataLoader. Shards are dealt out to the processes of a distributed
training and to the loader's workers, so each sample comes once; a corpus should have more shards than readers.
"""

import io
import json
import random
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote, urlsplit

import numpy as np

from ..errors import DataError
from .clips import MANIFEST, Clip, ClipInfo, decode, read_manifest

if TYPE_CHECKING:
    from webdataset import DataPipeline

TIMEOUT = 60  # seconds without a byte from a server


class StreamedClip(Clip):
    """A clip that came by a stream, whole in memory; the same in use as one of `PreparedCorpus`."""

    def __init__(self, members: dict[str, bytes]):
        metadata = json.loads(members["json"])
        known = ("clip_id", "person", "split", "n_frames", "source", "first_frame", "still", "runs")
        members = {k: v for k, v in members.items() if not k.startswith("_")}
        offsets = {ending: (0, len(data)) for ending, data in members.items()}
        self.info = ClipInfo(**{k: metadata[k] for k in known if k in metadata}, shard="", offsets=offsets)
        self._members = members

    def _open(self, ending: str) -> tuple[BinaryIO, int, int]:
        return io.BytesIO(self._members[ending]), *self.info.offsets[ending]

    def _mapped(self, ending: str) -> memoryview:
        return memoryview(self._members[ending])


def stream_clips(root: str | Path, split: str, shuffle: int = 0, seed: int = 0, epoch: int = 0) -> "DataPipeline":
    """Stream the clips of a split as StreamedClip, each once.

    root : a corpus folder, or its URL (file, http, https; others as WebDataset opens them)
    shuffle : clips that are held back to be mixed, and shards come in random order; 0 keeps the corpus's order
    raises DataError for a missing corpus, one of another format, a split without clips, or a damaged shard
    """
    import webdataset as wds

    urls = shard_urls(root, split)
    if shuffle:
        random.Random(f"{seed} {epoch}").shuffle(urls)
    stages = [wds.SimpleShardList(urls), wds.split_by_node, wds.split_by_worker, _clips]
    return wds.DataPipeline(*stages, *_shuffled(shuffle, seed, epoch))


def stream_frames(root: str | Path, split: str, shuffle: int = 0, seed: int = 0, epoch: int = 0) -> "DataPipeline":
    """Stream all frames that show a face, as the items of `datasets.FaceDataset`.

    shuffle : frames (a few kilobytes each, not yet decoded) that are held back to be mixed; the rest as `stream_clips`
    """
    import webdataset as wds

    stages = [_frames, *_shuffled(shuffle, seed, epoch), wds.map(_decoded)]
    return stream_clips(root, split, min(shuffle, 1), seed, epoch).compose(*stages)


def stream_pairs(
    root: str | Path, split: str, window: int, shuffle: int = 0, seed: int = 0, epoch: int = 0
) -> "DataPipeline":
    """Stream all targets with references and sound, as the items of `datasets.PairDataset`.

    shuffle : clips (up to a few megabytes each) that are held back; each gives one pair in turn
    window, seed, epoch : as in PairDataset, references drawn by (seed, epoch, clip, frame)
    """
    clips = stream_clips(root, split, min(shuffle, 1), seed, epoch)
    return clips.compose(_Pairs(window, max(shuffle, 1), seed, epoch))


def shard_urls(root: str | Path, split: str) -> list[str]:
    """Paths or URLs of a split's shards, in the corpus's order. DataError as `stream_clips`."""
    base = str(root).rstrip("/")
    where = f"{base}/{MANIFEST}"
    try:
        with _opened(where) as file:
            text = file.read().decode()
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: cannot be read ({error}); give the folder or URL of a prepared corpus") from error
    manifest = read_manifest(text, where)
    names = sorted({clip["shard"] for clip in manifest["clips"] if clip["split"] == split})
    if not names:
        raise DataError(f"{base}: no clips in the split {split!r}")
    return [f"{base}/{quote(name) if _is_url(base) else name}" for name in names]


def _is_url(location: str) -> bool:
    return "://" in location


def _opened(location: str) -> BinaryIO:
    """A path, or a file, http or https URL, as a binary stream; anything else as WebDataset does it."""
    if not _is_url(location):
        return Path(location).open("rb")
    if urlsplit(location).scheme in ("file", "http", "https"):
        return urllib.request.urlopen(location, timeout=TIMEOUT)
    from webdataset.gopen import gopen

    return gopen(location)


def _clips(shards: Iterable[dict]) -> Iterator[StreamedClip]:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    for shard in shards:
        try:
            with _opened(shard["url"]) as stream:
                for sample in group_by_keys(tar_file_expander([{**shard, "stream": stream}])):
                    yield StreamedClip(sample)
        except (tarfile.ReadError, OSError, KeyError) as error:
            raise DataError(f"{shard['url']}: cannot be read to its end ({error}); copy the corpus again") from error


def _frames(clips: Iterable[StreamedClip]) -> Iterator[tuple[ClipInfo, int, bytes]]:
    for clip in clips:
        frames = np.flatnonzero(clip.valid)
        yield from ((clip.info, int(i), data) for i, data in zip(frames, clip.encoded(frames), strict=True))


def _decoded(frame: tuple[ClipInfo, int, bytes]) -> dict:
    from .datasets import as_tensor

    info, number, picture = frame
    return {"image": as_tensor(decode(picture)), "clip_id": info.clip_id, "person": info.person, "frame": number}


def _shuffled(size: int, seed: int, epoch: int) -> list:
    import webdataset as wds

    return [wds.shuffle(size, initial=size, rng=random.Random(f"{seed} {epoch} samples"))] if size > 1 else []


class _Pairs:
    """Stage that turns clips into pairs, in turn from `held` clips at once."""

    def __init__(self, window: int, held: int, seed: int, epoch: int):
        self.window, self.held, self.seed, self.epoch = window, held, seed, epoch

    def __call__(self, clips: Iterable[StreamedClip]) -> Iterator[dict]:
        from .datasets import pair, targets

        def pairs(clip: StreamedClip) -> Iterator[dict]:
            frames = targets(np.flatnonzero(clip.valid))
            key = [self.seed, self.epoch, zlib.crc32(clip.info.clip_id.encode())]
            for frame in np.random.default_rng(key).permutation(frames) if self.held > 1 else frames:
                yield pair(clip, int(frame), self.window, np.random.default_rng([*key, int(frame)]))

        source, running = (clip for clip in clips if not clip.info.still), []
        while True:
            while len(running) < self.held and (clip := next(source, None)) is not None:
                running.append(pairs(clip))
            if not running:
                return
            for item in list(running):
                found = next(item, None)
                if found is None:
                    running.remove(item)
                else:
                    yield found
