"""Colours of wider range or gamut to BT.709: PQ and HLG are tone-mapped, BT.2020 and Display P3 converted.

Linear light counts in units of reference white (203 cd/m², ITU-R BT.2408). Up to `KNEE` nothing is changed, so that
skin keeps its brightness; highlights above roll off towards white. One factor serves the three channels of a pixel,
which keeps its hue.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

PQ, HLG = 16, 18  # numbers of H.273, as all below
HDR = {PQ: "PQ", HLG: "HLG"}
BT2020, P3 = 9, 12
GAMUTS = {BT2020: "BT.2020", P3: "Display P3"}
# Linear RGB to linear BT.709 RGB, white D65 in all.
TO_BT709 = {
    BT2020: [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]],
    P3: [[1.224940, -0.224940, 0.0], [-0.042057, 1.042057, 0.0], [-0.019638, -0.078636, 1.098274]],
}
BRIGHTNESS = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of BT.2020
WHITE = 203.0  # cd/m²
PEAKS = {PQ: 10_000 / WHITE, HLG: 1_000 / WHITE}
KNEE = 0.6
GAMMA = 2.4  # of a BT.709 display
STRIP = 2**18  # pixels that are converted at once


def needs_conversion(transfer: int, primaries: int) -> bool:
    """Whether pictures with these tags are not BT.709's, or so near that nobody sees it."""
    return transfer in HDR or primaries in GAMUTS


def to_bt709(picture: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """Convert an RGB picture to BT.709, strip by strip.

    Args:
        picture: `(H, W, 3)` uint16, full range.
        transfer, primaries: its tags; an HDR picture without known primaries counts as BT.2020.

    Returns:
        `(H, W, 3)` uint8.
    """
    matrix = TO_BT709.get(primaries, TO_BT709[BT2020] if transfer in HDR else np.eye(3))
    matrix = np.asarray(matrix, np.float32).T
    light, result = _light(transfer), np.empty(picture.shape, np.uint8)
    for rows in strips(picture.shape):
        linear = light[picture[rows]]
        if transfer == HLG:  # from the scene's light to a display's of 1000 cd/m²
            linear *= PEAKS[HLG] * (linear @ BRIGHTNESS)[..., None] ** 0.2
        if transfer in HDR:
            linear *= _roll_off(linear.max(2, keepdims=True), PEAKS[transfer])
        shown = np.clip(linear @ matrix, 0, 1)
        result[rows] = np.rint(255 * shown ** (1 / GAMMA)).astype(np.uint8)
    return result


def strips(shape: tuple[int, ...]) -> Iterator[slice]:
    """Rows of a picture in slices of about `STRIP` pixels, so that what is computed between takes little memory."""
    step = max(1, STRIP // shape[1])
    return (slice(top, top + step) for top in range(0, shape[0], step))


def _roll_off(brightest: np.ndarray, peak: float) -> np.ndarray:
    """Factor for a pixel by its brightest channel: 1 up to the knee, above such that `peak` becomes 1."""
    over, top = np.maximum(brightest - KNEE, 0) / (1 - KNEE), (peak - KNEE) / (1 - KNEE)
    mapped = KNEE + (1 - KNEE) * over * (1 + over / top**2) / (1 + over)
    return np.where(over > 0, mapped / np.maximum(brightest, KNEE), 1).astype(np.float32)


@lru_cache(maxsize=4)
def _light(transfer: int) -> np.ndarray:
    """Linear light of each of 65,536 signal values, float32: the scene's in [0, 1] for HLG, else the display's."""
    signal = np.linspace(0, 1, 2**16)
    if transfer == PQ:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        root = signal ** (1 / m2)
        light = PEAKS[PQ] * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    elif transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    else:
        light = signal**GAMMA
    return light.astype(np.float32)
