"""The protocol on stand-ins whose right answers are known: a perfect model, a copier, and a mute one."""

import json
import shutil
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from material import face_landmarks
from typer.testing import CliRunner

from lipformer_core.cli import app
from lipformer_core.config import AudioSettings, preset
from lipformer_core.data.audio import mel_windows, silent_rows
from lipformer_core.data.media import iter_frames
from lipformer_core.data.media.soundtrack import iter_audio
from lipformer_core.errors import DataError, NoFaceFound
from lipformer_core.evaluation import protocol
from lipformer_core.evaluation.cases import Puppet, exchange_partner, strangers_of
from lipformer_core.evaluation.clip_judge import Scorers
from lipformer_core.evaluation.metrics import ROUNDING_PSNR
from lipformer_core.evaluation.protocol import evaluate_model
from lipformer_core.evaluation.report import summary_table, write_report
from lipformer_core.timing import FPS, MEL_PER_FRAME

SIZE, FRAMES, WINDOW = 64, 45, 8
REST = 0.02  # opening of a closed mouth


def _draw(openings: np.ndarray, shade: int) -> np.ndarray:
    """Crops (n, 64, 64, 3) with a mouth bar whose brightness is the opening, and noise as texture."""
    images = np.random.default_rng(shade).integers(shade - 30, shade + 30, (1, SIZE, SIZE, 3))
    images = images.repeat(len(openings), axis=0).astype(np.uint8)
    images[:, 42:50, 22:42] = np.rint(np.asarray(openings) * 500)[:, None, None, None]
    return images


class Meter:
    """Reads the bar's brightness back."""

    def read(self, images: np.ndarray) -> np.ndarray:
        level = images[:, 42:50, 22:42].astype(float).mean(axis=(1, 2, 3)) / 500
        return np.stack([level, level], axis=1)


@dataclass
class Clip:
    """A clip whose mel IS the opening, and whose upper half hides it in one corner (what a leak is made of)."""

    clip_id: str
    person: str
    seed: int
    valid: np.ndarray = field(default_factory=lambda: np.ones(FRAMES, bool))

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        timing = np.sin(np.arange(FRAMES) / 3) + 1  # sentences of one timing
        self.opening = REST + 0.1 * timing + 0.12 * rng.random(FRAMES)
        self.opening[[0, 20]] = REST
        self.width = self.opening
        self.pose = rng.normal(0, 10, (FRAMES, 3))
        self.landmarks = np.full((FRAMES, 68, 2), (SIZE / 2, 46.0))
        self.info = SimpleNamespace(clip_id=self.clip_id, person=self.person, n_frames=FRAMES)
        self.images = _draw(self.opening, 100 + self.seed)
        self.images[:, :4, :4] = self.images[:, 42:43, 22:23]
        self.mel = np.full((FRAMES * MEL_PER_FRAME, 80), -1.0, np.float32)
        self.mel += np.repeat(self.opening, MEL_PER_FRAME)[:, None].astype(np.float32)
        self.sound = np.repeat(self.opening * 1e4, 640).astype(np.int16)
        self.mel[:, 1] = np.repeat(REST + 0.1 * timing + 0.06, MEL_PER_FRAME) - 1  # and one band, the timing alone

    def frames(self, indices: np.ndarray) -> np.ndarray:
        return self.images[np.asarray(indices)].copy()

    def audio_windows(self, indices: np.ndarray, window: int) -> np.ndarray:
        return mel_windows(self.mel, np.asarray(indices) / FPS, window)

    def heard(self, indices: np.ndarray, settings: AudioSettings) -> np.ndarray:
        return self.audio_windows(indices, settings.window)

    def silence(self, settings: AudioSettings) -> np.ndarray:
        return silent_rows(settings.window)


class Corpus:
    """A few clips by name."""

    def __init__(self, clips: list[Clip]) -> None:
        self.clips = {clip.clip_id: clip for clip in clips}

    def open(self, clip_id: str) -> Clip:
        return self.clips[clip_id]


