"""All rows and cases of one clip: pictures are made and scored batch by batch, and only numbers are kept."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lipformer_core.data.faces.alignment import mouth_shape
from lipformer_core.data.faces.recognition import Recogniser
from lipformer_core.errors import DataError, NoFaceFound
from lipformer_core.model.syncnet import AUDIO_WINDOW, FRAMES, SyncNet
from lipformer_core.model.wav2lip import Wav2Lip
from lipformer_core.training.judges import Judges

from . import metrics
from .cases import Puppet
from .lse import COLUMNS as LSE
from .lse import LONG, Lse, Watched
from .pretrained_metrics import Fid, FidStatistics, Lpips
from .sync import embed_mouths, embed_sounds, mouths, read_sync

BATCH = 16  # frames at once: what lies between layers then fits a CPU's cache
FEWEST_FRAMES = 12  # a shorter series has no meaningful correlation
REFERENCE_GAP = 5  # frames around the reference that picture scores leave out: there, copying is no achievement
FEWEST_MOTION = 1e-3  # deviation of the true opening below which a clip asks nothing of the mouth
SPEAKERS = ("lipformer", "wav2lip")  # rows that any sound can drive; the second where the run has trained it
SCORED = ("ceiling", "copy_reference", "warped_reference", *SPEAKERS)
SYNC = "sync_expert_distance", "sync_expert_confidence"  # our own expert's; not LSE-D and LSE-C
RECOGNISED = 12  # every so manieth frame is asked whose face it shows, which takes longer than to generate it
YAWS = {"0_10": (0, 10), "10_20": (10, 20), "20_up": (20, 180)}  # bins of |yaw|, degrees


@dataclass
class ClipScores:
    """What one clip gave. values: `row.column` to a number; series: lip openings over time, for plots."""

    clip_id: str
    person: str
    partner: str | None
    n_frames: int
    values: dict[str, float]
    series: dict[str, NDArray[np.float64]]
    pictures: dict[str, list[NDArray[np.uint8]]]


@dataclass
class Scorers:
    """Optional measurements that need weights which may not be there; `missing` says of each absent column why."""

    lpips: Lpips | None = None
    fid: Fid | None = None
    identity: Recogniser | None = None
    landmarks: Callable[[NDArray], NDArray] | None = None  # of crops (n, S, S, 3): (n, 68, 2)
    lse: Lse | None = None
    sync: SyncNet | None = None
    judges: Judges | None = None
    wav2lip: Wav2Lip | None = None  # the baseline
    missing: dict[str, str] = field(default_factory=dict)
    fid_sets: dict[str, FidStatistics] = field(default_factory=lambda: defaultdict(FidStatistics))


class ClipJudge:
    """Gathers one clip's frames batch by batch; keeps numbers, and pictures of a few frames only."""

    def __init__(self, clip: Any, driver: Any | None, meter: Any, scorers: Scorers, shift: int) -> None:
        """driver: the clip whose audio is exchanged in; shift: frames by which the audio is shifted, 0: not at all."""
        self.clip, self.driver, self.meter, self.scorers, self.shift = clip, driver, meter, scorers, shift
        self.frames, self.both = np.flatnonzero(clip.valid), _shared_frames(clip, driver)
        self.lips: dict[str, list] = defaultdict(list)  # case to readings (k, 2)
        self.scores: dict[str, list] = defaultdict(list)  # `row.column` to one number a frame
        self.steps: dict[str, list] = defaultdict(list)  # row to border steps
        self.edges: dict[str, list] = defaultdict(list)  # row to gradient energies
        self.landmarks: dict[str, list] = defaultdict(list)
        self.mouths: dict[str, list] = defaultdict(list)  # row or case to what the sync expert sees
        self.heard: dict[int, NDArray] = {}  # a clip's id to its sound as the sync expert hears it
        self.lse: Watched | None = None
        self.pictures: dict[str, list] = defaultdict(list)

    def score(
        self, model: Any, device: torch.device, *, keep_pictures: bool, strangers: Sequence[Any] = ()
    ) -> ClipScores:
        """All rows and cases of the clip.

        strangers: clips that have nothing to do with either; what of their mouths seems to leak is the floor of `leak`.
        """
        clip, frames, driver = self.clip, self.frames, self.driver
        if len(frames) < FEWEST_FRAMES:
            raise NoFaceFound(f"only {len(frames)} frames with a face, {FEWEST_FRAMES} are needed")
        models = {"lipformer": model, "wav2lip": self.scorers.wav2lip}
        puppets = {row: Puppet(model, clip, device) for row, model in models.items() if model is not None}
        gap = min(REFERENCE_GAP, len(frames) // 6)
        scored = frames[np.abs(frames - puppets["lipformer"].lender[frames]) > gap]
        shown = frames[spread_over_opening(np.asarray(clip.opening)[frames])] if keep_pictures else frames[:0]
        if self.scorers.lse is not None and len(frames) >= LONG and len(clip.sound):
            self.lse = Watched(self.scorers.lse, clip, frames)
        for start in range(0, len(frames), BATCH):
            self._batch(puppets, frames[start : start + BATCH], scored, shown)
        lips = {case: np.concatenate(readings) for case, readings in self.lips.items()}
        values = {name: float(np.concatenate(parts).mean()) for name, parts in self.scores.items()}
        values |= self._movement(strangers, lips) | self._landmark_values() | self._sound_values()
        for row, puppet in puppets.items():
            timed = puppet.seconds[1:] or puppet.seconds  # the first call also pays for warming up
            values[f"{row}.generate_fps"] = sum(n for n, _ in timed) / max(sum(s for _, s in timed), 1e-9)
        series = {"truth": np.asarray(clip.opening, float)[frames]} | {case: r[:, 0] for case, r in lips.items()}
        if driver is not None:
            series["exchanged_truth"] = np.asarray(driver.opening, float)[self.both]
        names = (clip.info.clip_id, clip.info.person, None if driver is None else driver.info.clip_id)
        return ClipScores(*names, len(frames), values, series, dict(self.pictures))

    def _batch(self, puppets: dict[str, Puppet], frames: NDArray, scored: NDArray, shown: NDArray) -> None:
        clip, driver = self.clip, self.driver
        truth = clip.frames(frames)
        exchanged = np.isin(frames, self.both)
        rows, cases = {"ground_truth": truth}, {}
        for row, puppet in puppets.items():
            own = puppet.sound(clip, frames)
            seen, spoken = puppet.look_and_say(truth, frames, own)
            if row == "lipformer":
                rows |= puppet.rows(truth, frames, seen, own)
                if self.scorers.judges is not None:
                    self.lips["sound_alone"].append(puppet.hear(self.scorers.judges, own))
            rows[row] = spoken
            cases[_case(row, "silence")] = puppet.say(seen, puppet.silence(len(frames)))
            if driver is not None and exchanged.any():
                cases[_case(row, "exchanged")] = puppet.say(seen, puppet.sound(driver, frames))[exchanged]
            if self.shift:
                cases[_case(row, "shifted")] = puppet.say(seen, puppet.sound(clip, frames + self.shift))
        for name, images in (rows | cases).items():
            self.lips[name].append(self.meter.read(images))
        for name, images in (rows | cases).items():
            if name in rows or name.endswith("exchanged"):
                if self.scorers.sync is not None:
                    self.mouths[name].append(mouths(images))
                if self.lse is not None:
                    self.lse.add(name, images, frames if name in rows else frames[exchanged])
        for name, images in rows.items():
            self.steps[name].append(metrics.border_step(images))
            self.edges[name].append(metrics.gradient_energy(images))
        yaw = np.abs(np.asarray(clip.pose)[frames, 0])
        self._score_pictures(rows, np.isin(frames, scored), np.asarray(clip.landmarks)[frames], yaw)
        if self.scorers.identity is not None:
            self._recognise(rows, frames, np.isin(frames, scored) & (frames % RECOGNISED == 0))
        if self.scorers.landmarks is not None:
            for name in ("ground_truth", *puppets):
                self.landmarks[name].append(self.scorers.landmarks(rows[name]))
        for frame in shown[np.isin(shown, frames)]:
            at = int(np.flatnonzero(frames == frame)[0])
            for name, images in (rows | {"silence": cases["silence"]}).items():
                self.pictures[name].append(images[at])
            if "exchanged" in cases and exchanged[at]:
                self.pictures["exchanged"].append(cases["exchanged"][exchanged[:at].sum()])

    def _score_pictures(self, rows: dict[str, NDArray], use: NDArray, landmarks: NDArray, yaw: NDArray) -> None:
        if not use.any():
            return
        truth = rows["ground_truth"][use]
        boxes = metrics.mouth_boxes(landmarks[use], truth.shape[1])
        for row, images in rows.items():
            if self.scorers.fid is not None:
                self.scorers.fid_sets[row].add(self.scorers.fid.features(images[use]))
            if row == "ground_truth":
                continue
            columns = metrics.picture_scores(images[use], truth, boxes)
            if self.scorers.lpips is not None:
                columns["lpips"] = self.scorers.lpips(images[use], truth)
            for name, (low, high) in YAWS.items():
                if (inside := (low <= yaw[use]) & (yaw[use] < high)).any():
                    columns[f"mouth_psnr_yaw_{name}"] = columns["mouth_psnr"][inside]
            for column, numbers in columns.items():
                self.scores[f"{row}.{column}"].append(numbers)

    def _recognise(self, rows: dict[str, NDArray], frames: NDArray, use: NDArray) -> None:
        if not use.any():
            return
        points = np.asarray(self.clip.landmarks)[frames[use]]
        known = {row: self.scorers.identity.embed(images[use], points) for row, images in rows.items()}
        truth = known.pop("ground_truth")
        for row, found in known.items():
            self.scores[f"{row}.identity_distance"].append(np.linalg.norm(found - truth, axis=1))

    def _movement(self, strangers: Sequence[Any], lips: dict) -> dict[str, float]:
        """Columns that come from lip readings over time and from the border."""
        clip, driver, frames, both = self.clip, self.driver, self.frames, self.both
        opening, width = (np.asarray(x, dtype=float)[frames] for x in (clip.opening, clip.width))
        speakers = [row for row in SPEAKERS if row in lips]
        values = {"meter.truth_mae": float(np.abs(lips["ground_truth"][:, 0] - opening).mean())}
        if "sound_alone" in lips:
            values["sound_alone.opening_corr_self"] = _follows(lips["sound_alone"][:, 0], opening)
        for row in ("ground_truth", "ceiling", *speakers):
            values[f"{row}.opening_corr_self"] = _follows(lips[row][:, 0], opening)
            values[f"{row}.jitter"] = metrics.jitter(lips[row][:, 0])
        for row in ("ground_truth", *speakers):
            values[f"{row}.width_corr_self"] = _follows(lips[row][:, 1], width)
        for row in speakers:
            values[f"{row}.silence_deviation"] = float(lips[_case(row, "silence")][:, 0].std())
            values[f"{row}.speech_deviation"] = float(lips[row][:, 0].std())
        for row in self.steps:
            values[f"{row}.deviation"] = float(lips[row][:, 0].std())
        for column, gathered in (("seam", self.steps), ("sharpness", self.edges)):
            means = {row: float(np.concatenate(parts).mean()) for row, parts in gathered.items()}
            truth = means["ground_truth"] or float("nan")
            values |= {f"{row}.{column}": mean / truth for row, mean in means.items()}
        if self.shift:
            source = frames + self.shift
            inside = (source >= 0) & (source < len(clip.opening))
            inside[inside] = np.asarray(clip.valid)[source[inside]]
            if inside.sum() >= FEWEST_FRAMES:
                heard = np.asarray(clip.opening, dtype=float)[source[inside]]
                for row in speakers:
                    values[f"{row}.opening_corr_shifted"] = _follows(lips[_case(row, "shifted")][inside, 0], heard)
        if len(both) >= FEWEST_FRAMES:
            original, driving = (np.asarray(c.opening, dtype=float)[both] for c in (clip, driver))
            # of the film itself: what chance and timing give, and the leak of a perfect copier
            spoken = {"ground_truth": lips["ground_truth"][np.isin(frames, both), 0]}
            spoken |= {row: lips[_case(row, "exchanged")][:, 0] for row in speakers}
            moves = min(original.std(), driving.std()) >= FEWEST_MOTION
            for row, read in spoken.items():
                values[f"{row}.opening_corr_exchanged"] = _follows(read, driving)
                if moves:
                    values[f"{row}.leak"] = metrics.partial_correlation(read, original, driving)
            for row in speakers if moves else ():
                floor = _leak_floor(spoken[row], driving, both, strangers)
                if np.isfinite(floor):
                    values[f"{row}.leak_floor"] = floor
                    values[f"{row}.leak_excess"] = values[f"{row}.leak"] - floor
        return values

    def _landmark_values(self) -> dict[str, float]:
        if not self.landmarks:
            return {}
        found = {row: np.concatenate(parts) for row, parts in self.landmarks.items()}
        truth, values = found.pop("ground_truth"), {}
        opening = np.asarray(self.clip.opening, dtype=float)[self.frames]
        for row, points in found.items():
            seen = np.isfinite(points).all(axis=(1, 2)) & np.isfinite(truth).all(axis=(1, 2))
            values[f"{row}.landmarks_found"] = float(seen.mean())
            if seen.sum() >= FEWEST_FRAMES:
                for name, read in ((row, points), ("ground_truth", truth)):
                    corr = _follows(mouth_shape(read[seen])[0], opening[seen])
                    values.setdefault(f"{name}.opening_corr_self_landmarks", corr)
                values[f"{row}.lmd"] = metrics.lmd(points[seen, metrics.MOUTH], truth[seen, metrics.MOUTH])
        return values

    def _sound_values(self) -> dict[str, float]:
        """What the sync expert and SyncNet say of every row, and of it under the other's sound."""
        asked = [(name, SYNC, self._sync) for name in self.mouths]
        asked += [(name, LSE, self._lse) for name in (() if self.lse is None else self.lse.windows)]
        values: dict[str, float] = {}
        for name, columns, scores in asked:
            exchanged = name.endswith("exchanged")
            source, shown = (self.driver, self.both) if exchanged else (self.clip, self.frames)
            row = name.removesuffix("exchanged").removesuffix("_") or "lipformer"
            for column, value in zip(columns, scores(name, shown, source), strict=False):
                values[f"{row}.{column}{'_exchanged' if exchanged else ''}"] = value
        return values

    def _sync(self, name: str, shown: NDArray, source: Any) -> tuple[float, ...]:
        """Distance and confidence over all windows of frames without a gap; empty where a clip is too short."""
        whole = np.flatnonzero(shown[FRAMES - 1 :] - shown[: len(shown) - FRAMES + 1] == FRAMES - 1)
        if not len(whole):
            return ()
        if id(source) not in self.heard:
            sounds = source.audio_windows(np.arange(len(source.valid)), AUDIO_WINDOW)
            self.heard[id(source)] = embed_sounds(self.scorers.sync, sounds)
        faces = embed_mouths(self.scorers.sync, torch.cat(self.mouths[name]))[whole]
        try:
            reading = read_sync(faces, shown[whole] + FRAMES // 2, self.heard[id(source)])
        except DataError:  # the column is a mean over the other clips
            return ()
        return reading.distance, reading.confidence

    def _lse(self, name: str, shown: NDArray, source: Any) -> tuple[float, ...]:
        return self.lse.scores(name, shown, source.sound)


def _case(row: str, case: str) -> str:
    """How a case of a row is called; LipFormer's have the plain names."""
    return case if row == "lipformer" else f"{row}_{case}"


def _follows(read: NDArray, truth: NDArray) -> float:
    """Correlation of a reading with the truth; 0 for a mouth that stands still, nan where the truth does."""
    if truth.std() < FEWEST_MOTION:
        return float("nan")
    return float(np.nan_to_num(metrics.pearson(read, truth)))


def _leak_floor(spoken: NDArray, driving: NDArray, frames: NDArray, strangers: Sequence[Any]) -> float:
    """What `leak` reads of mouths that cannot have leaked: mean over clips which the generator never met.

    Above 0 where sentences share their timing; nan without a stranger that has all these frames.
    """
    reads = []
    for stranger in strangers:
        if len(stranger.valid) > frames[-1] and np.asarray(stranger.valid)[frames].all():
            opening = np.asarray(stranger.opening, dtype=float)[frames]
            if opening.std() >= FEWEST_MOTION:
                reads.append(metrics.partial_correlation(spoken, opening, driving))
    return float(np.mean(reads)) if reads else float("nan")


def _shared_frames(clip: Any, driver: Any | None) -> NDArray[np.int64]:
    """Frames that both clips have, with a face in each."""
    if driver is None:
        return np.empty(0, dtype=np.int64)
    common = min(len(clip.valid), len(driver.valid))
    return np.flatnonzero(np.asarray(clip.valid)[:common] & np.asarray(driver.valid)[:common])


def spread_over_opening(opening: NDArray, count: int = 6) -> NDArray[np.int64]:
    """Which of (n,) openings to show: a few from the most closed to the most open one, in order of time."""
    order = np.argsort(opening, kind="stable")
    return np.unique(order[np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)])
