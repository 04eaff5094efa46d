"""Validation: fixed pairs as dubbing sees them, no chance in it, and one process's figures for all."""

import numpy as np
import pytest
import torch
from processes import train_in_processes

from lipformer_core import checkpoint
from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.model.build import build
from lipformer_core.training.codebook import HALVES, CodebookStage, train_codebook
from lipformer_core.training.journal import read_log
from lipformer_core.training.lipformer import LipFormerStage, Trained
from lipformer_core.training.pairs import PairSampler


@pytest.fixture
def chance(tiny_config):
    """Settings under which training takes sound away and shows pose twins."""
    return tiny_config.replace(stage2={"silence": True, "pose_twins": True})


@pytest.fixture
def samplers(chance, tiny_corpus, tiny_run):
    model, corpus = build(chance, checkpoint.load_codebook(tiny_run)), PreparedCorpus(tiny_corpus)
    return [PairSampler(model, corpus, split, tiny_run / "codebook") for split in ("train", "val")]


@pytest.mark.parametrize("phase", ["warping", "cached", "lipformer"])
def test_twice_gives_the_same_figures_whatever_the_global_generator(phase, chance, samplers, tiny_run):
    stage = LipFormerStage(Trained(chance, checkpoint.load_codebook(tiny_run)), phase, *samplers)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(stage.evaluate())
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1]
    assert stage.model.training


def test_validation_pairs_have_their_own_upper_half_and_their_own_sound(chance, samplers, tiny_corpus):
    train, val = (sampler.draw((3,), 64) for sampler in samplers)
    assert not torch.equal(train.pose_upper, train.target_upper)
    assert torch.equal(val.pose_upper, val.target_upper)
    corpus = PreparedCorpus(tiny_corpus)
    heard = [corpus.open(info.clip_id).heard([frame], chance.audio)[0] for info, frame in val.frames]
    np.testing.assert_array_equal(val.audio, np.stack(heard))


@pytest.mark.parametrize("shared", [False, True])
def test_averages_begin_anew_with_codes_that_jump(shared, tiny_config, tiny_corpus, tmp_path, monkeypatch):
    """With nothing to learn, the averaged codes are the codes, however often those were put elsewhere."""
    monkeypatch.setattr("lipformer_core.training.codebook.REVIVE_EVERY", 4)
    config = tiny_config.replace({"optimiser.weight_average": 0.9, "stage1.lr": 0.0, "codebook.shared": shared})
    own, gaps = {}, []
    after, evaluate = CodebookStage.after, CodebookStage.evaluate

    def remember(self, number):
        after(self, number)
        own.update({half: self.codebook(half).weight.detach().clone() for half in HALVES})

    def compare(self):
        gaps.extend(float((self.codebook(half).weight.detach() - own[half]).abs().max()) for half in HALVES)
        return evaluate(self)

    monkeypatch.setattr(CodebookStage, "after", remember)
    monkeypatch.setattr(CodebookStage, "evaluate", compare)
    train_codebook(config, tiny_corpus, tmp_path, progress=False)
    assert len(gaps) == 2 * 3 and max(gaps) < 1e-6  # both halves, in three checks


DIFFERING = """
import os
from lipformer_core.training.codebook import CodebookStage
rank, real, checks = int(os.environ["RANK"]), CodebookStage.evaluate, []
def evaluate(stage):  # the first process's scores fall, the other's rise
    checks.append(1)
    return real(stage) | {"val_psnr": float(len(checks)) * (1 if rank else -1)}
CodebookStage.evaluate = evaluate
"""


@pytest.mark.slow
def test_processes_whose_scores_differ_finish_with_the_first_ones_best(tiny_config, tiny_corpus, tmp_path):
    config = tiny_config.replace({"engine.check_every": 3})
    train_in_processes(2, tmp_path, tiny_corpus, config, first=DIFFERING)
    header = checkpoint.header_of(tmp_path, "codebook")
    assert (header["step"], header["best"]) == (3, -1.0)
    scores = np.array(read_log(tmp_path / "codebook")["val_psnr"])
    assert scores[np.isfinite(scores)].tolist() == [-1.0, -2.0, -3.0, -4.0]
