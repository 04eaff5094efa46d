"""The weights that come with the package: small, described, loaded by default, and able to move a mouth.

The golden figures are those of these weights by this code; the bounds are what another machine's rounding or another
reference frame may move them by. Whoever changes the weights measures them anew; anybody else has broken the lips.
"""

import csv
import json
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import lipformer_core as lf
from lipformer_core import checkpoint
from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.data.prepared.prepare import prepare
from lipformer_core.errors import CheckpointError
from lipformer_core.evaluation.cases import Puppet
from lipformer_core.evaluation.clip_judge import Scorers
from lipformer_core.evaluation.mouth_meter import bottom_halves
from lipformer_core.evaluation.protocol import evaluate_model
from lipformer_core.training.lipformer import Trained
from papermill_runs.shipped import halve

CARD = (checkpoint.SHIPPED / "README.md").read_text()
RIDGE = 3.0
PEOPLE = {  # two synthetic persons: figure and how far it may be off
    "ground_truth.opening_corr_self": (0.967, 0.02),
    "sound_alone.opening_corr_self": (0.959, 0.03),
    "lipformer.opening_corr_self": (0.833, 0.06),
    "lipformer.opening_corr_exchanged": (0.690, 0.08),
    "lipformer.leak": (0.17, 0.20),
    "lipformer.silence_motion": (0.42, 0.15),
    "lipformer.motion": (0.848, 0.15),
    "lipformer.sharpness": (0.77, 0.05),
    "lipformer.mouth_psnr": (23.4, 1.0),
    "ceiling.mouth_psnr": (28.9, 0.7),
}
STRANGER = {  # one clip of GRID's person b
    "ground_truth.opening_corr_self": (0.970, 0.02),
    "sound_alone.opening_corr_self": (0.892, 0.06),
    "lipformer.opening_corr_self": (0.819, 0.10),
    "lipformer.silence_motion": (0.12, 0.10),
    "lipformer.motion": (0.59, 0.15),
    "lipformer.sharpness": (0.920, 0.10),
    "lipformer.mouth_psnr": (28.4, 1.0),
    "ceiling.mouth_psnr": (34.0, 0.7),
}


class Ridge:
    """Opening and width of the lips as a linear function of pixels, fitted on the films themselves.

    Needs no training as the mouth meter does, and gives the same numbers everywhere.
    """

    def __init__(self, clips: Iterable) -> None:
        clips = list(clips)
        frames = [np.flatnonzero(clip.valid) for clip in clips]
        pixels = np.concatenate([self._pixels(clip.frames(k)) for clip, k in zip(clips, frames, strict=True)])
        lips = np.concatenate([np.stack([c.opening, c.width], 1)[k] for c, k in zip(clips, frames, strict=True)])
        self.mean, self.lips = pixels.mean(0), lips.mean(0)
        pixels = pixels - self.mean
        gram = pixels.T @ pixels + RIDGE * np.eye(pixels.shape[1])
        self.map = np.linalg.solve(gram, pixels.T @ (lips - self.lips))

    @staticmethod
    def _pixels(images: np.ndarray) -> np.ndarray:
        return torch.nn.functional.avg_pool2d(bottom_halves(images), 4).flatten(1).double().numpy()

    def read(self, images: np.ndarray) -> np.ndarray:
        return (self._pixels(images) - self.mean) @ self.map + self.lips


class Damped:
    """A model whose lips move half as far: halfway between what it says and what it shows in silence."""

    def __init__(self, model: torch.nn.Module, silence: np.ndarray) -> None:
        self.model, self.silence = model, torch.from_numpy(silence)

    def __getattr__(self, name: str) -> object:
        return getattr(self.model, name)

    def say(self, seen: object, audio: torch.Tensor) -> torch.Tensor:
        return (self.model.say(seen, audio) + self.model.say(seen, self.silence.expand_as(audio))) / 2


