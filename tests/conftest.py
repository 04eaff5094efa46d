"""Shared fixtures: a tiny prepared corpus and a tiny trained run, made once a session; real material where it is."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def models_on_the_cpu(monkeypatch):
    """Loaded models stay where the tests' tensors are, also on a machine with a GPU; training takes it there."""
    monkeypatch.setattr("lipformer_core.device.GPUS", ())


@pytest.fixture(scope="session")
def tiny_config():
    """The preset `tiny`, which trains in seconds."""
    from lipformer_core.config import preset

    return preset("tiny")


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
