"""Two evaluations paired by clip: known differences are found, chance is told from them, strangers are refused."""

import csv
import json

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from lipformer_core.cli import app
from lipformer_core.errors import DataError
from lipformer_core.evaluation.compare import BEST, compare, paired_difference
from lipformer_core.evaluation.report import BY_YAW, COLUMNS

CLIPS = 12


def write(folder, columns: dict[str, np.ndarray], clips=range(CLIPS), data_hash="d"):
    """An evaluation's files, as far as they are read."""
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"data_hash": data_hash, "split": "test"}))
    with (folder / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["clip", "person", "audio_from", "n_frames", *columns])
        for clip in clips:
            rows.writerow([f"c{clip}", f"p{clip}", "", 20, *(f"{values[clip]:.6g}" for values in columns.values())])
    return folder


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    base = 20 + 5 * rng.random(CLIPS)  # clips differ far more than the systems do
    a = {
        "lipformer.mouth_psnr": base,
        "lipformer.ssim": 0.8 + 0.01 * rng.standard_normal(CLIPS),
        "lipformer.leak": 0.3 + 0.01 * rng.standard_normal(CLIPS),
        "lipformer.sharpness": np.full(CLIPS, 1.5),
        "lipformer.deviation": 0.01 + rng.random(CLIPS),
        "ground_truth.deviation": 0.01 + rng.random(CLIPS),
        "wav2lip.mouth_psnr": base - 2,
    }
    b = a | {
        "lipformer.mouth_psnr": base + 0.3 + 0.05 * rng.standard_normal(CLIPS),
        "lipformer.ssim": 0.8 + 0.01 * rng.standard_normal(CLIPS),
        "lipformer.leak": -0.1 + 0.01 * rng.standard_normal(CLIPS),
        "lipformer.sharpness": np.full(CLIPS, 0.9),
        "lipformer.deviation": 2 * a["lipformer.deviation"],
    }
    return write(tmp_path / "a", a), write(tmp_path / "b", b), a, b


def test_pairing_finds_a_difference_that_is_smaller_than_the_clips_spread(folders):
    results = compare(*folders[:2])
    assert results["clips"] == CLIPS and results["clips_of_one_alone"] == 0
    assert results["mouth_psnr.difference"] == pytest.approx(0.3, abs=0.05)
    assert 0.2 < results["mouth_psnr.difference.low"] < results["mouth_psnr.difference.high"] < 0.4
    assert "PSNR mouth" in results["mouth_psnr.sentence"] and "B is better" in results["mouth_psnr.sentence"]
    assert results["ssim.better"] == "" and "neither is better" in results["ssim.sentence"]


def test_what_is_best_is_the_columns_own(folders):
    """A leak of -0.1 is better than one of 0.3, a sharpness of 0.9 better than one of 1.5."""
    results = compare(*folders[:2])
    assert results["leak.difference"] < 0 and results["leak.better"] == "b"
    assert results["sharpness.difference"] == pytest.approx(-0.6) and results["sharpness.better"] == "b"
    assert compare(*folders[1::-1])["leak.better"] == "a"
    assert BEST.keys() <= (COLUMNS | BY_YAW).keys()


def test_a_ratio_is_one_of_means_and_not_a_mean_of_ratios(folders):
    a, b = folders[2:]
    wanted = [x["lipformer.deviation"].mean() / x["ground_truth.deviation"].mean() for x in (a, b)]
    results = compare(*folders[:2])
    assert (results["motion.a"], results["motion.b"]) == pytest.approx(wanted, abs=1e-4)


def test_the_interval_is_scipys():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 30))
    theirs = stats.bootstrap(
        (a, b), lambda x, y, axis: (y - x).mean(axis), paired=True, method="percentile", n_resamples=4000, rng=0
    ).confidence_interval
    ones = np.ones(30)
    ours = paired_difference(np.stack([a, ones], 1), np.stack([b, ones], 1), np.inf, draws=4000)
    assert (ours["difference.low"], ours["difference.high"]) == pytest.approx(tuple(theirs), abs=0.03)


def test_two_rows_of_one_evaluation_and_the_same_row_twice(folders):
    found = compare(folders[0], folders[0], ("wav2lip", "lipformer"))
    assert found["mouth_psnr.difference"] == found["mouth_psnr.difference.low"] == pytest.approx(2, abs=1e-4)
    assert found["mouth_psnr.better"] == "b" and "ssim.a" not in found
    same = compare(folders[0], folders[0])
    assert all(same[key] == 0 for key in same if key.endswith(".difference"))
    assert not any(same[key] for key in same if key.endswith(".better"))


def test_clips_of_one_alone_are_counted_and_left_out(folders, tmp_path):
    fewer = write(tmp_path / "fewer", folders[3], clips=range(4, CLIPS))
    results = compare(folders[0], fewer)
    assert (results["clips"], results["clips_of_one_alone"]) == (CLIPS - 4, 4)
    assert results["mouth_psnr.a"] == pytest.approx(folders[2]["lipformer.mouth_psnr"][4:].mean(), abs=1e-3)
    one = compare(folders[0], write(tmp_path / "one", folders[3], clips=[3]))
    assert one["mouth_psnr.difference.low"] is None and "nothing is certain" in one["mouth_psnr.sentence"]


def test_what_cannot_be_compared_is_refused(folders, tmp_path):
    with pytest.raises(DataError, match="different data"):
        compare(folders[0], write(tmp_path / "other", folders[3], data_hash="e"))
    with pytest.raises(DataError, match="lipformer evaluate"):
        compare(folders[0], tmp_path / "nowhere")
    half = write(tmp_path / "half", folders[3])
    (half / "table.csv").unlink()
    with pytest.raises(DataError, match="no table.csv"):
        compare(folders[0], half)
    with pytest.raises(DataError, match="no row ours; the rows are ground_truth"):
        compare(*folders[:2], ("ours", "lipformer"))
    with pytest.raises(DataError, match="no column"):
        compare(*folders[:2], ("ceiling", "lipformer"))
    with pytest.raises(DataError, match="no clip in common"):
        compare(write(tmp_path / "first", folders[3], clips=[0]), write(tmp_path / "second", folders[3], clips=[1]))


def test_the_command_says_a_sentence_a_column_and_writes_the_numbers(folders, tmp_path):
    arguments = ["compare", *map(str, folders[:2]), "--out", str(tmp_path / "compared.json")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "compared.json").read_text())
    assert done.output.splitlines() == [written[key] for key in written if key.endswith(".sentence")]
    assert len(done.output.splitlines()) == 5
    refused = CliRunner().invoke(app, ["compare", str(folders[0]), str(tmp_path)])
    assert refused.exit_code == 2 and "results.json" in refused.output
    below = folders[0] / "results.json" / "compared.json"
    refused = CliRunner().invoke(app, [*arguments[:3], "--out", str(below)])
    assert refused.exit_code == 2 and "results.json" in refused.output
