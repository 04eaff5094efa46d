"""What notebooks show and measure beyond the evaluation's report."""

import json

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from lipformer_core.checkpoint import load_codebook, load_lipformer
from lipformer_core.data.faces.tracking import load_track
from lipformer_core.data.media import iter_frames, probe, read_audio
from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.data.prepared.example import held_out_example, write_clip
from lipformer_core.data.prepared.summary import YAW_BINS, by_yaw, counts, pooled, portraits
from lipformer_core.data.synthetic import synthesise_clip
from lipformer_core.errors import ConfigError, DataError
from lipformer_core.evaluation.codebook import code_maps, judge_codebook, judge_run, reconstructions
from lipformer_core.evaluation.showcase import frozen_parts, open_and_closed, overview, soft_codes
from lipformer_core.evaluation.warping import (
    WarpingErrors,
    endpoint_errors,
    pose_gap,
    sample_pairs,
    warping_errors,
    warping_pictures,
    widest_pair,
)
from lipformer_core.figures import charts, plots
from lipformer_core.model.ours.warping import NoWarping
from lipformer_core.model.warping import identity_grid
from lipformer_core.paths import work_folder
from lipformer_core.results import flat
from lipformer_core.widgets import save_upload


@pytest.fixture(scope="module")
def data(tiny_corpus):
    return PreparedCorpus(tiny_corpus)


@pytest.fixture(scope="module")
def model(tiny_run):
    return load_lipformer(tiny_run)


