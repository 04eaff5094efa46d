"""Who a synthetic person is: every number that does not change from frame to frame, drawn from one seed.

Lengths are in inter-ocular distances (63 mm in an average adult), colours are linear light in 0-1.
"""

from dataclasses import dataclass

import numpy as np

# sRGB anchors from very light to very dark skin; a person lies between two neighbours.
SKIN_SRGB = np.array(
    [(240, 208, 190), (228, 186, 160), (210, 162, 130), (186, 136, 102), (150, 102, 74), (112, 74, 54), (80, 52, 40)]
)
HAIR_SRGB = np.array([
    (26, 21, 20), (44, 31, 25), (72, 48, 34), (104, 70, 44),
    (150, 108, 66), (196, 160, 104), (128, 62, 34), (160, 158, 156),
])  # fmt: skip
IRIS_SRGB = np.array([(62, 38, 24), (88, 56, 32), (104, 88, 48), (84, 108, 92), (92, 124, 150), (112, 128, 140)])
CLOTH_SRGB = np.array([
    (38, 44, 62), (200, 200, 204), (120, 36, 44), (52, 84, 70), (70, 100, 150),
    (28, 28, 30), (168, 140, 104), (110, 110, 116), (176, 96, 80), (92, 72, 120),
])  # fmt: skip
HAIR_STYLES = ("short", "crop", "side", "bob", "long", "fringe", "tied", "bald")


def linear(srgb: np.ndarray | tuple[float, ...]) -> np.ndarray:
    """sRGB 0-255 to linear light 0-1, with the gamma of 2 that the renderer inverts."""
    return (np.asarray(srgb, np.float64) / 255.0) ** 2


@dataclass(frozen=True)
class Identity:
    """One person; see `sample_identity` for the ranges."""

    feminine: float  # 0-1, correlates several traits
    age: float  # 0-1
    shape: dict[str, float]  # multipliers and offsets of the head's geometry
    skin: np.ndarray  # (3,)
    lips: np.ndarray  # (3,)
    hair: np.ndarray  # (3,)
    brow: np.ndarray  # (3,)
    iris: np.ndarray  # (3,)
    cloth: np.ndarray  # (3,)
    style: str
    hair_shape: dict[str, float]
    beard: float  # 0-1 density
    moustache: float  # 0-1 density
    stubble: float  # 0-1
    freckles: float  # 0-1
    glasses: float  # 0 none, else the rim's thickness in inter-ocular distances
    background: np.ndarray  # (4, 3) corner colours
    key_light: np.ndarray  # (3,) direction towards the light, unit length
    light: dict[str, float]
    pitch_hz: float
    tract: float  # formant multiplier
    breath: float  # 0-1, how much noise the voice carries
    rate: float  # speaking rate multiplier
    articulation: float  # opening multiplier
    framing: dict[str, float]
    texture_seed: int


def _between(palette: np.ndarray, position: float) -> np.ndarray:
    low = min(int(position), len(palette) - 2)
    return palette[low] + (palette[low + 1] - palette[low]) * (position - low)


