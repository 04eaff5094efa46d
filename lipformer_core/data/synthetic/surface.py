"""The skin of head and neck: one grid around the vertical axis, cut open at the mouth and at the eyes.

Units are inter-ocular distances; x to the picture's right, y up, z towards the camera; eyes at y = 0, x = +-0.5.
All people share the grid and its *canonical* coordinates, in which eyelids and lips are closed; an identity displaces
it, and expressions are linear displacement fields on top (`expressions`).
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.interpolate import PchipInterpolator

MOUTH_Y = -1.30
EXPRESSIONS = ("jaw", "lips", "wide", "round", "tuck", "eye_left", "eye_right", "brow")

# Front profile from the crown to the base of the neck: y, half width, depth in front, depth behind, lift of the side.
PROFILE = np.array(
    [
        (1.76, 0.02, 0.02, 0.02, 0.0),
        (1.69, 0.45, 0.48, 0.62, 0.0),
        (1.45, 0.82, 0.92, 1.10, 0.0),
        (1.05, 1.06, 1.22, 1.38, 0.0),
        (0.62, 1.15, 1.36, 1.50, 0.0),
        (0.30, 1.17, 1.39, 1.50, 0.0),
        (0.00, 1.16, 1.36, 1.45, 0.0),
        (-0.45, 1.12, 1.35, 1.35, 0.0),
        (-0.95, 1.06, 1.35, 1.15, 0.10),
        (-1.30, 1.03, 1.35, 1.00, 0.22),
        (-1.60, 0.99, 1.31, 0.85, 0.42),
        (-1.85, 0.94, 1.24, 0.76, 0.62),
        (-2.00, 0.87, 1.09, 0.74, 0.78),
        (-2.07, 0.80, 0.86, 0.74, 0.85),
        (-2.13, 0.72, 0.60, 0.72, 0.70),
        (-2.50, 0.67, 0.46, 0.74, 0.20),
        (-2.90, 0.72, 0.46, 0.80, 0.0),
        (-3.30, 0.95, 0.55, 0.85, 0.0),
    ]
)
ROWS_PER_INTERVAL = (3, 4, 5, 8, 8, 13, 15, 16, 15, 15, 9, 7, 4, 4, 4, 3, 2)
EYE_KNOT, MOUTH_KNOT, CHIN_KNOT = 6, 9, 12


@dataclass(frozen=True)
class Grid:
    """What all heads share. Arrays are (rows, columns) unless said otherwise."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    phi: np.ndarray  # radians around the vertical axis, 0 in front
    knot: np.ndarray  # position along PROFILE
    eye_row: int  # last row of the upper lid; the next one is the lower lid at the same place
    mouth_row: int  # likewise of the upper lip
    triangles: np.ndarray  # (M, 3), without the slits' zero-height faces
    one_sided: int  # how many triangles, from the first on, are only ever seen from outside


