"""What the sync expert says: how often it is right on people it never saw, and how far a clip is from its sound.

Its readings bear our own names, `sync_expert.*`: they are not LSE-C and LSE-D, which belong to other weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.audio import mel_windows
from ..data.prepared.clips import ClipInfo, PreparedCorpus
from ..errors import DataError
from ..model.syncnet import AUDIO_WINDOW, FRAMES, SyncNet, see, windows
from ..progress import tqdm
from ..timing import FPS
from .metrics import bootstrap_interval

REACH = 15  # frames to either side that `sync_distance` looks at
SHIFTS = 5  # frames to either side that `sync_accuracy` tells apart
FOREIGN = 3  # other people's clips that a clip is tested against
BATCH = 128
KINDS = {"two_sounds": "two sounds", "one_sound": "one sound, threshold"}


@dataclass(frozen=True)
class SyncReading:
    """A clip against its sound. `curve[REACH + k]` is the mean distance to the sound k frames later.

    distance : the smallest of the curve, 1 - cosine similarity, in [0, 2]; small is good
    confidence : by how much the curve's median lies above it; large is good
    offset : frames by which the picture is late relative to the sound there (negative: early)
    windows : how many were averaged
    """

    distance: float
    confidence: float
    offset: int
    curve: NDArray[np.float64]
    windows: int


def sync_distance(net: SyncNet, images: NDArray[np.uint8], mel: NDArray[np.float32]) -> SyncReading:
    """Judge a clip, generated or filmed, against a sound.

    images : (n, S, S, 3) uint8 aligned crops at 25 frames/s; mel : (T, 80) log-mel, frame 4 i at picture i
    raises DataError for a clip of fewer than 35 frames, where no window has sound REACH frames to either side
    """
    middles = np.arange(len(images) - FRAMES + 1) + FRAMES // 2
    sounds = embed_sounds(net, mel_windows(mel, middles / FPS, AUDIO_WINDOW))
    return read_sync(embed_frames(net, images), np.arange(len(middles)), sounds)


def read_sync(faces: NDArray, moments: NDArray[np.int64], sounds: NDArray) -> SyncReading:
    """The reading of embedded windows of frames, perhaps with gaps between them, against a sound without gaps.

    faces : (w, E), windows of frames whose own sound is sounds[moments]; moments : (w,)
    sounds : (n, E), the sound at consecutive frames
    raises DataError where no window has sound REACH frames to either side
    """
    kept = (moments >= REACH) & (moments < len(sounds) - REACH)
    if not kept.any():
        raise DataError(f"too few frames for the sync expert: it moves the sound by {REACH} each way")
    around = moments[kept][:, None] + np.arange(-REACH, REACH + 1)
    curve = 1 - np.einsum("we,wke->wk", faces[kept], sounds[around]).mean(0)
    best = int(curve.argmin())
    return SyncReading(
        float(curve[best]), float(np.median(curve) - curve[best]), REACH - best, curve, windows=int(kept.sum())
    )


def embed_frames(net: SyncNet, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Embeddings (n - sync_frames + 1, E) of every window of consecutive crops (n, S, S, 3)."""
    return embed_mouths(net, mouths(images))


