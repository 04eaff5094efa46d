"""Offset between picture and sound: known shifts are found again, with the right sign, and silence says nothing."""

import os
from pathlib import Path

import numpy as np
import pytest

from lipformer_core.data.audio import SILENCE, log_mel
from lipformer_core.data.audio.av_offset import COEFFICIENTS, REACH, estimate_offset, load_weights
from lipformer_core.data.media import read_audio
from lipformer_core.timing import SAMPLES_PER_FRAME
from papermill_runs.shipped import HELD_OUT, filmed_pairs, fit, synthetic_pairs

CLIPS, WEIGHTS = os.environ.get("LIPFORMER_CLIPS"), os.environ.get("LIPFORMER_WEIGHTS")
real = pytest.mark.skipif(not (CLIPS and WEIGHTS), reason="LIPFORMER_CLIPS and LIPFORMER_WEIGHTS name no real material")


def shift_audio(samples, frames):
    """Move sound (k,) at 16 kHz later by so many frames (negative: earlier); silence fills up."""
    step = frames * SAMPLES_PER_FRAME
    return np.pad(samples, (max(step, 0), max(-step, 0)))[max(-step, 0) : max(-step, 0) + len(samples)]


def later(mel, frames):
    """Mel of the same sound, so many video frames later."""
    moved = np.roll(mel, 4 * frames, axis=0)
    moved[: 4 * frames if frames > 0 else 0] = SILENCE
    moved[len(mel) + 4 * frames if frames < 0 else len(mel) :] = SILENCE
    return moved


@pytest.fixture(scope="module")
def strangers():
    """Synthetic clips of persons that no fit has seen."""
    return list(synthetic_pairs(range(5000, 5006)))


def test_the_picture_is_late_where_the_sound_comes_too_early(strangers):
    errors = []
    for opening, mel in strangers:
        for shift in range(-5, 6):
            found = estimate_offset(opening, later(mel, -shift))
            errors.append(found.frames - shift)
            assert -1 <= found.correlation <= 1
    assert np.mean(np.abs(errors) <= 1) >= 0.9
    assert abs(np.median(errors)) <= 0.5


def test_shifting_the_sound_by_the_estimate_puts_it_in_step():
    from lipformer_core.data.synthetic import synthesise_clip

    clip = synthesise_clip(0, 5010, 0, 100, 64)
    off = shift_audio(clip.audio, -4)  # the sound comes 4 frames early: the picture is late
    found = estimate_offset(clip.opening, log_mel(off))
    assert abs(found.frames - 4) <= 1
    mended = shift_audio(off, found.frames)
    assert len(mended) == len(clip.audio) and abs(estimate_offset(clip.opening, log_mel(mended)).frames) <= 1


def test_where_there_is_nothing_to_compare_nothing_is_said(strangers):
    opening, mel = strangers[0]
    silence = np.full_like(mel, SILENCE)
    for lips, sound in [
        (opening, silence),
        (np.zeros_like(opening), mel),
        (np.full_like(opening, np.nan), mel),
        (opening[:20], mel[:81]),
        (opening[:0], mel[:0]),
    ]:
        found = estimate_offset(lips, sound)
        assert found.confidence == 0 and not found.confident


def test_another_clips_sound_fits_worse(strangers):
    foreign = [estimate_offset(opening, strangers[k - 1][1]) for k, (opening, _) in enumerate(strangers)]
    own = [estimate_offset(opening, mel) for opening, mel in strangers]
    assert np.mean([f.confidence for f in own]) > np.mean([f.confidence for f in foreign]) + 0.5
    assert np.mean([f.correlation for f in own]) > np.mean([f.correlation for f in foreign]) + 0.2


def test_frames_without_a_face_count_for_nothing(strangers):
    opening, mel = strangers[1]
    holed = opening.copy()
    holed[20:35] = np.nan
    blank = opening.copy()
    blank[:12] = np.nan
    for lips in (holed, blank):
        assert abs(estimate_offset(lips, later(mel, -3)).frames - 3) <= 1


def test_slow_changes_of_the_opening_do_not_matter(strangers):
    for opening, mel in strangers[:2]:
        drift = opening + np.linspace(0, 0.4, len(opening))  # several times what speech does
        assert abs(estimate_offset(drift, mel).frames - estimate_offset(opening, mel).frames) <= 1


def test_the_fit_can_be_done_again_and_takes_a_common_offset_out(strangers):
    pairs = list(synthetic_pairs(range(12)))
    late = [(np.concatenate([np.repeat(o[0], 3), o[:-3]]), m) for o, m in pairs[6:]]
    together = fit(pairs[:6], late)
    assert together.shape == load_weights().shape and together.dtype == np.float32
    errors = [estimate_offset(opening, mel, together).frames for opening, mel in strangers]
    assert np.mean(np.abs(errors) <= 1) >= 0.8
    np.testing.assert_array_equal(together, fit(pairs[:6], late))


def test_the_coefficients_are_small_and_part_of_the_package():
    assert COEFFICIENTS.stat().st_size < 200_000
    assert np.isfinite(load_weights()).all() and load_weights().std() > 0


@real
def test_known_shifts_of_real_clips_that_the_fit_has_not_seen():
    videos = sorted((Path(CLIPS) / "grid_s1").glob("*.mp4"))[-HELD_OUT:][::10] + sorted(Path(CLIPS).glob("grid_*.mp4"))
    errors = []
    for video, (opening, _) in zip(videos, filmed_pairs(videos), strict=True):
        sound = read_audio(video)
        for shift in range(-5, 6):
            errors.append(estimate_offset(opening, log_mel(shift_audio(sound, -shift))).frames - shift)
    assert np.mean(np.abs(np.array(errors) - round(np.median(errors))) <= 1) >= 0.8
    assert np.abs(errors).max() <= REACH * 2 and abs(np.median(errors)) <= 1.5