class Perfect:
    """Draws the opening that it hears; ends in true pixels wherever it can."""

    config = preset("tiny", {"data.size": SIZE, "audio.window": WINDOW})
    judges = SimpleNamespace(hear=lambda condition: condition)

    def encode_reference(self, image: torch.Tensor) -> torch.Tensor:
        return image

    def encode_bottom(self, bottom: torch.Tensor) -> torch.Tensor:
        return bottom + 0.02

    def look(self, target: torch.Tensor, reference: torch.Tensor) -> SimpleNamespace:
        upper = target[:, :, : SIZE // 2]
        warped = reference[:, :, SIZE // 2 :].expand(len(upper), -1, -1, -1)
        return SimpleNamespace(upper=upper, warped=warped)

    def show(self, seen: SimpleNamespace, bottom: torch.Tensor) -> torch.Tensor:
        return torch.cat([seen.upper, bottom], dim=2).clamp(-1, 1)

    def warped(self, seen: SimpleNamespace, audio: torch.Tensor) -> torch.Tensor:
        return seen.warped

    def opening(self, upper: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        return (audio[:, WINDOW // 2, 0] + 1).clamp_min(REST)

    def audio_encoder(self, audio: torch.Tensor) -> torch.Tensor:
        return self.opening(None, audio)[:, None].repeat(1, 2)

    def say(self, seen: SimpleNamespace, audio: torch.Tensor) -> torch.Tensor:
        images = self.show(seen, seen.warped)
        level = self.opening(seen.upper, audio) * 500 / 127.5 - 1
        images[:, :, 42:50, 22:42] = level[:, None, None, None]
        return images


class Copier(Perfect):
    """Hears nothing: reads the mouth off the upper half."""

    judges = None

    def opening(self, upper: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        return (upper[:, 0, 0, 0] + 1) * 127.5 / 500


class Averager(Perfect):
    """Knows when sentences open the mouth and hears half of the rest: what shared timing alone makes of the leak."""

    def opening(self, upper: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        return (audio[:, WINDOW // 2, :2].mean(1) + 1).clamp_min(REST)


class Mute(Perfect):
    """Never moves its mouth."""

    def opening(self, upper: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        return torch.full((len(audio),), REST)


class Alone(Perfect):
    """Looks at no reference, so that none can be warped."""

    config = Perfect.config.replace({"lips.ablation": "no_reference"})


@pytest.fixture
def corpus() -> Corpus:
    return Corpus([Clip(f"c{i}", f"p{i}", seed=i) for i in range(4)])


def _evaluate(model: Perfect, corpus: Corpus, scorers: Scorers | None = None, **options) -> tuple[dict, list]:
    scorers = scorers or Scorers()
    scorers.judges = model.judges
    return evaluate_model(model, Meter(), corpus, list(corpus.clips), scorers=scorers, **options)


def test_a_perfect_model_follows_the_audio_and_leaks_nothing(corpus):
    results, _ = _evaluate(Perfect(), corpus)
    assert results["meter.truth_corr"] > 0.999
    assert results["lipformer.opening_corr_self"] > 0.99
    assert results["lipformer.opening_corr_exchanged"] > 0.99
    assert results["lipformer.opening_corr_shifted"] > 0.99
    assert results["sound_alone.opening_corr_self"] > 0.99
    assert abs(results["lipformer.leak"]) < 0.3  # what rounding to grey levels leaves correlates by chance
    assert results["lipformer.silence_motion"] < 0.01
    assert results["lipformer.mouth_psnr"] > results["copy_reference.mouth_psnr"] + 10
    assert results["lipformer.seam"] == pytest.approx(1, abs=0.05)
    assert results["ceiling.bottom_psnr"] == pytest.approx(20 * np.log10(255 / 2.6), abs=1.5)
    assert results["ceiling.psnr"] == results["codebook.psnr"] > results["ceiling.bottom_psnr"] + 2
    assert results["n_clips"] == 4 and results["n_persons"] == 4 and results["n_frames"] == 4 * FRAMES
    for key in ("lipformer.leak", "lipformer.silence_motion", "lipformer.mouth_psnr", "meter.truth_corr"):
        assert results[f"{key}.low"] <= results[key] <= results[f"{key}.high"]


def test_without_a_reference_there_is_no_warped_one(corpus):
    results, clips = _evaluate(Alone(), corpus, sheets=1)
    assert results["warped_reference.mouth_psnr"] is None and "warped" in results["warped_reference.mouth_psnr.why"]
    assert "warped_reference" not in clips[0].pictures and results["lipformer.opening_corr_self"] > 0.99


def test_a_copier_is_caught_by_the_leak_and_by_silence(corpus):
    results, _ = _evaluate(Copier(), corpus)
    assert results["lipformer.opening_corr_self"] > 0.99  # alone this looks perfect
    assert results["sound_alone.opening_corr_self"] is None
    assert "stage2.lip_supervision" in results["sound_alone.opening_corr_self.why"]
    assert results["lipformer.opening_corr_exchanged"] > 0.2  # and shared timing flatters this
    assert results["lipformer.leak"] > 0.95
    assert results["lipformer.leak_floor"] < 0.6 and results["lipformer.leak_excess"] > 0.4
    assert results["ground_truth.leak"] > 0.95
    assert results["lipformer.silence_motion"] == pytest.approx(1, abs=0.01)
    assert results["lipformer.opening_corr_shifted"] < 0.8


def test_what_shared_timing_alone_reads_is_told_apart_from_a_leak():
    """A generator that never sees the video has a leak above 0 where sentences share their timing; no excess."""
    clips = Corpus([Clip(f"c{i}", f"p{i}", seed=i) for i in range(12)])
    results, _ = _evaluate(Averager(), clips)
    assert results["lipformer.leak"] > 0.2 and results["lipformer.leak_floor"] > 0.2
    assert abs(results["lipformer.leak_excess"]) < 0.1
    assert results["lipformer.leak_excess"] == pytest.approx(
        results["lipformer.leak"] - results["lipformer.leak_floor"], abs=1e-5
    )


def test_strangers_are_neither_the_clip_nor_its_driver():
    assert strangers_of(2, 3, 6) == [4, 5, 0, 1]
    assert strangers_of(0, None, 3) == [1, 2]
    assert strangers_of(0, 1, 2) == []
    assert len(strangers_of(0, 1, 100)) == 10


class Lips:
    """In the place of the landmark network: 68 points whose lips are as far apart as the bar is bright."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.stack([face_landmarks((32, 20), 20, opening) for opening in Meter().read(images)[:, 0]])


def test_the_baseline_is_judged_by_the_very_rules_of_lipformers_row(corpus):
    """A copier beside a perfect model has in its row what it would have in LipFormer's, and changes nothing there."""
    alone, beside = Scorers(landmarks=Lips()), Scorers(landmarks=Lips(), wav2lip=Copier())
    perfect, _ = _evaluate(Perfect(), corpus, scorers=Scorers(landmarks=Lips()))
    copier, _ = _evaluate(Copier(), corpus, scorers=alone)
    both, clips = _evaluate(Perfect(), corpus, scorers=beside)
    figures = [key for key in copier if key.startswith("lipformer.") and "generate_fps" not in key]
    assert {"lipformer.leak", "lipformer.lmd", "lipformer.silence_motion", "lipformer.leak_excess"} <= set(figures)
    assert both["wav2lip.leak"] > 0.95 and abs(both["lipformer.leak"]) < 0.3
    assert both["lipformer.lmd"] < 0.1 < both["copy_reference.sharpness"]
    for key in figures:
        assert both[key] == perfect[key], key
        assert both[key.replace("lipformer", "wav2lip")] == copier[key], key
    assert {"wav2lip", "wav2lip_exchanged"} <= set(clips[0].series) and "wav2lip" in clips[0].pictures


def test_a_mute_model_scores_zero_and_not_nothing(corpus):
    results, _ = _evaluate(Mute(), corpus)
    assert results["lipformer.opening_corr_self"] == 0
    assert results["lipformer.leak"] == 0
    assert results["sound_alone.opening_corr_self"] == 0
    assert results["lipformer.silence_motion"] is None and "does not move" in results["lipformer.silence_motion.why"]


class Half(Perfect):
    """Opens the mouth half as far as it hears, and paints it smooth."""

    def opening(self, upper: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        return super().opening(upper, audio) / 2

    def say(self, seen: SimpleNamespace, audio: torch.Tensor) -> torch.Tensor:
        images = super().say(seen, audio)
        images[:, :, SIZE // 2 : 42] = images[:, :, SIZE // 2 : 42].mean((2, 3), keepdim=True)
        return images


class Stranger(Perfect):
    """Shows what has nothing to do with the face: the brightest where the true bottom half is dark."""

    def say(self, seen: SimpleNamespace, audio: torch.Tensor) -> torch.Tensor:
        half = seen.warped.new_tensor([1.0, -1.0]).repeat(SIZE // 2).expand(seen.warped.shape)
        return torch.cat([-half, half], dim=2)


def test_motion_and_sharpness_are_shares_of_the_truths(corpus):
    results, clips = _evaluate(Half(), corpus)
    true = np.mean([clip.opening.std() for clip in corpus.clips.values()])
    assert results["ground_truth.motion"] == results["ground_truth.sharpness"] == 1
    assert results["lipformer.motion"] == pytest.approx(
        np.mean([clip.series["lipformer"].std() for clip in clips]) / true, abs=0.02
    )
    assert results["lipformer.motion"] == pytest.approx(0.5, abs=0.03)
    assert results["copy_reference.motion"] < 0.01
    assert results["lipformer.sharpness"] < 0.9 < results["copy_reference.sharpness"]
    assert results["lipformer.motion.low"] <= results["lipformer.motion"] <= results["lipformer.motion.high"]


@pytest.mark.parametrize("model", [Perfect(), Copier(), Half(), Mute(), Stranger()])
def test_no_row_beats_the_ground_truth(corpus, model):
    """Whatever a model does, the film itself is best in every column in which it stands."""
    results, _ = _evaluate(model, corpus)
    best = {"motion": 1.0, "sharpness": 1.0, "seam": 1.0}  # columns in which nearest to the truth is best
    for row in ("ceiling", "copy_reference", "warped_reference", "lipformer"):
        assert results[f"{row}.psnr"] <= ROUNDING_PSNR + 1e-9 and results[f"{row}.ssim"] <= 1 + 1e-9
        correlation = results.get(f"{row}.opening_corr_self")
        assert correlation is None or correlation <= results["ground_truth.opening_corr_self"] + 1e-3
        for column, wanted in best.items():
            assert abs(results[f"ground_truth.{column}"] - wanted) <= abs(results[f"{row}.{column}"] - wanted)


def test_what_has_nothing_to_do_with_the_face_is_below_12_db(corpus):
    results, _ = _evaluate(Stranger(), corpus)
    for column in ("psnr", "bottom_psnr", "mouth_psnr"):
        assert results[f"lipformer.{column}"] < 12
    assert abs(results["lipformer.opening_corr_self"]) < 0.5


def test_one_clip_gives_no_exchange_and_says_why(corpus):
    results, clips = evaluate_model(Perfect(), Meter(), corpus, ["c1"])
    assert clips[0].partner is None
    assert results["lipformer.opening_corr_exchanged"] is None and results["lipformer.opening_corr_exchanged.why"]
    assert results["lipformer.opening_corr_self"] > 0.99
    assert results["lipformer.opening_corr_self.low"] is None


def test_frames_without_a_face_count_nowhere():
    clips = [Clip(f"c{i}", f"p{i}", seed=i) for i in range(3)]
    clips[1].valid[5:12] = False
    clips[1].images[5:12], clips[1].opening[5:12] = 0, 0.9
    clips[2].valid[4:] = False
    results, scores = _evaluate(Perfect(), Corpus(clips))
    assert results["n_clips"] == 2 and results["n_skipped"] == 1 and "c2" in results["skipped"]
    assert results["n_frames"] == 2 * FRAMES - 7
    assert results["lipformer.opening_corr_self"] > 0.99
    assert len(scores[1].series["truth"]) == FRAMES - 7


def lender(clip) -> int:
    """The one frame that lends in an evaluated clip."""
    (index,) = Puppet(Perfect(), clip, torch.device("cpu")).lent
    return index


def test_reference_is_half_open_frontal_and_never_a_grey_frame():
    clip = Clip("c", "p", seed=1)
    clip.pose[:] = 30
    clip.pose[[0, 20]] = 0
    clip.opening[[0, 20]] = np.median(clip.opening)
    clip.opening[10], clip.pose[10] = 0.3, 0  # frontal, but wide open
    clip.opening[12], clip.pose[12] = 0, 0  # frontal, but closed
    clip.images[0] = 128  # half open and frontal, but grey
    assert lender(clip) == 20
    clip.valid[20] = False
    chosen = lender(clip)
    least, most_open = np.quantile(clip.opening[clip.valid], [0.35, 0.65])
    assert clip.valid[chosen] and least <= clip.opening[chosen] <= most_open
    clip.images[:] = 128
    with pytest.raises(NoFaceFound, match="uniform"):
        lender(clip)


def test_exchange_prefers_another_person():
    persons = ["a", "a", "b", "b"]
    assert [exchange_partner(i, persons) for i in range(4)] == [2, 2, 0, 0]
    assert exchange_partner(0, ["a", "a"]) == 1
    assert exchange_partner(0, ["a"]) is None


def test_report_is_complete_and_says_what_is_missing(corpus, tmp_path):
    scorers = Scorers(missing={"lipformer.lpips": "not available: alexnet"})
    for clip in corpus.clips.values():
        clip.pose[::3, 0], clip.pose[1::3, 0], clip.pose[2::3, 0] = 0, -15, 30
    results, clips = _evaluate(Perfect(), corpus, scorers=scorers, sheets=1)
    yaws = [results[f"copy_reference.mouth_psnr_yaw_{name}"] for name in ("0_10", "10_20", "20_up")]
    assert min(yaws) <= results["copy_reference.mouth_psnr"] <= max(yaws)
    written = write_report(tmp_path, results, clips)
    assert written["lipformer.lpips"] is None and "alexnet" in written["lipformer.lpips.why"]
    names = {"results.json", "table.csv", "summary.md", "series.npz", "sheet_0.png", "strip_0.png", "opening_0.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 1 + len(clips)
    assert "PSNR mouth, yaw above 20°" in (tmp_path / "summary.md").read_text()
    table = summary_table(results)
    assert "LipFormer" in table and "4 clips of 4 people" in table and "LPIPS" not in table


def test_results_do_not_depend_on_the_run(corpus):
    first, second = (_evaluate(Perfect(), corpus)[0] for _ in range(2))
    for results in (first, second):
        for key in [key for key in results if "fps" in key]:
            del results[key]
    assert first == second


class BarExpert(torch.nn.Module):
    """A sync expert that knows the toy: opening over time, drawn as a bar and heard as the mel."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = torch.nn.Parameter(torch.zeros(()))

    def embed_faces(self, seen: torch.Tensor) -> torch.Tensor:
        bar = (seen[:, :, :, 16:22].amax(3).mean((2, 3)) + 1) * 127.5 / 500  # (B, 5) about the opening
        return torch.nn.functional.normalize(bar - bar.mean(1, keepdim=True), dim=-1)

    def embed_sounds(self, sounds: torch.Tensor) -> torch.Tensor:
        heard = sounds[:, [8, 12, 16, 20, 24], 0] + 1
        return torch.nn.functional.normalize(heard - heard.mean(1, keepdim=True), dim=-1)


def test_the_sync_expert_judges_rows_by_the_sound_that_drives_them(corpus):
    for clip in corpus.clips.values():
        clip.images[:, 44:50] = clip.images[:, 42:43, 22:23]  # nothing but the bar
        clip.images[:, 32:44] = clip.images[:, 42:43, 22:23]
    results, clips = _evaluate(Perfect(), corpus, scorers=Scorers(sync=BarExpert()))
    assert results["ground_truth.sync_expert_distance"] < 0.05
    assert results["copy_reference.sync_expert_distance"] > 0.5
    assert results["lipformer.sync_expert_distance_exchanged"] < results["copy_reference.sync_expert_distance"]
    assert results["ground_truth.sync_expert_confidence"] > results["copy_reference.sync_expert_confidence"]
    gapped = Clip("gap", "p9", seed=9)
    gapped.valid[::4] = False  # no five frames in a row
    results, _ = _evaluate(Perfect(), Corpus([gapped]), scorers=Scorers(sync=BarExpert()))
    assert "long enough" in results["ground_truth.sync_expert_distance.why"]
    assert "sync_expert_distance" not in " ".join(_evaluate(Perfect(), corpus)[0])


class Original:
    """In the place of SyncNet and its detector: the bar's brightness against the sound's loudness, as openings."""

    def detect(self, images: np.ndarray) -> np.ndarray:
        return np.tile([8.0, 10, 56, 58], (len(images), 1))

    def embed_lips(self, crops: np.ndarray) -> np.ndarray:
        side = 224 / 1.4 / 48  # pixels of SyncNet's crop to one of ours, whose rows 44 to 48 the bar has for certain
        rows = slice(round(34 * side), round(38 * side))
        level = crops[:, rows, 105:120].mean((1, 2, 3)) / 500
        return np.lib.stride_tricks.sliding_window_view(level, 5)

    def embed_sounds(self, sound: np.ndarray) -> np.ndarray:
        level = sound.reshape(-1, 640).mean(1) / 1e4
        return np.lib.stride_tricks.sliding_window_view(level, 5)[:-1]


class Brightness:
    """In the place of the recognition network: how bright each third of the face is."""

    def embed(self, images: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        found = np.stack([part.mean((1, 2, 3)) for part in np.split(images[:, 1:], 3, axis=1)], 1)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


class Late(Perfect):
    """Says everything ten frames too late."""

    def opening(self, upper: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        return super().opening(upper, audio).roll(10)


class Random(Perfect):
    """Says what a sound would say that nobody gave it."""

    def opening(self, upper: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        return REST + 0.2 * torch.rand(len(audio), generator=torch.Generator().manual_seed(len(audio)))


def test_sound_ten_frames_late_lowers_every_score_and_a_strangers_gives_none(corpus, monkeypatch):
    monkeypatch.setattr("lipformer_core.evaluation.clip_judge.BATCH", FRAMES)
    scorers = {"lse": Original(), "sync": BarExpert(), "identity": Brightness()}
    timely, late, random = (_evaluate(m, corpus, Scorers(**scorers))[0] for m in (Perfect(), Late(), Random()))
    assert timely["lipformer.opening_corr_self"] > 0.99
    assert abs(random["lipformer.opening_corr_self"]) < 0.3 and abs(late["lipformer.opening_corr_self"]) < 0.6
    assert random["lipformer.lse_c"] < 0.5 * timely["lipformer.lse_c"]  # which looks 15 frames to either side
    for worse in (late, random):
        assert worse["lipformer.sync_expert_confidence"] < timely["lipformer.sync_expert_confidence"]
    for results in (timely, late, random):  # and no row beats the film in any of these columns
        for row in ("lipformer", "copy_reference", "warped_reference"):
            assert results[f"{row}.lse_d"] >= results["ground_truth.lse_d"] - 1e-3
            assert results[f"{row}.lse_c"] <= results["ground_truth.lse_c"] + 1e-3
            assert results[f"{row}.identity_distance"] >= 0
        assert results["ceiling.identity_distance"] < results["copy_reference.identity_distance"] + 1e-9


def test_a_run_without_a_sync_expert_says_how_to_get_one(tmp_path):
    from lipformer_core.evaluation.protocol import open_scorers

    missing = open_scorers(tmp_path, torch.device("cpu"), landmark_check=False).missing
    assert "lipformer train sync" in missing["lipformer.sync_expert_distance"]
    assert "lipformer train sync" in missing["sync_expert.two_sounds_shifted"]


def _brightness(corpus: object, folder: object, **_: object) -> SimpleNamespace:
    """In the place of the mouth meter: the folder it is kept in, and readings that cost nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    return SimpleNamespace(read=lambda images: np.repeat(images.mean((1, 2, 3))[:, None] / 500, 2, axis=1))


def test_the_meter_is_kept_beside_the_data_and_never_in_the_run(tiny_run, tiny_corpus, tmp_path, monkeypatch):
    import os

    monkeypatch.setattr(protocol, "train_meter", _brightness)
    data = tmp_path / "data"
    shutil.copytree(tiny_corpus, data)
    before = sorted(tiny_run.rglob("*"))
    protocol.evaluate(tiny_run, data, tmp_path / "out", max_clips=1, progress=False)
    assert (data / "mouth_meter").is_dir() and sorted(tiny_run.rglob("*")) == before
    (data / "mouth_meter").rmdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != data)
    protocol.evaluate(tiny_run, data, tmp_path / "out", max_clips=1, progress=False)
    assert (tmp_path / "out/mouth_meter").is_dir() and not (data / "mouth_meter").exists()


def test_the_same_command_twice_gives_the_same_numbers(tiny_run, tiny_corpus, tmp_path, monkeypatch):
    """The mouth meter trained anew included; with another number of threads, to two digits."""
    monkeypatch.setattr(protocol, "train_meter", partial(protocol.train_meter, steps=30))
    threads, results = torch.get_num_threads(), []
    for data, count in (("data", threads), ("copy", threads), ("data", threads + 1)):
        if not (tmp_path / data).exists():
            shutil.copytree(tiny_corpus, tmp_path / data)
        arguments = ["evaluate", "--run", tiny_run, "--data", tmp_path / data, "--out", tmp_path / "out", "--quiet"]
        torch.set_num_threads(count)
        try:
            done = CliRunner().invoke(app, [str(word) for word in arguments])
        finally:
            torch.set_num_threads(threads)
        assert done.exit_code == 0, done.output
        found = json.loads((tmp_path / "out/results.json").read_text())
        results.append({key: value for key, value in found.items() if "generate_fps" not in key})
    assert (tmp_path / "out/exchange.png").is_file()
    film = tmp_path / "out/film_exchanged_sound.mp4"
    assert [frame.shape for _, frame in iter_frames(film)] == [(32, 64, 3)] * 16
    assert np.abs(np.concatenate(list(iter_audio(film)), 1)).max() > 0.01
    with av.open(str(film)) as container:
        assert container.metadata["comment"].startswith("Synthetic media")
    first, second, threaded = results
    assert len(first) > 100 and first == second
    numbers = {key: value for key, value in first.items() if isinstance(value, float)}
    assert {key: threaded[key] for key in numbers} == pytest.approx(numbers, abs=5e-3)


def test_without_a_run_the_weights_shipped_are_judged_and_want_crops_of_their_own(tiny_corpus, tmp_path):
    from lipformer_core.evaluation.protocol import evaluate

    with pytest.raises(DataError, match="--set data.size=256"):
        evaluate(None, tiny_corpus, tmp_path / "out", progress=False)


def test_a_run_with_a_sync_expert_is_judged_by_it(tiny_run, tiny_config, tiny_corpus, tmp_path, monkeypatch):
    from lipformer_core.training.sync import train_sync

    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    config = tiny_config.replace(sync={"steps": 2, "batch": 3})
    train_sync(config, tiny_corpus, run, progress=False)
    monkeypatch.setattr(protocol, "train_meter", lambda corpus, folder, **_: _brightness(corpus, tmp_path / "meter"))
    results = protocol.evaluate(run, tiny_corpus, tmp_path / "out", progress=False)
    for key in ("lipformer.sync_expert_distance", "ground_truth.sync_expert_confidence"):
        assert results[key] is None and "long enough" in results[f"{key}.why"]  # clips of 16 frames
    assert "fewer than two clips" in results["sync_expert.two_sounds_shifted.why"]
    assert (tmp_path / "out/summary.md").is_file()
