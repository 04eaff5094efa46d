"""Speech from phonemes: a source (glottal pulses and noise) through moving formants, one voice a person."""

from dataclasses import dataclass

import numpy as np
from numba import njit

from lipformer_core.timing import SAMPLE_RATE

CONTROL_RATE = 200  # Hz, of everything that moves


@dataclass(frozen=True)
class Phoneme:
    """Sound and mouth of one phoneme. Openings are in inter-ocular distances, formants in Hz of an average adult."""

    kind: str  # vowel, nasal, liquid, fricative, plosive, silence
    seconds: float
    formants: tuple[float, float, float]
    voice: float  # 0-1
    noise: float  # 0-1
    noise_hz: float
    opening: float
    jaw: float  # share of the opening that the jaw makes
    wide: float  # -1 rounded in to +1 spread
    protrude: float  # 0-1
    tongue: float  # 0-1: raised to the upper teeth
    tuck: float = 0.0  # 0-1: lower lip under the upper teeth
    dominance: float = 1.0  # how firmly it holds the lips against its neighbours


def _vowel(
    s: float, f: tuple[float, float, float], opening: float, jaw: float, wide: float, protrude: float
) -> Phoneme:
    return Phoneme("vowel", s, f, 1.0, 0.0, 0.0, opening, jaw, wide, protrude, 0.0)


PHONEMES: dict[str, Phoneme] = {
    "aa": _vowel(0.16, (750, 1150, 2500), 0.40, 0.85, 0.0, 0.0),
    "ae": _vowel(0.15, (680, 1720, 2450), 0.33, 0.8, 0.55, 0.0),
    "eh": _vowel(0.13, (560, 1850, 2520), 0.25, 0.75, 0.45, 0.0),
    "ah": _vowel(0.10, (600, 1250, 2500), 0.23, 0.75, 0.05, 0.0),
    "iy": _vowel(0.14, (290, 2300, 3000), 0.12, 0.45, 1.0, 0.0),
    "ih": _vowel(0.10, (400, 2000, 2600), 0.16, 0.6, 0.6, 0.0),
    "er": _vowel(0.13, (470, 1350, 1700), 0.16, 0.6, -0.3, 0.4),
    "ao": _vowel(0.16, (560, 860, 2450), 0.31, 0.8, -0.55, 0.6),
    "ow": _vowel(0.15, (450, 820, 2400), 0.21, 0.65, -0.8, 0.85),
    "uw": _vowel(0.14, (310, 880, 2250), 0.09, 0.4, -1.0, 1.0),
    "m": Phoneme("nasal", 0.09, (260, 1000, 2200), 0.55, 0.0, 0.0, 0.0, 0.5, 0.0, 0.05, 0.0, dominance=3.0),
    "n": Phoneme("nasal", 0.08, (280, 1600, 2550), 0.55, 0.0, 0.0, 0.10, 0.5, 0.15, 0.0, 0.9),
    "ng": Phoneme("nasal", 0.09, (280, 2000, 2600), 0.5, 0.0, 0.0, 0.13, 0.6, 0.1, 0.0, 0.1),
    "l": Phoneme("liquid", 0.08, (360, 1150, 2700), 0.8, 0.0, 0.0, 0.16, 0.6, 0.1, 0.0, 1.0),
    "r": Phoneme("liquid", 0.08, (340, 1150, 1550), 0.8, 0.0, 0.0, 0.13, 0.5, -0.5, 0.6, 0.2),
    "w": Phoneme("liquid", 0.08, (300, 680, 2200), 0.75, 0.0, 0.0, 0.06, 0.4, -1.0, 1.0, 0.0, dominance=2.0),
    "y": Phoneme("liquid", 0.07, (280, 2250, 2950), 0.75, 0.0, 0.0, 0.11, 0.4, 0.8, 0.0, 0.2),
    "s": Phoneme("fricative", 0.11, (320, 1700, 2600), 0.0, 0.75, 6000, 0.09, 0.1, 0.55, 0.0, 0.2, dominance=1.6),
    "z": Phoneme("fricative", 0.09, (320, 1700, 2600), 0.4, 0.5, 5700, 0.09, 0.1, 0.5, 0.0, 0.2, dominance=1.6),
    "sh": Phoneme("fricative", 0.12, (320, 1800, 2500), 0.0, 0.8, 3000, 0.13, 0.1, -0.6, 0.9, 0.1, dominance=1.8),
    "f": Phoneme("fricative", 0.10, (340, 1100, 2100), 0.0, 0.28, 7000, 0.035, 0.1, 0.1, 0.0, 0.0, 1.0, 2.5),
    "v": Phoneme("fricative", 0.08, (340, 1100, 2100), 0.5, 0.2, 7000, 0.035, 0.1, 0.1, 0.0, 0.0, 1.0, 2.5),
    "th": Phoneme("fricative", 0.10, (320, 1300, 2500), 0.0, 0.25, 5000, 0.13, 0.4, 0.1, 0.0, 1.0, dominance=1.4),
    "p": Phoneme("plosive", 0.10, (300, 900, 2200), 0.0, 0.8, 900, 0.0, 0.5, 0.0, 0.05, 0.0, dominance=3.0),
    "b": Phoneme("plosive", 0.09, (250, 900, 2200), 0.3, 0.5, 800, 0.0, 0.5, 0.0, 0.05, 0.0, dominance=3.0),
    "t": Phoneme("plosive", 0.09, (320, 1750, 2650), 0.0, 0.9, 4600, 0.10, 0.3, 0.2, 0.0, 0.8),
    "d": Phoneme("plosive", 0.08, (270, 1750, 2650), 0.3, 0.6, 4200, 0.10, 0.35, 0.2, 0.0, 0.8),
    "k": Phoneme("plosive", 0.10, (320, 1900, 2400), 0.0, 0.9, 2000, 0.14, 0.5, 0.1, 0.0, 0.0),
    "g": Phoneme("plosive", 0.08, (270, 1900, 2400), 0.3, 0.6, 1900, 0.14, 0.5, 0.1, 0.0, 0.0),
    "hh": Phoneme("fricative", 0.07, (550, 1400, 2500), 0.0, 0.3, 1500, 0.18, 0.7, 0.0, 0.0, 0.0, dominance=0.4),
    "sil": Phoneme("silence", 0.3, (450, 1450, 2500), 0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, dominance=3.0),
}
VOWELS = tuple(k for k, p in PHONEMES.items() if p.kind == "vowel")
ONSETS = tuple(k for k, p in PHONEMES.items() if p.kind not in ("vowel", "silence") and k != "ng")
CODAS = tuple(
    k for k in PHONEMES if k in ("m", "n", "ng", "l", "r", "s", "z", "sh", "f", "v", "th", "p", "t", "d", "k", "b")
)