def sample_identity(rng: np.random.Generator) -> Identity:
    """Draw one person from `rng`; equal generators give equal people."""
    u = rng.uniform
    feminine = float(np.clip(0.5 + 0.5 * np.sign(u(-1, 1)) * u(0.3, 1.0), 0, 1))
    age = float(u(0, 1))
    tone = u(0, len(SKIN_SRGB) - 1.001)
    skin = _between(SKIN_SRGB, tone) * (1 + rng.normal(0, 0.025, 3))
    dark = tone / (len(SKIN_SRGB) - 1)

    grey = age > 0.75 and u() < 0.6
    hair_index = 7 if grey else int(u(0, 2.2 if dark > 0.5 else 6.99))
    hair = HAIR_SRGB[hair_index] * u(0.85, 1.15)
    style_odds = (
        np.array([4, 1.5, 3, 0.2, 0.2, 0.8, 0.3, 1.4])
        if feminine < 0.5
        else np.array([0.5, 0.1, 0.8, 2.5, 3.5, 1.8, 2, 0.0])
    )
    style = str(rng.choice(HAIR_STYLES, p=style_odds / style_odds.sum()))
    redness = skin * np.array([0.92, 0.66, 0.66]) + np.array([10.0, 0, 4])
    lipstick = feminine > 0.5 and u() < 0.45
    lips = redness * (1 - 0.5 * lipstick) + np.array([170.0, 40, 60]) * 0.5 * lipstick
    iris = IRIS_SRGB[int(u(0, 1.99 if dark > 0.55 else 5.99))] * u(0.85, 1.15)
    male = feminine < 0.5
    bearded = male and u() < 0.35

    def n(scale: float) -> float:
        return float(np.clip(rng.normal(0, scale), -2.2 * scale, 2.2 * scale))

    shape = {
        "width": 1 + n(0.045),
        "jaw_width": 0.97 + n(0.06) + 0.10 * (0.5 - feminine),
        "chin_width": n(0.06) - 0.08 * feminine,
        "face_length": 1 + n(0.022),
        "forehead": 1 + n(0.05),
        "depth": 1 + n(0.03),
        "cheekbone": 1 + n(0.6),
        "cheek_fat": n(0.05),
        "brow_ridge": max(0.1, 0.9 + n(0.35) - 0.7 * feminine),
        "socket": 1 + n(0.25),
        "eye_width": 1 + n(0.06) + 0.03 * feminine,
        "eye_open": 1 + n(0.14) + 0.08 * feminine,
        "eye_tilt": n(0.018) + 0.012 * feminine,
        "eye_fold": float(np.clip(0.55 + n(0.35), 0, 1)),
        "brow_height": 0.34 + n(0.03) + 0.03 * feminine,
        "brow_arch": 0.045 + n(0.025) + 0.02 * feminine,
        "brow_thick": 0.052 + n(0.012) - 0.012 * feminine,
        "brow_density": 0.78 + n(0.15),
        "nose_length": 1 + n(0.05),
        "nose_height": 1 + n(0.13),
        "nose_width": 1 + n(0.13) + 0.12 * dark - 0.05 * feminine,
        "nose_bridge": n(0.04) - 0.03 * feminine,
        "nose_tip": 1 + n(0.15),
        "mouth_width": 0.40 + n(0.03),
        "mouth_y": -1.30 + n(0.025),
        "mouth_curve": n(0.02),
        "upper_lip": 0.10 + n(0.02) + 0.03 * dark + 0.012 * feminine,
        "lower_lip": 0.135 + n(0.022) + 0.03 * dark + 0.012 * feminine,
        "cupid": float(np.clip(0.02 + n(0.012), 0, 0.05)),
        "chin": 1 + n(0.35) - 0.3 * feminine,
        "asymmetry": n(0.012),
        "ear": 1 + n(0.12),
        "neck": 0.97 + n(0.06) - 0.12 * feminine,
        "teeth_gap": float(u(0, 1)),
        "teeth_tone": float(u(0.75, 1.0)),
    }
    hair_shape = {
        "hairline": 0.93 + n(0.06) + 0.12 * age * male,
        "volume": float(u(0.10, 0.26)),
        "part": float(rng.choice((-1.0, 1.0)) * u(0.1, 0.5)),
        "recede": float(u(0, 0.16) * male * (0.4 + age)),
        "curl": float(u(0, 1)),
        "length": float(u(0.85, 1.15)),
    }
    azimuth, elevation = u(-60, 60), u(15, 55)
    key = np.array([np.sin(np.radians(azimuth)), np.tan(np.radians(elevation)), np.cos(np.radians(azimuth))])
    base = np.array([u(35, 225)] * 3) * (1 + rng.normal(0, 0.09, 3))
    corners = base + rng.normal(0, 24, (4, 1)) + rng.normal(0, 7, (4, 3))
    return Identity(
        feminine=feminine,
        age=age,
        shape=shape,
        skin=linear(np.clip(skin, 20, 250)),
        lips=linear(np.clip(lips, 20, 240)),
        hair=linear(np.clip(hair, 12, 230)),
        brow=linear(np.clip(hair * 0.62 + 6, 12, 100)),
        iris=linear(np.clip(iris, 10, 200)),
        cloth=linear(np.clip(CLOTH_SRGB[int(u(0, 9.99))] * u(0.8, 1.2), 8, 245)),
        style=style,
        hair_shape=hair_shape,
        beard=float(bearded * u(0.5, 1.0)),
        moustache=float((bearded or (male and u() < 0.08)) * u(0.5, 1.0)),
        stubble=float(male * u(0, 0.7)),
        freckles=float((u() < 0.3) * (1 - dark) * u(0.3, 1)),
        glasses=float((u() < 0.18) * u(0.022, 0.04)),
        background=linear(np.clip(corners, 8, 248)),
        key_light=key / np.linalg.norm(key),
        light={
            "key": float(u(0.4, 0.8)),
            "ambient": float(u(0.42, 0.62)),
            "warm": float(u(-0.06, 0.08)),
            "specular": float(u(0.04, 0.13)),
            "blobs": float(u(0, 1)),
        },
        pitch_hz=float(u(155, 255) if feminine > 0.5 else u(87, 150)),
        tract=float(u(1.0, 1.19) if feminine > 0.5 else u(0.86, 1.02)),
        breath=float(u(0.02, 0.2)),
        rate=float(u(0.86, 1.2)),
        articulation=float(u(0.82, 1.18)),
        framing={
            "inter_ocular": float(u(0.245, 0.285)),
            "distance": float(u(9, 14)),
            "eye_row": float(u(0.345, 0.375)),
        },
        texture_seed=int(rng.integers(2**31)),
    )
