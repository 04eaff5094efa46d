"""The weights that come with the package: small, described, loaded by default, and able to move a mouth."""

from pathlib import Path

import numpy as np
import torch

import lipformer_core as lf
from lipformer_core import checkpoint
from lipformer_core.data.clips import PreparedCorpus
from lipformer_core.data.prepare import prepare
from lipformer_core.evaluation.cases import Puppet

CARD = (checkpoint.SHIPPED / "README.md").read_text()


def test_small_enough_to_clone():
    files = [path for path in checkpoint.SHIPPED.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"README.md", "model.safetensors", "model.json"}
    assert sum(path.stat().st_size for path in files) <= 30e6


def test_the_card_says_what_it_is_of_these_very_weights():
    header = checkpoint.header_of(checkpoint.SHIPPED, "lipformer")
    assert checkpoint.fingerprint(lf.load())[:12] in CARD
    assert f"seed {header['seed']}" in CARD and header["data_hash"][:12] in CARD
    for heading in ("Data and licences", "Training", "Measured", "Limits", "Intended use", "Misuse"):
        assert f"\n## {heading}\n" in CARD
    assert "CC BY 4.0" in CARD and "Cooke" in CARD


def test_only_the_given_run_or_the_shipped_one_is_loaded(tiny_run):
    assert checkpoint.fingerprint(lf.load(tiny_run)) != checkpoint.fingerprint(lf.load())
    assert Path(checkpoint.SHIPPED).parent == Path(lf.__file__).parent


def test_the_mouth_of_people_it_never_saw_leaves_its_rest_as_far_as_they_open_it(tmp_path):
    model = lf.load()
    config = model.config.replace(synthetic_train=1, synthetic_val=1, synthetic_test=2, seed=11)
    prepare("synthetic", None, tmp_path, config, workers=1, progress=False)
    corpus, half = PreparedCorpus(tmp_path), config.crop_size // 2
    middle = slice(half + half // 4, half + 3 * half // 4), slice(half // 2, half + half // 2)
    agreement = []
    for info in corpus.clips("test"):
        clip, frames = corpus.open(info.clip_id), np.arange(info.n_frames)
        puppet, truth = Puppet(model, clip, torch.device("cpu")), clip.frames(frames)
        sounds = puppet.sound(clip, frames), puppet.silence(len(frames))
        seen = puppet.look(truth)
        spoken, rest = (puppet.speak(seen, sound)[:, *middle].astype(float) for sound in sounds)
        moved = np.abs(spoken - rest).mean((1, 2, 3))
        agreement.append(np.corrcoef(moved, clip.opening)[0, 1])
    assert min(agreement) > 0.5