def mouths(images: NDArray[np.uint8]) -> Tensor:
    """What the expert sees of crops (n, S, S, 3): float (n, 3, 48, 64) in [-1, 1]."""
    bottoms = torch.from_numpy(images[:, images.shape[1] // 2 :]).permute(0, 3, 1, 2)
    return torch.cat([see(part.float() / 127.5 - 1) for part in bottoms.split(BATCH)])


@torch.no_grad()
def embed_mouths(net: SyncNet, seen: Tensor) -> NDArray[np.float64]:
    """Embeddings (n - sync_frames + 1, E) of every window of frames from `mouths` (n, 3, 48, 64)."""
    cut = windows(seen[None], FRAMES)[0]
    found = [net.embed_faces(part.to(net.log_scale.device)) for part in cut.split(BATCH)]
    return torch.cat(found).cpu().double().numpy()


@torch.no_grad()
def embed_sounds(net: SyncNet, sounds: NDArray[np.float32]) -> NDArray[np.float64]:
    """Embeddings (w, E) of log-mel windows (w, sync_audio_window, 80)."""
    parts = torch.from_numpy(sounds).to(net.log_scale.device).split(BATCH)
    return torch.cat([net.embed_sounds(part) for part in parts]).cpu().double().numpy()


def similarities(faces: NDArray, sounds: NDArray, reach: int) -> NDArray[np.float64]:
    """Cosine similarity of each window to the sound k frames later, k from -reach to reach: (w - 2 reach, 2 reach + 1).

    faces, sounds : (w, E) of the same consecutive windows. Windows near the ends are left out: the silence beyond them
    would be told apart too easily.
    """
    around = np.arange(reach, len(faces) - reach)[:, None] + np.arange(-reach, reach + 1)
    return np.einsum("me,mke->mk", faces[reach : len(faces) - reach], sounds[around])


@dataclass(frozen=True)
class SyncAccuracy:
    """How often the expert is right, by (kind, windows averaged), in [0, 1]; chance is 0.5 everywhere.

    share[kind, span] : (clips, 2 SHIFTS + 2); a column for the own sound moved by -SHIFTS … SHIFTS frames (nan at 0),
        the last one for other people's sound
    kind "two_sounds" : the own sound is more similar than the other one. "one_sound" : each is called in sync or not by
        a threshold; the mean of both kinds of right answers
    span : windows whose similarities are averaged, 1 (0.2 s) or as many as cover a second
    """

    share: dict[tuple[str, int], NDArray[np.float64]]
    persons: int
    windows: int

    def flat(self) -> dict[str, float | int]:
        """Flat results: means over clips with bootstrap intervals."""
        clips = len(next(iter(self.share.values())))
        out: dict[str, float | int] = {
            "sync_expert.persons": self.persons,
            "sync_expert.clips": clips,
            "sync_expert.windows": self.windows,
        }
        for (kind, span), share in self.share.items():
            for against, values in (("shifted", np.nanmean(share[:, :-1], 1)), ("foreign", share[:, -1])):
                key = f"sync_expert.{kind}_{against}{'_1s' if span > 1 else ''}"
                out[key], out[f"{key}.low"], out[f"{key}.high"] = bootstrap_interval(values)
        return out

    def curves(self) -> dict[str, NDArray[np.float64]]:
        """Means over clips, label to (2 SHIFTS + 2,): for `charts.sync_offsets`."""
        return {f"{KINDS[kind]}, {_seconds(span)}": share.mean(0) for (kind, span), share in self.share.items()}


def sync_accuracy(net: SyncNet, corpus: PreparedCorpus, split: str = "test", progress: bool = True) -> SyncAccuracy:
    """Test the expert on a split: a clip's own sound against that moved by 1 to SHIFTS frames, and other people's.

    Thresholds are those with the most right answers on the validation split.
    raises DataError if a split has no two clips with a face in so many frames in a row that a second can be moved
    """
    second = FPS - FRAMES + 1
    tested, reference = (clip_similarities(net, corpus, name, second, progress) for name in (split, "val"))
    person = {info.clip_id: info.person for info in corpus.clips(split)}
    share = {}
    for span in (1, second):
        threshold = _best_threshold([_averaged(part, span) for parts in reference.values() for part in parts])
        rows: dict[str, list[NDArray]] = {kind: [] for kind in KINDS}
        for parts in tested.values():
            table = np.concatenate([_averaged(part, span) for part in parts])  # (m, 2 SHIFTS + 1 + FOREIGN)
            own = table[:, [SHIFTS]]
            rows["two_sounds"].append((own > table).mean(0))
            rows["one_sound"].append(((own > threshold).mean() + (table <= threshold).mean(0)) / 2)
        share |= {(kind, span): np.stack([_by_offset(row) for row in found]) for kind, found in rows.items()}
    count = sum(len(part) for parts in tested.values() for part in parts)
    return SyncAccuracy(share, len({person[clip_id] for clip_id in tested}), count)


def clip_similarities(
    net: SyncNet, corpus: PreparedCorpus, split: str, second: int, progress: bool = False
) -> dict[str, list[NDArray[np.float64]]]:
    """Similarities of every run of frames that is long enough, by clip: (m, 2 SHIFTS + 1 + FOREIGN) each.

    The first columns are `similarities` to the own sound, the last ones to the sound of the next clips of other people
    (of other clips of the same person, where a split has nobody else) at the same moment of their runs.
    """
    infos = tqdm(corpus.clips(split, stills=False), desc=f"listen, {split}", unit="clip", disable=not progress)
    embedded = [(info, *pair) for info in infos for pair in _runs(net, corpus, info, second)]
    if len({info.clip_id for info, *_ in embedded}) < 2:
        raise DataError(
            f"{corpus.folder}: fewer than two clips in the split {split!r} are long enough for the sync test"
        )
    found: dict[str, list[NDArray]] = {}
    for number, (info, faces, sounds) in enumerate(embedded):
        after = embedded[number + 1 :] + embedded[:number]
        others = [o for o in after if o[0].person != info.person] or [o for o in after if o[0].clip_id != info.clip_id]
        own, middle = similarities(faces, sounds, SHIFTS), slice(SHIFTS, len(faces) - SHIFTS)
        foreign = [(faces[middle] * np.resize(o[2], sounds.shape)[middle]).sum(1) for o in (others * FOREIGN)[:FOREIGN]]
        found.setdefault(info.clip_id, []).append(np.column_stack([own, *foreign]))
    return found


def _runs(net: SyncNet, corpus: PreparedCorpus, info: ClipInfo, second: int) -> Iterator[tuple[NDArray, NDArray]]:
    """Embeddings of faces and sounds, (w, E) each, of every run of valid frames in which a second can be moved."""
    clip, length = corpus.open(info.clip_id), FRAMES
    for first, last in info.runs:
        if last - first - length + 1 >= second + 2 * SHIFTS:
            middles = np.arange(first, last - length + 1) + length // 2
            sounds = clip.audio_windows(middles, AUDIO_WINDOW)
            yield embed_frames(net, clip.frames(np.arange(first, last))), embed_sounds(net, sounds)


def _averaged(table: NDArray, span: int) -> NDArray[np.float64]:
    """Means over every `span` consecutive rows: (m, c) to (m - span + 1, c)."""
    return np.lib.stride_tricks.sliding_window_view(table, span, axis=0).mean(-1)


def _by_offset(row: NDArray) -> NDArray[np.float64]:
    """One share for each offset (nan where nothing is moved) and the mean over all foreign sounds."""
    moved = row[: 2 * SHIFTS + 1].copy()
    moved[SHIFTS] = np.nan
    return np.append(moved, row[2 * SHIFTS + 1 :].mean())


def _best_threshold(tables: list[NDArray]) -> float:
    """The similarity that best parts own sounds from all others, right answers of both kinds counted alike."""
    table = np.concatenate(tables)
    own, others = np.sort(table[:, SHIFTS]), np.sort(np.delete(table, SHIFTS, axis=1).ravel())
    above = 1 - np.searchsorted(own, own, side="right") / len(own)
    below = np.searchsorted(others, own, side="right") / len(others)
    return float(own[(above + below).argmax()])


def _seconds(span: int) -> str:
    return "1 s" if span > 1 else "0.2 s"
