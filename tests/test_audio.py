"""Log-mel: clock, range, silence, robustness."""

import librosa
import numpy as np
import pytest

from lipformer_core.data.audio import SILENCE, TYPICAL, band_means, log_mel, mel_windows
from lipformer_core.timing import F_MAX, F_MIN, HOP, MEL_PER_FRAME, N_FFT, N_MELS, SAMPLE_RATE, WINDOW


def noise(n: int, level: float = 0.3) -> np.ndarray:
    return (level * np.random.default_rng(0).standard_normal(n)).astype(np.float32)


def test_digital_silence_is_exactly_the_floor():
    mel = log_mel(np.zeros(SAMPLE_RATE, np.float32))
    assert mel.shape == (101, 80) and mel.dtype == np.float32
    assert (mel == SILENCE).all()


@pytest.mark.parametrize("n", [0, 1, 100, 160, 511, 640 * 25])
def test_length_follows_the_hop_also_for_tiny_sounds(n):
    assert log_mel(noise(n)).shape == (1 + n // HOP, 80)


def test_range_of_a_full_scale_voice():
    t = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    mel = log_mel(np.sign(np.sin(2 * np.pi * 120 * t)).astype(np.float32))
    assert -1 <= mel.min() and 0.3 < mel.max() < 1.3


def test_it_is_librosas_mel():
    sound = np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)
    bands = librosa.feature.melspectrogram(
        y=np.pad(sound, N_FFT // 2), sr=SAMPLE_RATE, n_fft=N_FFT, hop_length=HOP, win_length=WINDOW, center=False,
        n_mels=N_MELS, fmin=F_MIN, fmax=F_MAX,
    )  # fmt: skip
    expected = 2 / 7 * np.log10(np.maximum(bands.T / 1e-5, 1)) - 1
    np.testing.assert_allclose(log_mel(sound), expected, atol=1e-6)


def test_frame_i_is_centred_on_sample_160_i():
    samples = np.zeros(SAMPLE_RATE, np.float32)
    samples[50 * HOP] = 1.0
    energy = log_mel(samples).sum(1)
    assert energy.argmax() == 50
    np.testing.assert_allclose(energy[49], energy[51], rtol=1e-4)


def test_not_a_number_counts_as_silence():
    samples = noise(8_000)
    hurt = samples.copy()
    hurt[4_000:4_010] = [np.nan, np.inf, -np.inf, np.nan, np.nan, np.nan, np.nan, np.nan, np.nan, np.nan]
    assert np.isfinite(log_mel(hurt)).all()
    np.testing.assert_array_equal(log_mel(hurt)[:20], log_mel(samples)[:20])
    assert (log_mel(np.full(8_000, np.nan)) == SILENCE).all()


def test_blocks_do_not_show(monkeypatch):
    samples = noise(3 * SAMPLE_RATE)
    whole = log_mel(samples)
    monkeypatch.setattr("lipformer_core.data.audio.mel.BLOCK", 37)
    np.testing.assert_allclose(log_mel(samples), whole, atol=1e-6)


def test_stereo_is_refused():
    with pytest.raises(ValueError, match="mono"):
        log_mel(np.zeros((2, 100)))


def test_windows_are_centred_and_padded_with_silence():
    mel = np.arange(100, dtype=np.float32)[:, None].repeat(80, 1)
    windows = mel_windows(mel, np.array([0.0, 0.04, 0.5, 0.99, 5.0]), 16)
    assert windows.shape == (5, 16, 80)
    assert (windows[0, :8] == SILENCE).all() and windows[0, 8, 0] == 0
    assert windows[1, 8, 0] == MEL_PER_FRAME
    np.testing.assert_array_equal(windows[2, :, 0], np.arange(42, 58))
    assert windows[3, 8, 0] == 99 and (windows[3, 9:] == SILENCE).all()
    assert (windows[4] == SILENCE).all()


def test_windows_never_drift_at_ntsc_rates():
    mel = np.arange(400_000, dtype=np.float64)[:, None]
    times = np.arange(89_910) * 1001 / 30_000  # 50 minutes
    centre = mel_windows(mel, times, 1)[:, 0, 0].astype(np.float64)
    assert np.abs(centre / 100 - times).max() <= 0.005 + 1e-9


def test_band_means_are_the_recordings_own_and_typical_for_silence():
    rng = np.random.default_rng(0)
    mel = rng.uniform(-1, 1, (50, 80)).astype(np.float32)
    np.testing.assert_allclose(band_means(mel), mel.mean(0), atol=1e-6)
    assert (band_means(np.full((50, 80), SILENCE, np.float32)) == TYPICAL).all()
    assert (band_means(np.empty((0, 80), np.float32)) == TYPICAL).all()
