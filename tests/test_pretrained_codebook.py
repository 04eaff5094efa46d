"""The pre-learned codebook that comes with the package: it fits its preset, and shows faces that it never saw."""

import pytest

from lipformer_core import checkpoint
from lipformer_core.config import preset
from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.data.prepared.prepare import prepare
from lipformer_core.evaluation.codebook import judge_codebook
from lipformer_core.training.loop import finished, take_over

FOLDER = checkpoint.SHIPPED / "codebook"
CARD = (checkpoint.SHIPPED / "README.md").read_text(encoding="utf-8")
PSNR = 30.9  # dB, of the frames below; the first sitting had 29.2, the second 29.9


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> PreparedCorpus:
    """Two synthetic persons of the test split, four frames each, at 256 pixels."""
    config = preset("realtime", {"data.synthetic.persons": [1, 1, 2], "data.synthetic.frames": [2, 4]})
    folder = tmp_path_factory.mktemp("faces") / "data"
    return prepare("synthetic", None, folder, config, workers=1, progress=False)


def test_has_the_design_of_the_preset_realtime(tmp_path):
    theirs, ours = checkpoint.load_codebook().config, preset("realtime")
    assert finished(FOLDER) and (theirs.codebook, theirs.data.size) == (ours.codebook, ours.data.size)
    take_over(FOLDER, tmp_path / "codebook")  # what `--codebook pretrained` does
    assert checkpoint.load_codebook(tmp_path).config.codebook.size == 2048


def test_shows_faces_that_it_never_saw(faces):
    results = judge_codebook(checkpoint.load_codebook(), faces).results()
    assert results["codebook.psnr"] == pytest.approx(PSNR, abs=0.6)


def test_its_card_names_it():
    assert checkpoint.fingerprint(checkpoint.load_codebook())[:12] in CARD
