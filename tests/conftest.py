"""Shared fixtures: a tiny prepared corpus and a tiny trained run, made once a session; real material where it is."""

import os
from pathlib import Path

import pytest

TINY = dict(
    crop_size=32, synthetic_train=6, synthetic_val=2, synthetic_test=2, synthetic_frames=14, synthetic_test_frames=16,
    synthetic_size=64, base_width=16, width_multipliers=(1, 2), res_blocks=1, stem_stride=2, codebook_size=32,
    code_dim=8, stage1_steps=12, stage1_batch=4, eval_every=6, save_every=4, log_every=3,
    eval_images=8, warp_width=16, model_dim=16, layers=1, heads=2, ffn_dim=16, audio_dim=16, warp_steps=3,
    cached_steps=4, cached_batch=4, joint_steps=3, joint_batch=2, warmup_steps=2,
)  # fmt: skip


@pytest.fixture(autouse=True)
def models_on_the_cpu(monkeypatch):
    """Loaded models stay where the tests' tensors are, also on a machine with a GPU; training takes it there."""
    monkeypatch.setattr("lipformer_core.device.GPUS", ())


@pytest.fixture(scope="session")
def tiny_config():
    """The preset `quick` at a size that trains in seconds."""
    from lipformer_core.config import preset

    return preset("quick", **TINY)


@pytest.fixture(scope="session")
def tiny_corpus(tiny_config, tmp_path_factory):
    """Folder of a prepared synthetic corpus of ten persons."""
    from lipformer_core.data.prepared.prepare import prepare

    folder = tmp_path_factory.mktemp("corpus")
    prepare("synthetic", None, folder, tiny_config, workers=1, progress=False)
    return folder


@pytest.fixture(scope="session")
def tiny_run(tiny_config, tiny_corpus, tmp_path_factory):
    """Run folder with both stages trained for a few steps."""
    from lipformer_core.training.lipformer import train_lipformer

    run = tmp_path_factory.mktemp("run")
    train_lipformer(tiny_config, tiny_corpus, run, progress=False)
    return run


def _folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value or not Path(value).is_dir():
        pytest.skip(f"real material: {variable} names no folder")
    return Path(value)


@pytest.fixture(scope="session")
def clips_folder():
    """Folder of real clips, or skip."""
    return _folder("LIPFORMER_CLIPS")


@pytest.fixture(scope="session")
def weights_folder():
    """Folder of pretrained files, or skip."""
    return _folder("LIPFORMER_WEIGHTS")