def _off(results: Mapping[str, object], golden: Mapping[str, tuple[float, float]]) -> list[str]:
    """Which figures are out of their bounds."""
    found = {key: (results[key], *golden[key]) for key in golden}
    return [f"{k}: {v}, not {w} within {b}" for k, (v, w, b) in found.items() if v is None or abs(v - w) > b]


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A prepared corpus with two synthetic persons in its test split, who trained nothing."""
    folder = tmp_path_factory.mktemp("people")
    config = lf.load().config.replace({"data.synthetic.persons": [1, 1, 2]})
    prepare("synthetic", None, folder, config, workers=1, progress=False)
    return PreparedCorpus(folder)


def _judged(model: object, corpus: PreparedCorpus, clips: int | None = None, **options: object) -> dict[str, object]:
    ids = [info.clip_id for info in corpus.clips("test")][:clips]
    scorers = Scorers(judges=Trained.load(None).judges)
    return evaluate_model(model, Ridge(map(corpus.open, ids)), corpus, ids, scorers=scorers, sheets=0, **options)[0]


def test_small_enough_to_clone():
    files = [path for path in checkpoint.SHIPPED.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"README.md", "model.safetensors", "model.json", "log.csv"}
    assert sum(path.stat().st_size for path in files) <= 30e6


def test_a_run_is_handed_on_with_half_the_bytes_and_the_same_pictures(tiny_run, tmp_path):
    halve(tiny_run, tmp_path / "small")
    pictures = []
    for run in (tiny_run, tmp_path / "small"):
        model = lf.load(run)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        torch.manual_seed(0)
        face = torch.rand(1, 3, 32, 32) * 2 - 1
        pictures.append(model.reconstruct(face))
        assert Trained.load(run).judges is not None and checkpoint.load_codebook(run) is not None
    torch.testing.assert_close(*pictures, atol=0.02, rtol=0)
    sizes = [(run / "lipformer/model.safetensors").stat().st_size for run in (tiny_run, tmp_path / "small")]
    assert sizes[1] < 0.6 * sizes[0]
    with pytest.raises(CheckpointError, match="finished"):
        halve(tmp_path, tmp_path / "none")
    header, tensors = checkpoint.load(tiny_run / "codebook/model.safetensors")
    tensors[next(iter(tensors))].fill_(1e6)
    (tmp_path / "loud/codebook").mkdir(parents=True)
    save_file(tensors, tmp_path / "loud/codebook/model.safetensors", {"header": json.dumps(header)})
    with pytest.raises(CheckpointError, match="beyond what 16 bits hold"):
        halve(tmp_path / "loud", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_card_says_what_it_is_of_these_very_weights():
    header = checkpoint.header_of(checkpoint.SHIPPED, "lipformer")
    assert checkpoint.fingerprint(lf.load())[:12] in CARD
    assert f"seed {header['seed']}" in CARD and header["data_hash"][:12] in CARD
    for heading in ("Data and licences", "Training", "Measured", "Limits", "Intended use", "Misuse"):
        assert f"# {heading}\n" in CARD
    assert "CC BY 4.0" in CARD and "Cooke" in CARD


def test_only_the_given_run_or_the_shipped_one_is_loaded(tiny_run):
    assert checkpoint.fingerprint(lf.load(tiny_run)) != checkpoint.fingerprint(lf.load())
    assert Path(checkpoint.SHIPPED).parent == Path(lf.__file__).parent


def test_the_mouth_of_people_it_never_saw_leaves_its_rest_as_far_as_they_open_it(people):
    model = lf.load()
    half = model.config.data.size // 2
    middle = slice(half + half // 4, half + 3 * half // 4), slice(half // 2, half + half // 2)
    agreement = []
    for info in people.clips("test"):
        clip, frames = people.open(info.clip_id), np.arange(info.n_frames)
        puppet, truth = Puppet(model, clip, torch.device("cpu")), clip.frames(frames)
        sounds = puppet.sound(clip, frames), puppet.silence(len(frames))
        seen = puppet.look(truth, frames)
        spoken, rest = (puppet.say(seen, sound)[:, *middle].astype(float) for sound in sounds)
        moved = np.abs(spoken - rest).mean((1, 2, 3))
        agreement.append(np.corrcoef(moved, clip.opening)[0, 1])
    assert min(agreement) > 0.5


def test_bfloat16_changes_little_and_brings_no_flicker(people, monkeypatch):
    model, corpus = lf.load(device="cpu"), people
    clip = corpus.open(corpus.clips("test")[0].clip_id)
    frames, mouth = np.flatnonzero(clip.valid)[:32], np.s_[:, 138:240, 66:190]
    still = np.repeat(clip.frames(frames[:1]), len(frames), 0)
    shown = {}
    for name, context in {"float32": nullcontext, "bfloat16": lambda: torch.autocast("cpu", torch.bfloat16)}.items():
        monkeypatch.setattr("lipformer_core.speaker.fast", lambda device, context=context: context())
        puppet = Puppet(model, clip)
        sound, silence = puppet.sound(clip, frames), puppet.silence(len(frames))
        cases = {"film": (clip.frames(frames), sound), "still": (still, sound), "silent": (still, silence)}
        for case, (crops, heard) in cases.items():
            parts = [slice(0, 16), slice(16, 26), slice(26, 32)]  # batches of several sizes
            said = [puppet.dub(crops[part], frames[part], heard[part]) for part in parts]
            shown[case, name] = np.concatenate(said)[mouth].astype(float)
    for case in ("film", "still"):
        full, half = shown[case, "float32"], shown[case, "bfloat16"]
        assert 10 * np.log10(255**2 / np.square(full - half).mean()) > 33
        motion = [np.abs(np.diff(video, axis=0)).mean() for video in (full, half)]
        assert motion[1] == pytest.approx(motion[0], rel=0.05)
    for name in ("float32", "bfloat16"):
        assert np.abs(np.diff(shown["silent", name], axis=0)).mean() < 0.05


@pytest.fixture(scope="module")
def judged(people):
    """What the protocol says of the shipped weights on those two."""
    return _judged(lf.load(), people)


def test_golden_figures_of_two_synthetic_persons(judged):
    assert not _off(judged, PEOPLE)
    assert judged["lipformer.mouth_psnr"] > judged["copy_reference.mouth_psnr"] + 3


def test_the_film_itself_is_best_in_every_column_and_leaks_its_own_mouth(judged):
    for row in ("ceiling", "copy_reference", "warped_reference", "lipformer"):
        # or equal: two readings of one mouth differ by the meter's own error
        assert judged.get(f"{row}.opening_corr_self", 0) <= judged["ground_truth.opening_corr_self"] + 0.01
        for column in ("motion", "sharpness", "seam"):  # nearest to 1 is best
            assert abs(judged[f"ground_truth.{column}"] - 1) <= abs(judged[f"{row}.{column}"] - 1), (row, column)
        assert judged[f"{row}.mouth_psnr"] < 40 and judged[f"{row}.ssim"] < 1
    assert judged["ground_truth.leak"] >= 0.8, "under another's sound the film is a perfect copier"
    assert judged["ground_truth.opening_corr_exchanged"] < judged["lipformer.opening_corr_exchanged"] - 0.3


def test_sound_that_is_late_or_shuffled_moves_the_mouth_elsewhere(people):
    """Against the opening that was filmed: the own sound, the same 10 frames later, and its windows in any order."""
    clips = [people.open(info.clip_id) for info in people.clips("test")]
    meter, model, rng = Ridge(clips), lf.load(), np.random.default_rng(0)
    corr = {"own": [], "late": [], "shuffled": []}
    for clip in clips:
        frames = np.flatnonzero(clip.valid)
        puppet, truth = Puppet(model, clip, torch.device("cpu")), clip.frames(frames)
        seen, own = puppet.look(truth, frames), puppet.sound(clip, frames)
        sounds = {"own": own, "late": puppet.sound(clip, frames - 10), "shuffled": rng.permutation(own)}
        for name, sound in sounds.items():
            corr[name].append(np.corrcoef(meter.read(puppet.say(seen, sound))[:, 0], clip.opening[frames])[0, 1])
    own, late, shuffled = (np.mean(values) for values in corr.values())
    assert own > 0.75 and late < own - 0.4 and abs(shuffled) < 0.25


def test_lips_that_move_half_as_far_are_out_of_bounds(people):
    model = lf.load()
    clip = people.open(people.clips("test")[0].clip_id)
    results = _judged(Damped(model, clip.silence(model.config.audio)[None]), people, clips=1, shift=0)
    assert any("lipformer.motion" in line for line in _off(results, PEOPLE))


def test_golden_figures_of_a_filmed_stranger(clips_folder, weights_folder, tmp_path):
    """GRID's person b, who trained nothing."""
    config = lf.load().config.replace({"data.correct_offset": True})
    with (tmp_path / "list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows([("file", "person", "split"), (clips_folder / "grid_lbax4n.mp4", "b", "test")])
    prepare("list", tmp_path / "list.csv", tmp_path / "data", config, workers=1, progress=False)
    assert not _off(_judged(lf.load(), PreparedCorpus(tmp_path / "data")), STRANGER)