def smoothstep(low: float, high: float, value: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between; works downwards when low > high."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def bump(x: np.ndarray, y: np.ndarray, cx: float, cy: float, sx: float, sy: float) -> np.ndarray:
    """Gaussian of height 1 at (cx, cy)."""
    return np.exp(-(((x - cx) / sx) ** 2) - ((y - cy) / sy) ** 2)


def both(x: np.ndarray, y: np.ndarray, cx: float, cy: float, sx: float, sy: float) -> np.ndarray:
    """The same bump on both sides of the face."""
    return bump(np.abs(x), y, cx, cy, sx, sy)


def profile_at(knot: np.ndarray) -> np.ndarray:
    """(..., 5) profile values at fractional knots."""
    return PchipInterpolator(np.arange(len(PROFILE)), PROFILE)(knot)


def section(phi: np.ndarray, width: np.ndarray, front: np.ndarray, back: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x and z of a horizontal section: an ellipse whose front is flattened as faces are."""
    cos = np.cos(phi)
    z = np.where(cos > 0, front * np.abs(cos) ** 0.78, -back * np.abs(cos) ** 0.9)
    return width * np.sin(phi), z


@cache
def grid() -> Grid:
    """Build the shared grid once."""
    knots = np.concatenate([np.arange(n) / n + i for i, n in enumerate(ROWS_PER_INTERVAL)] + [[len(ROWS_PER_INTERVAL)]])
    eye = int(np.argmin(np.abs(knots - EYE_KNOT)))
    mouth = int(np.argmin(np.abs(knots - MOUTH_KNOT))) + 1
    knots = np.insert(knots, eye, knots[eye])
    knots = np.insert(knots, mouth, knots[mouth])
    front = np.radians(np.linspace(-62, 62, 91))
    side = np.radians(np.linspace(62, 132, 11)[1:])
    phi = np.concatenate([-side[::-1], front, side])
    p = profile_at(knots)
    phi_grid, knot_grid = np.meshgrid(phi, knots)
    x, z = section(phi_grid, p[:, 1:2], p[:, 2:3], p[:, 3:4])
    lift = (1 - np.cos(np.clip(phi_grid, -np.pi / 2, np.pi / 2))) ** 1.3
    y = p[:, :1] + p[:, 4:5] * lift
    rows, columns = x.shape
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    keep = np.ones(a.shape, bool)
    keep[[eye, mouth]] = False  # coincident rows: nothing to draw where closed, a hole where open
    triangles = np.concatenate([np.stack([a, c, b], -1)[keep], np.stack([b, c, d], -1)[keep]]).astype(np.int32)
    near_slit = (np.abs(triangles[:, 0] // columns - mouth) < 8) | (np.abs(triangles[:, 0] // columns - eye) < 6)
    triangles = np.ascontiguousarray(triangles[np.argsort(near_slit, kind="stable")])
    return Grid(x, y, z, phi_grid, knot_grid, eye, mouth, triangles, int((~near_slit).sum()))


def lip_outline(x: np.ndarray, shape: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Heights of the upper and lower red of the lips above and below the slit, canonical units, at `x`."""
    body = np.clip(1 - (x / shape["mouth_width"]) ** 2, 0, 1)
    cupid = shape["cupid"] * (np.exp(-(((np.abs(x) - 0.1) / 0.07) ** 2)) - 1.1 * np.exp(-((x / 0.05) ** 2)))
    return shape["upper_lip"] * body**0.85 + cupid * body, shape["lower_lip"] * body**0.7


def nose(x: np.ndarray, y: np.ndarray, s: dict[str, float]) -> np.ndarray:
    """Height of the nose over the face (canonical coordinates)."""
    yn = y / s["nose_length"]
    ridge = np.interp(
        -yn,
        (-0.35, -0.12, 0.1, 0.4, 0.62, 0.76, 0.84, 0.91, 0.98, 1.05),
        (0.0, 0.07, 0.12, 0.25, 0.38, 0.45, 0.43, 0.28, 0.07, 0.0),
    )
    ridge = ridge * s["nose_height"] + s["nose_bridge"] * np.exp(-(((yn + 0.2) / 0.25) ** 2))
    width = np.interp(-yn, (0.0, 0.3, 0.6, 0.8, 1.0), (0.13, 0.135, 0.16, 0.175, 0.16)) * (0.5 + 0.5 * s["nose_width"])
    body = ridge * np.exp(-((np.abs(x) / width) ** 1.9))
    ball = 0.06 * s["nose_tip"] * bump(x, yn, 0, -0.78, 0.13, 0.11)
    wing_x = 0.20 * s["nose_width"]
    wings = 0.19 * both(x, yn, wing_x, -0.83, 0.085, 0.095)
    root = 0.05 * both(x, yn, 0.2, -0.6, 0.16, 0.3)
    nostrils = -0.07 * both(x, yn, 0.105 * s["nose_width"], -0.93, 0.055, 0.035)
    return np.maximum(body, wings) + 0.35 * np.minimum(body, wings) + ball + root + nostrils


@cache
def _settling() -> PchipInterpolator:
    return PchipInterpolator(
        (-5.0, -3.2, -2.0, -1.30, -0.98, -0.6, 0.0, 0.25, 0.45, 1.0, 1.8),
        (-4.95, -3.12, -1.87, -1.165, -0.81, -0.48, 0.0, 0.205, 0.37, 0.95, 1.78),
    )


def settle(y: np.ndarray) -> np.ndarray:
    """Canonical height to real height: the median proportions of portraits, between which identities then vary."""
    return _settling()(np.clip(y, -5.0, 1.8))


def eyeball(shape: dict[str, float]) -> tuple[np.ndarray, float]:
    """Centre of the eyeball on the picture's right (mirror it for the other) and its radius."""
    return np.array([0.5, 0.022, 0.945 * shape["depth"]]), 0.2


def _lids(x: np.ndarray, y: np.ndarray, z: np.ndarray, s: dict[str, float]) -> np.ndarray:
    """Depth of the skin once it rests on the eyeball wherever that lies in front of it."""
    centre, radius = eyeball(s)
    flat2 = (np.abs(x) - centre[0]) ** 2 + (y - centre[1]) ** 2
    ball = centre[2] + np.sqrt(np.clip((radius + 0.022) ** 2 - flat2, 0, None))
    gap = ball - z
    return z + np.where((flat2 < (radius + 0.022) ** 2) & (z > 0), 0.5 * (gap + np.sqrt(gap**2 + 4e-4)), 0.0)


def neutral(shape: dict[str, float], seed: int) -> np.ndarray:
    """Skin of one identity in canonical expression, eyes and lips closed: (rows, columns, 3)."""
    g, s = grid(), shape
    x, y = g.x, g.y
    frontal = smoothstep(0.15, 0.5, np.cos(g.phi)) * (g.knot < CHIN_KNOT + 1.5)
    dm = y - MOUTH_Y
    upper = np.arange(x.shape[0])[:, None] <= g.mouth_row
    high, low = lip_outline(x, s)
    body = np.sqrt(np.clip(1 - (x / s["mouth_width"]) ** 2, 0, 1))
    t = np.where(upper, dm / (high + 1e-3), -dm / (low + 1e-3))
    lips = np.where((t >= 0) & (t <= 1), np.clip(4 * t * (1 - t), 0, 1) ** 0.7, 0) * np.where(upper, 0.055, 0.07) * body
    lips -= 0.05 * np.exp(-((dm / 0.025) ** 2)) * body
    relief = (
        -0.15 * s["socket"] * both(x, y, 0.5, -0.02, 0.3, 0.19)
        - 0.03 * both(x, y, 0.18, 0.03, 0.12, 0.14)
        + 0.055 * s["brow_ridge"] * both(x, y, 0.42, 0.30, 0.32, 0.12)
        + 0.03 * bump(x, y, 0, 0.28, 0.2, 0.15)
        + nose(x, y, s)
        + 0.05 * s["cheekbone"] * both(x, y, 0.72, -0.42, 0.25, 0.2)
        + s["cheek_fat"] * both(x, y, 0.62, -0.95, 0.3, 0.3)
        + 0.09 * bump(x, y, 0, MOUTH_Y, 0.5, 0.42)
        - 0.022 * bump(x, y, 0, -1.09, 0.05, 0.07)
        + lips
        - 0.055 * bump(x, y, 0, -1.56, 0.32, 0.08)
        + 0.09 * s["chin"] * bump(x, y, 0, -1.84, 0.27, 0.17)
        - 0.02 * both(x, y, 0.46, -1.30, 0.09, 0.2)
    ) * frontal
    temple = -0.035 * both(x, y, 1.0, 0.45, 0.25, 0.3)
    z = _lids(x, y, g.z * s["depth"] + relief, s)
    chin_zone = np.exp(-(((y + 1.9) / 0.3) ** 2)) * frontal
    jaw_zone = smoothstep(-0.7, -1.5, y) * (g.knot < CHIN_KNOT + 3)
    widen = s["width"] * (1 + (s["jaw_width"] - 1) * jaw_zone + s["chin_width"] * chin_zone)
    neck = smoothstep(CHIN_KNOT + 1, CHIN_KNOT + 3, g.knot)
    # The inner face keeps the unit distance between the eyes; only the outer face grows and shrinks.
    outer = smoothstep(0.55, 1.0, np.abs(x)) + neck * (1 - smoothstep(0.55, 1.0, np.abs(x)))
    px = (
        (x + np.sign(x) * temple * frontal)
        * (1 + (widen - 1) * np.maximum(outer, jaw_zone * 0.8))
        * (1 + (s["neck"] - 1) * neck)
    )
    py = y + (s["mouth_y"] - MOUTH_Y) * np.exp(-((dm / 0.35) ** 2)) * frontal
    py += s["mouth_curve"] * (x / s["mouth_width"]) ** 2 * bump(x, y, 0, MOUTH_Y, 0.45, 0.2)
    py += s["eye_tilt"] * np.clip((np.abs(x) - 0.5) / 0.24, -1.2, 1.2) * both(x, y, 0.5, 0, 0.4, 0.25)
    py = py * np.where(py < -1.3, 1 + (s["face_length"] - 1) * smoothstep(-1.3, -2.0, py), 1.0)
    py = np.where(py > 0.5, 0.5 + (py - 0.5) * s["forehead"], py)
    py = settle(py)
    rng = np.random.default_rng(seed)
    tilt = s["asymmetry"] * np.sin(y * rng.uniform(1, 3) + rng.uniform(0, 6))
    return np.stack([px + tilt * frontal, py, z], -1)


def expressions(shape: dict[str, float], base: np.ndarray) -> np.ndarray:
    """Displacement fields (len(EXPRESSIONS), rows * columns, 3).

    Coefficients: jaw and lips open the mouth by one inter-ocular distance each; wide moves the corners outwards by one,
    round the lips forward by one; tuck draws the lower lip up and in; the eyes open from closed at 0 to normal at 1.
    """
    g, s = grid(), shape
    x, y = g.x, g.y
    hw = s["mouth_width"]
    frontal = smoothstep(0.15, 0.5, np.cos(g.phi))
    upper = np.arange(x.shape[0])[:, None] <= g.mouth_row
    dm = y - MOUTH_Y
    away = np.abs(dm)
    span = np.clip(1 - (x / hw) ** 2, 0, 1) ** 0.62
    out = np.zeros((len(EXPRESSIONS), *x.shape, 3))

    chin_down = smoothstep(0.0, 0.5, -dm) * smoothstep(1.75, 0.7, np.abs(g.phi))
    chin_down = chin_down * smoothstep(CHIN_KNOT + 2.6, CHIN_KNOT + 0.5, g.knot)
    lower = 1 - (1 - chin_down) * (1 - span * np.exp(-away / 0.35))
    corner = 0.32 * np.exp(-((dm / 0.3) ** 2) - ((np.abs(x) - hw) / 0.22) ** 2) * frontal
    cheek = 0.1 * np.exp(-(((dm - 0.15) / 0.35) ** 2) - ((np.abs(x) - 0.75) / 0.3) ** 2) * frontal
    fall = np.where(upper, 0.0, lower) + corner + cheek
    out[0, ..., 1] = -fall
    out[0, ..., 2] = -0.42 * fall
    out[0, ..., 0] = -0.25 * np.sign(x) * np.exp(-((dm / 0.4) ** 2) - ((np.abs(x) - 0.62) / 0.3) ** 2) * frontal

    out[1, ..., 1] = np.where(upper, 0.5, -0.5) * span * np.exp(-away / 0.17) * frontal
    out[1, ..., 2] = 0.12 * span * np.exp(-away / 0.1) * frontal

    reach = np.where(np.abs(x) < hw, np.abs(x) / hw, np.exp(-(np.abs(x) - hw) / 0.28)) * frontal
    near = np.exp(-((dm / 0.38) ** 2))
    out[2, ..., 0] = np.sign(x) * reach * near
    out[2, ..., 1] = (
        0.18 * reach**2 * near + np.where(upper, -0.12, 0.12) * np.exp(-(((away - 0.14) / 0.1) ** 2)) * span
    )
    out[2, ..., 2] = -0.5 * reach * near

    out[3, ..., 2] = np.exp(-((x / 0.36) ** 2) - (dm / 0.26) ** 2) * frontal
    out[3, ..., 1] = np.where(upper, 0.12, -0.12) * np.exp(-(((away - 0.13) / 0.1) ** 2)) * span * frontal

    roll = np.where(upper, 0.0, span * np.exp(-away / 0.16)) * frontal
    out[4, ..., 1] = roll
    out[4, ..., 2] = -0.9 * roll

    upper_lid = np.arange(x.shape[0])[:, None] <= g.eye_row
    e = np.clip(1 - ((np.abs(x) - 0.5) / (0.23 * s["eye_width"])) ** 2, 0, 1)
    lid = np.where(upper_lid, 0.090 * e**0.66 * np.exp(-np.abs(y) / 0.15), -0.046 * e**0.75 * np.exp(-np.abs(y) / 0.12))
    lid = lid * s["eye_open"] * frontal
    skin = base[..., 2]
    depth = (
        np.maximum(_lids(x, y + lid, g.z * s["depth"] - 0.15 * both(x, y, 0.5, -0.02, 0.3, 0.19), s), skin - 0.05)
        - skin
    )
    for k, left in ((5, True), (6, False)):
        here = (x < 0) if left else (x > 0)
        out[k, ..., 1] = lid * here
        out[k, ..., 2] = np.where(lid != 0, np.clip(depth, -0.06, 0.06), 0) * here * np.clip(np.abs(lid) / 0.03, 0, 1)

    out[7, ..., 1] = both(x, y, 0.45, 0.36, 0.35, 0.2) * frontal
    return out.reshape(len(EXPRESSIONS), -1, 3)


def nearest(points: list[tuple[float, float]]) -> np.ndarray:
    """Indices of the grid's frontal vertices nearest to canonical (x, y) points."""
    g = grid()
    xy = np.stack([g.x, g.y], -1).reshape(-1, 2)
    far = np.where((np.cos(g.phi) < 0.1) | (g.knot > CHIN_KNOT + 0.01), 9.0, 0.0).ravel()
    return np.array([int(np.argmin(((xy - p) ** 2).sum(1) + far)) for p in points])


def landmark_vertices(shape: dict[str, float]) -> np.ndarray:
    """Vertex of each of the 68 iBUG points."""
    g, s = grid(), shape
    columns = g.x.shape[1]

    def on_row(row: int, xs: list[float]) -> list[int]:
        return [row * columns + int(np.argmin(np.abs(g.x[row] - v) + (np.cos(g.phi[row]) < 0))) for v in xs]

    chin = int(np.argmin(np.abs(g.knot[:, 0] - CHIN_KNOT)))
    angles = np.radians([-88, -84, -80, -74, -62, -46, -31, -15, 0])
    rows = [g.eye_row + 4, g.mouth_row - 34, g.mouth_row - 16, g.mouth_row + 4, chin - 6, chin - 2, chin, chin, chin]
    half = [r * columns + int(np.argmin(np.abs(g.phi[0] - a))) for r, a in zip(rows, angles, strict=True)]
    mirror = [i // columns * columns + (columns - 1 - i % columns) for i in half[-2::-1]]
    brow = [
        (b, s["brow_height"] - 0.03 + s["brow_arch"] * (1 - ((b - 0.55) / 0.3) ** 2) + 0.02)
        for b in (0.82, 0.68, 0.53, 0.38, 0.22)
    ]
    brows = [(-b, h) for b, h in brow] + [(b, h) for b, h in brow[::-1]]
    n = s["nose_length"]
    noses = [(0, 0.02), (0, -0.25 * n), (0, -0.5 * n), (0, -0.77 * n)]
    noses += [
        (k * s["nose_width"], y * n) for k, y in ((-0.2, -0.92), (-0.1, -0.96), (0, -0.985), (0.1, -0.96), (0.2, -0.92))
    ]
    ew = 0.23 * s["eye_width"]
    eye_u, eye_l = g.eye_row, g.eye_row + 1
    right = on_row(eye_u, [-0.5 - ew, -0.5 - 0.36 * ew, -0.5 + 0.36 * ew, -0.5 + ew]) + on_row(
        eye_l, [-0.5 + 0.36 * ew, -0.5 - 0.36 * ew]
    )
    left = on_row(eye_u, [0.5 - ew, 0.5 - 0.36 * ew, 0.5 + 0.36 * ew, 0.5 + ew]) + on_row(
        eye_l, [0.5 + 0.36 * ew, 0.5 - 0.36 * ew]
    )
    hw = s["mouth_width"]
    xs = np.array([-1, -0.62, -0.26, 0, 0.26, 0.62, 1]) * hw
    tops, bottoms = lip_outline(xs, s)
    outer = on_row(g.mouth_row, [xs[0]]) + list(
        nearest([(x, MOUTH_Y + t) for x, t in zip(xs[1:6], tops[1:6], strict=True)])
    )
    outer += on_row(g.mouth_row, [xs[6]])
    outer += list(nearest([(x, MOUTH_Y - b) for x, b in zip(xs[5:0:-1], bottoms[5:0:-1], strict=True)]))
    inner = on_row(g.mouth_row, [-0.88 * hw, -0.45 * hw, 0.0, 0.45 * hw, 0.88 * hw]) + on_row(
        g.mouth_row + 1, [0.45 * hw, 0.0, -0.45 * hw]
    )
    return np.array(half + mirror + list(nearest(brows + noses)) + right + left + outer + inner)
