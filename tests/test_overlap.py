"""The stages of a dubbing work at the same time, and nothing else changes by that."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from material import FakeModel
from test_dubbing import Material

from lipformer_core.data.media import FrameReader, VideoWriter
from lipformer_core.dubbing import frames, source_face


class Tracker:
    def __init__(self, marks):
        self.marks = iter(marks)

    def detect(self, rgb):
        return [(next(self.marks), np.zeros(3))]


def workers():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_threads_give_the_frames_of_one_thread(tmp_path, monkeypatch):
    valid = np.ones(40, bool)
    valid[[3, *range(20, 35)]] = False
    m = Material(tmp_path, n=40, seconds=2.5, valid=valid)
    for tracked in (False, True):
        given = {"landmarks": None} if tracked else {}
        m.dub(crf=0, **given, tracker=Tracker(m.marks))
        shown = np.stack(m.shown())
        with monkeypatch.context() as patch:
            patch.setattr(frames, "prefetched", lambda make, items, **_: (make(item) for item in items))
            patch.setattr(source_face, "taken_ahead", lambda items: items)
            m.dub(crf=0, **given, tracker=Tracker(m.marks))
        assert len(shown) == 62 and (shown == np.stack(m.shown())).all()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize(
    ("owner", "stage"),
    [(Tracker, "detect"), (FrameReader, "__getitem__"), (FakeModel, "say"), (frames, "paste"), (VideoWriter, "write")],
)
def test_an_error_in_any_stage_ends_all_of_them_and_leaves_no_file(tmp_path, monkeypatch, owner, stage, error):
    m, calls, real = Material(tmp_path, n=50, seconds=2.0), [], getattr(owner, stage)
    before = {path.name for path in tmp_path.iterdir()}

    def fails(*args, **options):
        calls.append(None)
        if len(calls) == 3:
            raise error("a reason of its own")
        return real(*args, **options)

    monkeypatch.setattr(owner, stage, fails)
    with pytest.raises(error, match="a reason of its own"):
        m.dub(landmarks=None, tracker=Tracker(m.marks))
    assert {path.name for path in tmp_path.iterdir()} == before and not workers()


def test_stages_are_ahead_by_no_more_than_a_few_pieces(tmp_path, monkeypatch):
    m, done = Material(tmp_path, n=50, seconds=8.0), {"say": 0, "paste": 0, "write": 0}
    ahead = []

    def counted(owner, stage):
        real = getattr(owner, stage)

        def call(*args, **options):
            made = real(*args, **options)
            done[stage] += len(made) if stage == "say" else 1
            if stage == "write":
                time.sleep(0.01)  # the slowest
                ahead.append((done["say"] - done["write"], done["paste"] - done["write"]))
            return made

        monkeypatch.setattr(owner, stage, call)

    for owner, stage in ((FakeModel, "say"), (frames, "paste"), (VideoWriter, "write")):
        counted(owner, stage)
    m.dub()
    assert len(ahead) == 200 and (np.max(ahead, axis=0) <= (48, 3)).all()
    assert np.median(ahead, axis=0)[0] >= 8, "nothing is made while frames are written"


def test_cores_are_given_back_after_dubbings_that_overlap():
    def seen_by_a_new_thread() -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    before = torch.get_num_threads()
    torch.set_num_threads(6)
    try:
        first, second = (frames._cores.shared(2) for _ in range(2))
        assert [first.__enter__(), second.__enter__(), frames._cores.number()] == [3, 3, 6]
        torch.set_num_threads(3)  # as the threads that generate do
        first.__exit__(None, None, None)
        assert (frames._cores.number(), seen_by_a_new_thread()) == (6, 3)
        second.__exit__(None, None, None)
        assert (frames._cores.number(), torch.get_num_threads(), seen_by_a_new_thread()) == (6, 6, 6)
    finally:
        torch.set_num_threads(before)