def test_work_folder_prefers_what_it_is_told(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.delenv("LIPFORMER_WORK", raising=False)
    assert work_folder("", "quick") == tmp_path / "runs" / "quick"
    monkeypatch.setenv("LIPFORMER_WORK", str(tmp_path / "named"))
    assert work_folder("", "quick") == tmp_path / "named"
    assert work_folder(tmp_path / "told", "quick") == tmp_path / "told"
    assert (tmp_path / "told").is_dir()


def test_written_clip_is_the_clip(tmp_path):
    clip = synthesise_clip(0, 3, 0, 12, 64)
    files = write_clip(clip, tmp_path / "new")
    frames = np.stack([frame for _, frame in iter_frames(files.video)])
    assert frames.shape == clip.frames.shape
    assert np.abs(frames.astype(int) - clip.frames).mean() < 6
    np.testing.assert_allclose(read_audio(files.audio), np.clip(clip.audio, -1, 1), atol=1e-4)
    np.testing.assert_array_equal(load_track(files.landmarks).landmarks, clip.landmarks)
    assert probe(files.video).has_audio


def test_example_of_the_synthetic_corpus_is_two_held_out_persons(tiny_config, tmp_path):
    example = held_out_example("synthetic", None, tiny_config.data, tmp_path)
    first_test = sum(tiny_config.data.synthetic.persons[:2])
    assert f"_{first_test:04d}_" in example.video.name
    assert f"_{first_test + 1:04d}_" in example.audio.name
    with pytest.raises(DataError, match="needs a folder"):
        held_out_example("folder", tmp_path / "none", tiny_config.data, tmp_path)


def test_summary_counts_and_pools(data, tiny_config):
    amounts, embedded = counts(data), tiny_config.data.synthetic
    assert amounts["train"].persons == embedded.persons[0]
    assert amounts["test"].frames == embedded.persons[2] * embedded.frames[1]
    assert pooled(data, "test", "pose").shape == (amounts["test"].valid, 3)
    assert portraits(data, "test", 5).shape == (2, 32, 32, 3)


def test_frames_by_yaw_are_of_everybody_and_in_their_bin(data):
    clips = [data.open(info.clip_id) for split in ("train", "val", "test") for info in data.clips(split)]
    yaw = {clip.landmarks[i].tobytes(): abs(clip.pose[i, 0]) for clip in clips for i in np.flatnonzero(clip.valid)}
    groups = by_yaw(data, 10**6)
    for name, (low, high) in YAW_BINS.items():
        images, points = groups.get(name, ([], []))
        assert len(images) == len(points) == sum(low <= angle < high for angle in yaw.values())
        assert all(low <= yaw[p.tobytes()] < high for p in points)
    name, (images, points) = next(iter(by_yaw(data, 1).items()))
    shown = {p.tobytes() for p in points}
    own = [{clip.landmarks[i].tobytes() for i in np.flatnonzero(clip.valid)} for clip in clips]  # a clip a person
    low, high = YAW_BINS[name]
    assert all((len(shown & o) == 1) == any(low <= yaw[k] < high for k in o) for o in own)


def test_codebook_scores_count_every_token(data, tiny_run, tiny_config):
    autoencoder = load_codebook(tiny_run)
    scores = judge_codebook(autoencoder, data)
    rows, columns = tiny_config.token_grid
    for counted in scores.counts.values():
        assert counted.sum() == scores.n_frames * rows * columns
    assert scores.n_frames == counts(data)["test"].valid
    assert {"codebook.psnr", "codebook.ssim", "codebook.upper_usage", "codebook.bottom_usage"} <= set(scores.results())
    with pytest.raises(DataError, match="split"):
        judge_codebook(autoencoder, data, "nowhere")


def test_codebook_alone_is_judged_into_a_folder(data, tiny_run, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    results = judge_run(tiny_run, data.folder, tmp_path, device="cpu")
    assert "reconstruct: 100%" in capsys.readouterr().err
    assert json.loads((tmp_path / "codebook.json").read_text()) == results
    shares = []
    for info in data.clips("test"):
        truth = data.open(info.clip_id).frames(info.valid_frames)
        seen = reconstructions(load_codebook(tiny_run), truth)
        steps = [
            np.diff(x[:, data.crop_size // 2 :].astype(float), axis=axis) for x in (seen, truth) for axis in (2, 1)
        ]
        across, down, true_across, true_down = [np.square(step).mean() for step in steps]
        shares.append((across + down) / (true_across + true_down))
    assert results["codebook.sharpness"] == pytest.approx(np.mean(shares))
    assert judge_run(tiny_run, data.folder, tmp_path, max_clips=1, device="cpu")["codebook.n_clips"] == 1
    capsys.readouterr()
    judge_run(tiny_run, data.folder, tmp_path, device="cpu", progress=False)
    assert capsys.readouterr().err == ""
    size, count = data.crop_size, min(8, len(data.clips("test")))
    assert imread(tmp_path / "codebook.png").shape[:2] == (2 * size, count * size)


def test_code_maps_show_equal_codes_alike(data, tiny_run, tiny_config):
    autoencoder = load_codebook(tiny_run)
    faces = portraits(data, "test", 2)
    maps, side = code_maps(autoencoder, faces), tiny_config.codebook.downsampling
    assert maps.shape == faces.shape == reconstructions(autoencoder, faces).shape
    assert (maps[:, :side, :side] == maps[:, :1, :1]).all()  # one token, one colour
    np.testing.assert_array_equal(maps[0], code_maps(autoencoder, faces[:1])[0])


def test_pairs_are_apart_valid_and_repeatable(data):
    clip = data.open(data.clips("test")[0].clip_id)
    pairs = sample_pairs(clip, 10, seed=1)
    np.testing.assert_array_equal(pairs, sample_pairs(clip, 10, seed=1))
    assert (np.abs(pairs[:, 0] - pairs[:, 1]) >= 4).all()
    assert len(np.unique(pairs, axis=0)) == len(pairs) == 10
    target, reference = widest_pair(clip)
    gaps = [pose_gap(clip.pose, a, b) for a in range(clip.info.n_frames) for b in range(clip.info.n_frames)]
    assert pose_gap(clip.pose, target, reference) == pytest.approx(max(gaps))


def test_a_warping_that_does_nothing_has_ratio_one(data, tiny_run):
    still = load_lipformer(tiny_run)
    for parameter in still.warping.displace[-1].parameters():
        torch.nn.init.zeros_(parameter)
    errors = warping_errors(still, data)
    np.testing.assert_allclose(errors.warped, errors.plain, rtol=1e-4)
    np.testing.assert_allclose(errors.warped_rigid, errors.plain_rigid, rtol=1e-4)
    warped, identity = endpoint_errors(still, data)
    np.testing.assert_allclose(warped, identity, atol=1e-3)


def test_endpoint_error_of_the_true_grid_is_zero(data, tiny_run, monkeypatch):
    """The head shifted in the picture without turning: alignment takes it out, so the identity is the truth."""
    model = load_lipformer(tiny_run)
    clip_id = data.clips("test")[0].clip_id
    clip = data.open(clip_id)
    rows, columns = model.config.token_grid
    monkeypatch.setattr(type(model.warping), "grid", lambda self, *seen: identity_grid(rows, columns))
    from lipformer_core.evaluation.warping import _endpoints

    size = data.manifest["settings"]["synthetic"]["size"]
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    moved = np.array([2.0, 1.0])
    monkeypatch.setitem(clip.arrays, "transforms", clip.transforms.copy())
    clip.transforms[1] = clip.transforms[0]
    clip.transforms[1][:, 2] -= clip.transforms[0][:, :2] @ moved
    read, own = _endpoints(model, clip, 0, 1, np.stack([x, y], -1) + moved, np.ones((size, size), bool))
    assert len(read)
    np.testing.assert_allclose(read, 0, atol=1e-3)
    np.testing.assert_allclose(own, 0, atol=1e-3)


def test_warping_ratio_is_over_pairs_of_the_bin_only():
    numbers = np.array([0, 0, 1, 1])
    gap = np.array([2.0, 30.0, 30.0, 12.0])
    plain, warped = np.array([1.0, 4.0, 4.0, 2.0]), np.array([3.0, 1.0, 1.0, 2.0])
    errors = WarpingErrors(numbers, gap, plain, warped, plain, plain)
    assert errors.ratio(20)[0] == pytest.approx(0.25)
    assert errors.ratio(10)[0] == pytest.approx(0.4)
    assert errors.results()["warping.error_ratio"] == pytest.approx(0.4)
    assert errors.results()["warping.error_ratio_rigid"] == pytest.approx(1.0)
    narrow = WarpingErrors(numbers, gap * 0, plain, warped, plain, plain)
    assert flat(narrow.results())["warping.error_ratio"] is None  # and its reason is there, or `flat` would refuse


def test_warping_pictures_and_a_model_without_warping(data, tiny_run):
    model = load_lipformer(tiny_run)
    clip = data.open(data.clips("test")[0].clip_id)
    pictures = warping_pictures(model, clip, *widest_pair(clip))
    assert {pictures[name].shape for name in ("target", "reference", "plain", "warped")} == {(32, 32, 3)}
    assert pictures["grid"].shape == (*model.config.token_grid, 2)
    model.warping = NoWarping(*model.config.token_grid)
    with pytest.raises(ConfigError, match="without"):
        warping_errors(model, data)


def test_overview_has_equal_rows(data, model):
    rows = overview(model, data, people=2)
    assert {len(images) for images in rows.values()} == {4}
    clip = data.open(data.clips("test")[0].clip_id)
    first, last = open_and_closed(clip)
    assert clip.opening[first] == clip.opening.max() and clip.opening[last] == clip.opening.min()


def test_a_cold_softmax_is_the_arg_max(data, model):
    clip = data.open(data.clips("test")[0].clip_id)
    rows, peaks = soft_codes(model, clip, [2, 9], (1e-6, 1.0, 100.0))
    np.testing.assert_allclose(rows["softmax, tau 1e-06"].astype(int), rows["arg-max"], atol=1)
    assert peaks[1e-6] == pytest.approx(1) and peaks[100.0] < peaks[1.0]


def test_frozen_parts_are_frozen_and_the_decoder_is_not(tiny_run):
    assert frozen_parts(tiny_run) == {
        "encoder": True,
        "upper_codebook": True,
        "bottom_codebook": True,
        "decoder": False,
    }


@pytest.mark.parametrize(
    "value",
    [
        ({"name": "../a.wav", "content": memoryview(b"sound")},),
        {"../a.wav": {"metadata": {}, "content": b"sound"}},
    ],
    ids=["ipywidgets 8", "ipywidgets 7"],
)
def test_an_upload_stays_in_its_folder(value, tmp_path):
    path = save_upload(value, tmp_path / "in")
    assert path == tmp_path / "in" / "a.wav" and path.read_bytes() == b"sound"
    assert save_upload((), tmp_path) is None


def test_charts_draw():
    results = {"a.psnr": 30.0, "a.psnr.low": 29.0, "a.psnr.high": 31.0}
    results |= {"a.lpips": None, "a.lpips.why": "not available: x"}
    made = [
        charts.histograms({"x": {"one": [1, 2], "two": [3]}}),
        charts.landmarks_over([np.zeros((8, 8, 3), np.uint8)], np.zeros((1, 68, 2))),
        plots.mouth_heat_maps({"all": (np.zeros((2, 8, 8, 3), np.uint8), np.full((2, 68, 2), 5.0))}),
        charts.usage_bars({"upper": np.array([3, 0, 1])}),
        charts.ratio_bars({"all": {"0–5°": (0.9, 0.8, float("nan"))}}),
        charts.cumulative({"error": [1.0, 2.0]}, xlabel="pixels"),
        charts.score_table(results, {"a": "A"}, {"psnr": "PSNR", "lpips": "LPIPS", "fid": "FID"}),
    ]
    for figure in made:
        assert isinstance(figure, Figure)
        figure.canvas.draw()
    words = [text.get_text() for text in made[-1].axes[0].texts]
    assert "not available: x" in words and "FID" not in words
