"""Batches made in the background: the same, in order, and never many ahead."""

import time

import pytest
import torch

from lipformer_core.data.prepared.clips import PreparedCorpus
from lipformer_core.data.prepared.prefetch import prefetched, prefetched_by_processes
from lipformer_core.training.sampling import FrameSampler


@pytest.fixture
def sampler(tiny_corpus):
    return FrameSampler(PreparedCorpus(tiny_corpus), "train")


@pytest.mark.parametrize("ways", [{"threads": 3, "ahead": 5}, {"processes": 2}], ids=["threads", "processes"])
def test_prefetching_changes_nothing_but_the_waiting(sampler, ways):
    def make(number):
        return sampler.material(sampler.draw((0, number), 3))

    found = (prefetched_by_processes if "processes" in ways else prefetched)(make, range(12), **ways)
    assert all(torch.equal(batch, make(i)) for i, batch in enumerate(found))


def test_frames_kept_on_the_device_are_those_that_are_read(sampler, tiny_corpus, monkeypatch):
    """A GPU with room for all of them is played by the CPU, which keeps none."""
    pairs, cpu = sampler.draw((0, 1), 5), torch.device("cpu")
    sampler.keep(cpu)
    read = sampler.material(pairs)
    assert sampler.kept is None and read.shape == (5, 32, 32, 3)
    kept = FrameSampler(PreparedCorpus(tiny_corpus), "train")
    frames = sum(len(info.valid_frames) for info in kept.corpus.clips("train"))
    for space in (frames * 32 * 32 * 3 - 1, frames * 32 * 32 * 3):
        assert kept.kept is None
        monkeypatch.setattr("lipformer_core.training.sampling.room", lambda device, space=space: space)
        kept.keep(cpu)
    material = kept.material(pairs)
    assert material.shape == (5,) and len(kept.kept) == frames
    assert torch.equal(kept.pictures(material, cpu), sampler.pictures(read, cpu))


def test_prefetching_is_ahead_by_no_more_than_asked_and_stops():
    made = []
    batches = prefetched(lambda number: made.append(number) or number, range(1000), ahead=3)
    assert [next(batches) for _ in range(5)] == list(range(5))
    batches.close()
    assert 5 <= len(made) <= 9


@pytest.mark.parametrize("by", [prefetched, prefetched_by_processes])
def test_what_a_batch_raises_comes_when_it_is_due(by):
    batches = by(lambda number: 1 // (2 - number), range(5), **({} if by is prefetched else {"processes": 1}))
    assert next(batches) == 0 and next(batches) == 1
    with pytest.raises(ZeroDivisionError):
        next(batches)


def test_work_is_done_while_the_consumer_works():
    batches = prefetched(lambda number: time.sleep(0.05) or number, range(6), threads=1, ahead=2)
    next(batches)
    waited = 0.0
    for _ in range(5):
        time.sleep(0.15)  # a step
        began = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - began
    assert waited < 0.1, "five batches would take 0.25 s"
