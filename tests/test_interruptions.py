"""A stage that is killed or fails: nothing stays open, and the same command goes on from there."""

import os
import threading

import numpy as np
import pytest
from interruption import Interrupted, stop_at
from safetensors import SafetensorError

from lipformer_core import checkpoint
from lipformer_core.errors import OutputError
from lipformer_core.files import hidden_beside
from lipformer_core.training.codebook import CodebookStage, train_codebook
from lipformer_core.training.journal import LOG, Journal, read_log


def test_a_stage_that_is_killed_while_it_finishes_is_finished_by_the_same_command(
    tiny_config, tiny_corpus, tmp_path, monkeypatch
):
    scores = iter(range(0, -100, -1))  # the first check is the best: nothing writes the best weights again
    real, replace = CodebookStage.evaluate, os.replace
    monkeypatch.setattr(CodebookStage, "evaluate", lambda self: real(self) | {"val_psnr": float(next(scores))})

    def killed(source, target):
        if str(target).endswith("model.safetensors"):
            raise Interrupted
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(os, "replace", killed)
        train_codebook(tiny_config, tiny_corpus, tmp_path, progress=False)
    assert not (tmp_path / "codebook/model.safetensors").exists()
    train_codebook(tiny_config, tiny_corpus, tmp_path, progress=False)
    header = checkpoint.header_of(tmp_path, "codebook")
    assert header["step"] == 4 and header["best"] == 0.0
    left = {path.name for path in (tmp_path / "codebook").iterdir()}
    assert left == {"model.safetensors", "model.json", "log.csv", "tensorboard"}


@pytest.mark.parametrize("left", ["", "step,na", "step,name,value\n3,l1,0.5\n4,l1"])
def test_a_log_that_was_cut_off_is_gone_on_with(left, tmp_path):
    (tmp_path / LOG).write_text(left)
    journal = Journal(tmp_path, 3)
    journal.write(9, {"l1": 0.25})
    journal.close()
    kept = [3.0] if "3,l1" in left else []
    assert read_log(tmp_path) == {"step": [*kept, 9.0], "l1": [*([0.5] * len(kept)), 0.25]}


def test_a_state_that_the_disk_has_no_room_for_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OutputError, match="No space left"):
        checkpoint.write(tmp_path / "run" / "model.safetensors", {}, {})
    assert list((tmp_path / "run").iterdir()) == []


def test_what_a_killed_process_left_half_written_goes_when_the_stage_goes_on(tiny_config, tiny_corpus, tmp_path):
    half = hidden_beside(tmp_path / "codebook" / "step-00000004.safetensors", ".tmp")
    half.parent.mkdir()
    half.write_bytes(b"half")
    train_codebook(tiny_config, tiny_corpus, tmp_path, progress=False)
    assert not half.exists()


def test_a_step_that_fails_leaves_no_thread_and_all_rows_on_the_disk(tiny_config, tiny_corpus, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    before = set(threading.enumerate())
    monkeypatch.setattr("lipformer_core.training.loop.LOG_EVERY", 3)
    monkeypatch.setattr(CodebookStage, "losses", stop_at(9, CodebookStage))
    with pytest.raises(Interrupted) as caught:  # keeps the frames of the failed call alive, as a notebook does
        train_codebook(tiny_config, tiny_corpus, tmp_path, progress=False)
    assert caught.tb is not None and set(threading.enumerate()) <= before
    board = EventAccumulator(str(tmp_path / "codebook/tensorboard"))
    board.Reload()
    log = read_log(tmp_path / "codebook")
    assert [event.step for event in board.Scalars("l1")] == log["step"] and log["step"][-1] == 9.0
    np.testing.assert_allclose([event.value for event in board.Scalars("l1")], log["l1"], rtol=1e-5)