Segment = tuple[str, float, float]  # symbol, start and end in seconds


def random_script(rng: np.random.Generator, seconds: float, rate: float) -> list[Segment]:
    """Words of one to three syllables with pauses between phrases, covering [0, seconds] from a random start."""
    time = -float(rng.uniform(0, 1.5))
    words_left = int(rng.integers(2, 6))
    rate = rate * float(rng.uniform(0.92, 1.08))
    segments: list[Segment] = []

    def say(symbol: str, duration: float) -> None:
        nonlocal time
        if time + duration > 0 and time < seconds:
            segments.append((symbol, max(time, 0.0), min(time + duration, seconds)))
        time += duration

    while time < seconds:
        for _ in range(int(rng.choice((1, 2, 3), p=(0.45, 0.4, 0.15)))):
            stress = float(rng.uniform(0.8, 1.45))
            parts = [str(rng.choice(ONSETS))] if rng.uniform() < 0.88 else []
            parts.append(str(rng.choice(VOWELS)))
            parts += [str(rng.choice(CODAS))] if rng.uniform() < 0.4 else []
            for symbol in parts:
                length = PHONEMES[symbol].seconds * (stress if symbol in VOWELS else float(rng.uniform(0.9, 1.15)))
                say(symbol, length / rate)
        words_left -= 1
        if words_left <= 0:
            say("sil", float(rng.uniform(0.2, 0.6)))
            words_left = int(rng.integers(3, 8))
    return segments


@njit(cache=True)
def _resonate(source, noise, voice, breath, centres, widths, fric, fric_hz, fric_width, rate, step, out):
    """A cascade of formants for voice and breath beside one resonator for frication; coefficients move linearly."""
    count = centres.shape[1]
    state = np.zeros((count, 2))
    fs = np.zeros(2)
    for i in range(out.shape[0]):
        at = i / step
        k = min(int(at), centres.shape[0] - 2)
        f = at - k
        sample = source[i] * (voice[k] * (1 - f) + voice[k + 1] * f) + noise[i] * (
            breath[k] * (1 - f) + breath[k + 1] * f
        )
        for j in range(count):
            hz = centres[k, j] * (1 - f) + centres[k + 1, j] * f
            r = np.exp(-np.pi * widths[j] / rate)
            b = 2 * r * np.cos(2 * np.pi * hz / rate)
            c = -r * r
            value = (1 - b - c) * sample + b * state[j, 0] + c * state[j, 1]
            state[j, 1] = state[j, 0]
            state[j, 0] = value
            sample = value
        hz = fric_hz[k] * (1 - f) + fric_hz[k + 1] * f
        width = fric_width[k] * (1 - f) + fric_width[k + 1] * f
        r = np.exp(-np.pi * width / rate)
        b = 2 * r * np.cos(2 * np.pi * hz / rate)
        c = -r * r
        band = (
            noise[i] - noise[max(i - 2, 0)]
        )  # no energy at 0 Hz and at half the rate: each fricative keeps to its band
        value = (1 - r) * band * (fric[k] * (1 - f) + fric[k + 1] * f) + b * fs[0] + c * fs[1]
        fs[1] = fs[0]
        fs[0] = value
        out[i] = sample + value


