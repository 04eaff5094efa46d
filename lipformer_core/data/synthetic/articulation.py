"""Where the lips are while a script is spoken: phoneme targets blended by dominance, closures that really close."""

import numpy as np

from lipformer_core.data.synthetic.speech import PHONEMES, Segment
from lipformer_core.timing import FPS

RATE = 200  # Hz, of the trajectories before they are sampled at the frames
CHANNELS = ("opening", "jaw", "wide", "protrude", "tongue", "tuck")
SPREAD_S = 0.030  # seconds over which neighbouring targets mix


def mouth_track(script: list[Segment], n_frames: int) -> np.ndarray:
    """Mouth (n_frames, len(CHANNELS)) at times k / 25 s.

    Every phoneme pulls towards its target with its dominance (Cohen and Massaro's idea); bilabials and pauses then
    shut the lips for their own length, so that a closure is exactly zero and never averaged away.
    """
    from scipy.ndimage import gaussian_filter1d

    steps = int(np.ceil(n_frames / FPS * RATE)) + 1
    times = np.arange(steps) / RATE
    weight = np.full(steps, 1e-3)
    pull = np.zeros((steps, len(CHANNELS)))
    shut = np.zeros(steps)
    for symbol, start, end in script:
        p = PHONEMES[symbol]
        inside = (times >= start) & (times < end)
        weight[inside] = p.dominance
        pull[inside] = p.dominance * np.array([p.opening, p.opening * p.jaw, p.wide, p.protrude, p.tongue, p.tuck])
        if p.opening == 0.0:
            ramp = 0.035
            rise = np.clip((times - (start - ramp * 0.7)) / ramp, 0, 1)
            fall = np.clip(((end + ramp * 0.3) - times) / ramp, 0, 1)
            shut = np.maximum(shut, np.minimum(rise, fall))
    sigma = SPREAD_S * RATE
    mouth = (
        gaussian_filter1d(pull, sigma, axis=0, mode="nearest")
        / gaussian_filter1d(weight, sigma, mode="nearest")[:, None]
    )
    held = 1 - shut * shut * (3 - 2 * shut)
    mouth[:, :2] *= held[:, None]
    mouth[:, 5] *= held
    at = np.minimum(np.round(np.arange(n_frames) / FPS * RATE).astype(int), steps - 1)
    return mouth[at]
