"""Three minutes at every rate: sound and lips are in the end where they were in the beginning."""

from contextlib import nullcontext
from fractions import Fraction

import numpy as np
import pytest
import torch
from material import draw_face, face_landmarks, write_video, write_wav

from lipformer_core.config import preset
from lipformer_core.data.media import frame_times, iter_frames, read_audio
from lipformer_core.dubbing.dub import dub
from lipformer_core.model.build import build
from lipformer_core.timing import SAMPLE_RATE

SECONDS, SIDE = 180, 64
MOMENTS = (1.0, 90.0, 178.0)  # seconds, about: a buzz begins, and a patch of the picture lights up
BUZZ_S, NEAR_S = 0.12, 0.6
NTSC = [Fraction(24_000, 1_001), Fraction(30_000, 1_001)]


def source_times(rate):
    """Seconds of the pictures of three minutes; None: of a rate that leaps between 50 and 20 frames/s."""
    if rate is not None:
        return np.arange(round(SECONDS * rate)) / float(rate)
    steps = np.tile(np.repeat([1 / 50, 1 / 20], [10, 20]), SECONDS)
    times = np.concatenate([[0.0], np.cumsum(steps)])
    return times[times < SECONDS]


@pytest.mark.slow
@pytest.mark.parametrize("rate", [NTSC[0], 24, 25, NTSC[1], 30, 50, 60, None], ids=str)
def test_nothing_drifts_in_three_minutes(tmp_path, rate, monkeypatch):
    # codes of random weights lie so near each other that bfloat16 chooses between them by the size of the batch
    monkeypatch.setattr("lipformer_core.speaker.fast", lambda device: nullcontext())
    times, marks = source_times(rate), face_landmarks((SIDE / 2, SIDE * 0.32), SIDE * 0.27)
    starts = [times[np.searchsorted(times, moment)] for moment in MOMENTS]
    dark, lit = draw_face(SIDE, SIDE, marks), draw_face(SIDE, SIDE, marks)
    lit[:8, -16:] = 255
    shines = np.any([(times >= start - 1e-6) & (times < start + BUZZ_S) for start in starts], axis=0)
    video = tmp_path / "video.mkv"  # whose times are milliseconds
    options = {"times": times} if rate is None else {"fps": rate}
    write_video(video, np.stack([lit if shine else dark for shine in shines]), **options)
    sound = np.zeros(SECONDS * SAMPLE_RATE, np.float32)
    for start in starts:
        first = round(start * SAMPLE_RATE)
        sound[first : first + round(BUZZ_S * SAMPLE_RATE)] = np.resize([0.3] * 57 + [-0.3] * 57, 1_920)
    near = np.any([np.abs(times - start) < NEAR_S for start in starts], axis=0)  # elsewhere pictures pass through
    np.savez(tmp_path / "track.npz", landmarks=np.stack([marks] * len(times)), valid=near)
    torch.manual_seed(0)
    model, out = build(preset("tiny")).eval(), tmp_path / "out.mp4"
    audio = write_wav(tmp_path / "audio.wav", sound)

    report = dub(model, video, audio, out, landmarks=tmp_path / "track.npz", progress=False, crf=0)

    frame = 1 / report.fps
    shown, heard = frame_times(out), np.abs(read_audio(out))
    assert rate is None or report.fps == pytest.approx(float(rate), rel=1e-6)
    np.testing.assert_allclose(shown, np.arange(len(shown)) * frame, atol=2e-4)
    assert abs(len(shown) * frame - SECONDS) <= frame and abs(len(heard) / SAMPLE_RATE - SECONDS) <= frame
    pictures = [(p[:6, -14:].mean() > 200, p[SIDE // 2 :].astype(np.int16)) for _, p in iter_frames(out)]
    light = np.array([lit for lit, _ in pictures])
    closed = pictures[round((starts[0] - 0.4) / frame)][1]
    moved = np.array([np.abs(lips - closed).mean() for _, lips in pictures])
    places = []
    for start in starts:
        near = np.flatnonzero(np.abs(shown - start) < 0.5)
        beep = np.flatnonzero(heard[round((start - 0.5) * SAMPLE_RATE) :][: 2 * SAMPLE_RATE] > 0.05)[0] / SAMPLE_RATE
        assert abs(shown[near][light[near]][0] - start) <= frame + 1e-3
        assert abs(beep - 0.5) <= 0.01
        weight = moved[near] / moved[near].sum()
        assert moved[near].max() > 10 * np.median(moved[near])
        places.append((weight * shown[near]).sum() - start)
        assert abs(places[-1] - BUZZ_S / 2) <= max(0.04, frame)
    assert np.ptp(places) <= frame
