"""The quality gate: what is kept, what is left out, and that every frame that is left out has its reason in words."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from material import draw_face, face_landmarks, tone

from lipformer_core.config import DataSettings
from lipformer_core.data.audio import log_mel
from lipformer_core.data.audio.av_offset import Offset
from lipformer_core.data.faces.alignment import crop_transforms, warp_crop
from lipformer_core.data.faces.tracking import FaceTrack
from lipformer_core.data.prepared.quality import Limits, gate, sharpness, speech_share

CLIPS = os.environ.get("LIPFORMER_CLIPS")
LIMITS = Limits()
SPEECH = 0.6
SHARP = 0.1


def face_track(n=60, distance=40.0, yaw=0.0, other=0.0, shot=None):
    marks = np.stack([face_landmarks((100, 80), d) for d in np.broadcast_to(distance, n)])
    pose = np.stack([np.broadcast_to(yaw, n), np.zeros(n), np.zeros(n)], -1).astype(np.float32)
    others = np.broadcast_to(np.float32(other), n).copy()
    shot = np.zeros(n, np.int32) if shot is None else shot
    return FaceTrack(marks, pose, np.ones(n, bool), np.zeros(n, bool), shot, others)


def judge(track, sharp=SHARP, speech=SPEECH, offset=None, limits=LIMITS, still=False):
    return gate(track, np.broadcast_to(np.float32(sharp), len(track)), speech, offset, limits, still)


def test_a_good_clip_is_kept_whole_with_its_numbers():
    verdict = judge(face_track(yaw=12.0), offset=Offset(1, 5.0, 0.6))
    assert verdict.reason is None and verdict.ranges == [(0, 60)] and verdict.trimmed == []
    measured = verdict.measured
    assert measured["eye_distance"] == pytest.approx(40, abs=0.1) and measured["sharpness"] == pytest.approx(SHARP)
    assert measured["yaw_low"] == measured["yaw_high"] == 12 and measured["speech_share"] == SPEECH
    assert measured["offset"] == 1 and measured["frames"] == 60 and measured["face_share"] == 1


@pytest.mark.parametrize(
    ("track", "options", "words"),
    [
        (face_track(distance=8.0), {}, "too small: eyes 8 px apart, at least 12"),
        (face_track(yaw=-75.0), {}, "turned too far: by 75 degrees, at most 60"),
        (face_track(other=0.95), {}, "several people: another face 0.95 times as large"),
        (face_track(), {"sharp": 0.0001}, "too blurred: sharpness 0.000"),
        (face_track(8), {}, "too short: 8 good frames in a row, 12"),
        (face_track(), {"speech": 0.01}, "no speech: sound in 1%"),
        (face_track(), {"offset": Offset(12, 6.0, 0.7)}, r"out of sync: the picture is 0.48 s \(12 frames\) behind"),
        (face_track(), {"offset": Offset(-11, 6.0, 0.7)}, r"\(11 frames\) ahead of the sound"),
    ],
)
def test_each_fault_is_named(track, options, words):
    verdict = judge(track, **options)
    assert verdict.ranges == []
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(verdict.reason)
    assert [(t.first, t.last, t.reason) for t in verdict.trimmed] == [(0, len(track), verdict.reason)]


def test_no_face_and_no_frames():
    blank = face_track(9)
    blank.valid[:] = False
    assert judge(blank).reason == "no face"
    assert judge(FaceTrack(*(values[:0] for values in vars(blank).values()))).reason == "no frames"
    mostly = face_track(1000)
    mostly.valid[15:] = False
    assert judge(mostly).reason == "no face in 98% of the frames"


def test_every_frame_is_kept_or_has_a_reason():
    rng = np.random.default_rng(0)
    for _ in range(20):
        n = 400
        steps = [np.repeat(rng.uniform(low, high, 20), n // 20) for low, high in ((8, 40), (0, 80), (0, 1), (0, 0.1))]
        shot = np.sort(rng.integers(0, 4, n)).astype(np.int32)
        track = face_track(n, steps[0], steps[1], steps[2], shot)
        track.valid[np.repeat(rng.random(20) < 0.1, n // 20)] = False
        verdict = judge(track, sharp=steps[3])
        covered = sorted([*verdict.ranges, *[(t.first, t.last) for t in verdict.trimmed]])
        assert covered[0][0] == 0 and covered[-1][1] == n
        assert all(a[1] == b[0] for a, b in zip(covered[:-1], covered[1:], strict=True))
        assert all(t.reason for t in verdict.trimmed)
        for first, last in verdict.ranges:
            assert track.valid[first:last].all() and last - first >= LIMITS.min_run
            assert len(set(shot[first:last].tolist())) == 1


def test_the_bad_part_goes_and_the_good_parts_stay():
    track = face_track(100, yaw=np.repeat([0.0, 80.0, 0.0], [40, 30, 30]))
    track.valid[:12] = False
    verdict = judge(track)
    assert verdict.reason is None and verdict.ranges == [(12, 40), (70, 100)]
    assert [(t.first, t.last) for t in verdict.trimmed] == [(0, 12), (40, 70)]
    assert verdict.trimmed[0].reason == "no face" and verdict.trimmed[1].reason.startswith("turned too far: by 80")


def test_a_short_lapse_does_not_cut_a_clip():
    sharp = np.full(60, SHARP)
    sharp[30:34] = 0
    assert judge(face_track(), sharp=sharp).ranges == [(0, 60)]


def test_a_cut_parts_a_clip():
    shot = np.repeat([0, 1], [35, 25]).astype(np.int32)
    assert judge(face_track(shot=shot)).ranges == [(0, 35), (35, 60)]


def test_offsets_without_confidence_or_to_be_corrected_are_no_fault():
    assert judge(face_track(), offset=Offset(12, 0.5, 0.1)).reason is None
    corrected = Limits.from_settings(DataSettings(correct_offset=True))
    assert judge(face_track(), offset=Offset(12, 6.0, 0.7), limits=corrected).reason is None


def test_without_the_gate_only_length_and_a_face_count():
    limits = Limits.from_settings(DataSettings(quality_gate=False))
    bad = face_track(distance=2.0, yaw=-75.0, other=0.95)
    verdict = judge(bad, sharp=0.0, speech=0.0, offset=Offset(40, 6.0, 0.7), limits=limits)
    assert verdict.reason is None and verdict.ranges == [(0, 60)]
    bad.valid[:50] = False
    assert judge(bad, limits=limits).reason == "no face"
    assert judge(face_track(8), limits=limits).reason.startswith("too short")
    assert Limits.from_settings(DataSettings()) == Limits()


def test_a_portrait_needs_a_face_alone():
    verdict = gate(face_track(1), np.array([SHARP]), None, None, LIMITS, still=True)
    assert verdict.reason is None and verdict.ranges == [(0, 1)] and verdict.measured["speech_share"] is None
    small = gate(face_track(1, distance=5.0), np.array([SHARP]), None, None, LIMITS, still=True)
    assert small.reason.startswith("too small")


def test_sharpness_falls_with_blur_and_not_with_contrast_or_crop_size():
    marks = face_landmarks((160, 120), 80)
    picture = draw_face(360, 320, marks)
    picture = np.clip(picture + np.random.default_rng(0).normal(0, 6, picture.shape), 0, 255).astype(np.uint8)
    values = []
    for sigma in (0, 1, 2, 4, 8):
        blurred = cv2.GaussianBlur(picture, (0, 0), sigma) if sigma else picture
        crops = []
        for size in (96, 256):
            crops.append(warp_crop(blurred, crop_transforms(marks[None], np.ones(1, bool), size)[0], size))
        values.append([sharpness(crop) for crop in crops])
    values = np.array(values)
    assert (np.diff(values, axis=0) < 0).all()
    assert np.abs(np.log(values[1:, 0] / values[1:, 1])).max() < 0.5
    crop = warp_crop(picture, crop_transforms(marks[None], np.ones(1, bool), 96)[0], 96)
    dull = (64 + crop.astype(np.float32) / 2).astype(np.uint8)
    assert sharpness(dull) == pytest.approx(sharpness(crop), rel=0.15)
    assert sharpness(np.full((96, 96, 3), 127, np.uint8)) == 0


def test_speech_share():
    assert speech_share(log_mel(np.zeros(16_000))) == 0
    assert 0.35 < speech_share(log_mel(tone(4))) < 0.65  # on half the time
    hum = 0.2 * np.sin(2 * np.pi * 50 * np.arange(32_000) / 16_000)
    noise = np.random.default_rng(0).normal(0, 0.02, 32_000)
    assert speech_share(log_mel(hum)) < 0.05 and speech_share(log_mel(noise)) < 0.05
    assert speech_share(np.zeros((0, 80), np.float32)) == 0


@pytest.mark.skipif(not CLIPS, reason="LIPFORMER_CLIPS names no real material")
def test_real_speech_is_heard():
    from lipformer_core.data.media import read_audio

    for clip in sorted(Path(CLIPS).glob("grid_*.mp4"))[:4]:
        assert speech_share(log_mel(read_audio(clip))) > 0.3
