"""A dubbing that is stopped goes on where it stopped, and its result is the one of a dubbing that was not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from material import frame_index, tone, write_wav
from test_dubbing import Material
from test_overlap import Tracker

from lipformer_core.data.media import probe, read_audio
from lipformer_core.dubbing import dub as dub_module
from lipformer_core.errors import ConfigError, OutputError

FRAMES, STRETCH = 50, 20


@pytest.fixture
def m(tmp_path, monkeypatch):
    """A dubbing of 50 frames in stretches of 20, which has its own picture for every frame and counts what it makes."""
    monkeypatch.setattr(dub_module, "STRETCH", STRETCH)
    valid = np.ones(FRAMES, bool)
    valid[[7, *range(25, 40)]] = False
    made = Material(tmp_path, n=FRAMES, seconds=2.0, valid=valid)
    made.generated = 0
    real = made.model.say

    def say(face, audio, **options):
        made.generated += len(audio)
        return real(face, audio, **options)

    made.model.say = say
    return made


def stopped_at(m, share, error=KeyboardInterrupt, **options):
    def stop(done):
        if done >= share:
            raise error

    with pytest.raises(error):
        m.dub(progress=stop, **options)


def contents(m):
    return {path.name for path in m.folder.iterdir()}


def hidden(m):
    return [path for path in m.folder.iterdir() if path.name.endswith(".unfinished")]


@pytest.mark.parametrize("crf", [0, 17])
@pytest.mark.parametrize("tracked", [True, False])
def test_a_stopped_dub_goes_on_and_ends_in_the_same_frames(m, crf, tracked):
    looked = []

    def options():
        tracker = Tracker(m.marks)
        tracker.detect = lambda rgb: looked.append(0) or Tracker.detect(tracker, rgb)
        return {"crf": crf, "policy": "pingpong", **({"landmarks": None, "tracker": tracker} if tracked else {})}

    before = contents(m)
    whole = m.dub(**options())
    unstopped, sound, all_of_it = np.stack(m.shown()), read_audio(m.out), m.generated
    m.out.unlink()
    looked.clear()
    stopped_at(m, 0.93, **options())
    assert not m.out.exists() and len(hidden(m)) == 1
    m.generated = 0
    report = m.dub(**options())
    assert (np.stack(m.shown()) == unstopped).all() and (read_audio(m.out) == sound).all()
    assert 0 < m.generated < all_of_it / 2 and len(looked) == tracked * FRAMES
    assert (report.statuses, report.ranges, report.covered) == (whole.statuses, whole.ranges, whole.covered)
    assert contents(m) == before | {"out.mp4"}


def test_frames_in_stretches_stand_as_in_one_piece(m, monkeypatch):
    m.dub(crf=0)
    joined = np.stack(m.shown())
    assert [frame_index(picture) for picture in joined] == list(range(FRAMES))
    with av.open(str(m.out)) as container:
        steps = np.diff(sorted(packet.pts for packet in container.demux(video=0) if packet.size))
    assert len(set(steps.tolist())) == 1 and probe(m.out).pictures_s == pytest.approx(2.0, abs=1e-3)
    monkeypatch.setattr(dub_module, "STRETCH", 1000)
    m.dub(crf=0)
    assert (np.stack(m.shown()) == joined).all()


@pytest.mark.parametrize(
    "other", [{"crf": 18}, {"mark": True}, {"policy": "loop"}, {"reference": 0.1}, {"start": 0.04}, "sound", "weights"]
)
def test_another_command_takes_nothing_over_and_clears_up_in_the_end(m, other):
    before = contents(m)
    stopped_at(m, 0.9)
    m.generated = 0
    if other == "sound":
        write_wav(m.audio, tone(2.0, level=0.2))
    if other == "weights":
        m.model.register_buffer("more", torch.ones(1))
    m.out, mine = m.out.with_name("another.mp4"), m.out
    m.dub(**(other if isinstance(other, dict) else {}))
    assert m.generated >= FRAMES - 17 and len(hidden(m)) == 1
    m.out, m.generated = mine, 0
    m.dub(**(other if isinstance(other, dict) else {}))
    assert m.generated >= FRAMES - 17 and contents(m) == before | {"out.mp4", "another.mp4"}


def test_what_is_not_worth_keeping_is_not_kept(m):
    before = contents(m)
    stopped_at(m, 0.1)  # nothing is finished
    stopped_at(m, 0.9, ConfigError)  # the same would happen again
    assert contents(m) == before
    stopped_at(m, 0.9, OutputError)  # a full disk
    assert len(hidden(m)) == 1


def test_two_do_not_make_the_same_at_once(m):
    class Second(Exception):
        pass

    def meanwhile(share):
        with pytest.raises(OutputError, match="another process is at work"):
            m.dub()
        raise Second

    with pytest.raises(Second):
        m.dub(progress=meanwhile)


KILLED = """
import os, signal, sys
from pathlib import Path
from material import FakeModel
from lipformer_core.dubbing import dub

dub.STRETCH = 20
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in a script's background inherit that it is ignored
def killed(share):
    if share > 0.9:
        os.kill(os.getpid(), int(sys.argv[2]))

folder = Path(sys.argv[1])
given = {name: folder / name for name in ("video.mp4", "audio.wav", "out.mp4")}
dub.dub(FakeModel(), *given.values(), landmarks=folder / "track.npz", crf=0, progress=killed)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_dub_goes_on(m, number):
    m.dub(crf=0)
    unstopped = np.stack(m.shown())
    m.out.unlink()
    before = contents(m)
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[1]}"}
    command = [sys.executable, "-c", KILLED, m.folder, str(int(number))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == -number, done.stderr[-2000:]
    assert not m.out.exists() and len(hidden(m)) == 1
    m.generated = 0
    m.dub(crf=0)
    assert 0 < m.generated < FRAMES / 2
    assert (np.stack(m.shown()) == unstopped).all() and contents(m) == before | {"out.mp4"}