def _smooth(values: np.ndarray, seconds: float) -> np.ndarray:
    """Gaussian smoothing along the first axis at the control rate, edges held."""
    from scipy.ndimage import gaussian_filter1d

    return gaussian_filter1d(values, seconds * CONTROL_RATE, axis=0, mode="nearest")


def synthesise(
    script: list[Segment], samples: int, rng: np.random.Generator, *, pitch_hz: float, tract: float, breath: float
) -> np.ndarray:
    """Sound (samples,) float32 at 16 kHz, peak below 1, of `script` in one voice, with a little room noise."""
    steps = int(np.ceil(samples / SAMPLE_RATE * CONTROL_RATE)) + 2
    times = np.arange(steps) / CONTROL_RATE
    voice, fric, aspirate = np.zeros(steps), np.zeros(steps), np.zeros(steps)
    formants = np.tile(np.array(PHONEMES["sil"].formants, float), (steps, 1))
    fric_hz, fric_width = np.full(steps, 3000.0), np.full(steps, 2000.0)
    for symbol, start, end in script:
        p = PHONEMES[symbol]
        inside = (times >= start) & (times < end)
        formants[inside] = p.formants
        if p.kind == "plosive":
            burst = inside & (times >= end - 0.022)
            voice[inside & ~burst] = 0.12 * p.voice
            fric[burst] = 1.5 * p.noise
            aspirate[burst] = 0.25 * (1 - p.voice)
        else:
            voice[inside] = p.voice * (0.5 if p.kind == "nasal" else 1.0)
            fric[inside] = p.noise * (symbol != "hh")
            aspirate[inside] = 0.6 * p.noise * (symbol == "hh")
        if p.noise_hz:
            fric_hz[inside] = p.noise_hz
            fric_width[inside] = 900.0 if p.noise_hz < 4000 else 1800.0
    formants = _smooth(formants, 0.016) * tract
    voice, aspirate = _smooth(voice, 0.008), _smooth(aspirate, 0.005)
    fric = _smooth(fric, 0.004)
    high = np.stack([np.full(steps, 3500.0), np.full(steps, 4500.0)], 1) * min(tract, 1.15)
    centres = np.concatenate([np.clip(formants, 180, 4200), high], 1)
    widths = np.array([70.0, 100.0, 140.0, 220.0, 300.0])

    clock = np.arange(samples) / SAMPLE_RATE
    wander = sum(
        rng.uniform(0.3, 1) * np.sin(2 * np.pi * rng.uniform(0.3, 2.2) * clock + rng.uniform(0, 6)) for _ in range(3)
    )
    pitch = pitch_hz * (1 + 0.07 * wander) * (1 + 0.006 * np.sin(2 * np.pi * 5.3 * clock))
    phase = np.cumsum(pitch) / SAMPLE_RATE % 1.0
    opened = np.where(
        phase < 0.6, 3 * (phase / 0.6) ** 2 - 2 * (phase / 0.6) ** 3, np.clip(1 - (phase - 0.6) / 0.12, 0, 1)
    )
    source = np.diff(opened, n=2, prepend=(0.0, 0.0)) * 5 + np.diff(opened, prepend=0.0)  # lifts the upper formants
    noise = rng.normal(0, 1, samples)
    out = np.zeros(samples)
    breathing, frication = aspirate * 0.35 + voice * breath * 0.12, (fric, fric_hz, fric_width)
    rates = float(SAMPLE_RATE), SAMPLE_RATE / CONTROL_RATE
    _resonate(source, noise, voice, breathing, centres, widths, *frication, *rates, out)
    out = out * (0.18 / (np.sqrt(np.mean(out**2)) + 0.02))
    out = np.tanh(out * 1.2) / 1.2 + rng.normal(0, 1, samples) * rng.uniform(0.0004, 0.0015)
    return out.astype(np.float32)
