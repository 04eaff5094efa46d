"""Painting skin, lips, brows, lashes, beard and hair strands into one atlas of linear colour for each person."""

from functools import cache

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from lipformer_core.data.synthetic.identity import Identity
from lipformer_core.data.synthetic.surface import CHIN_KNOT, MOUTH_Y, both, bump, grid, lip_outline, smoothstep

UP = 2  # texels per grid cell, both ways
STRAND_ROWS = 96  # of the atlas, below the skin: hair
WHITE_ROWS = 8  # below the hair: white, for parts that carry their colour in their vertices


@cache
def texels() -> dict[str, np.ndarray]:
    """Canonical coordinates of the skin's texels, and which of them lie on the upper side of a slit."""
    g = grid()
    rows, columns = g.x.shape

    def fine(a: np.ndarray) -> np.ndarray:
        return zoom(a, ((rows * UP - UP + 1) / rows, (columns * UP - UP + 1) / columns), order=1)

    row = fine(np.repeat(np.arange(rows, dtype=float)[:, None], columns, 1))
    fields = {k: fine(getattr(g, k)).astype(np.float32) for k in ("x", "y", "phi", "knot")}
    return {**fields, "upper_lip": row <= g.mouth_row + 0.5, "upper_lid": row <= g.eye_row + 0.5}


def _noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> np.ndarray:
    """Smooth noise of unit deviation whose grain is about `cell` texels."""
    cells = [max(n / cell, 1.0) for n in shape]
    small = rng.normal(0, 1, [int(n) + 2 for n in cells]).astype(np.float32)
    across = [np.arange(n) * (c / n) for n, c in zip(shape, cells, strict=True)]
    low = [a.astype(int) for a in across]
    f, g = (across[0] - low[0]).astype(np.float32)[:, None], (across[1] - low[1]).astype(np.float32)
    rows = small[low[0]] * (1 - f) + small[low[0] + 1] * f
    return rows[:, low[1]] * (1 - g) + rows[:, low[1] + 1] * g


def hair_end(phi: np.ndarray, person: Identity) -> np.ndarray:
    """Height at which the hair of column `phi` ends: hairline in front, ear and nape or shoulders elsewhere."""
    h, a = person.hair_shape, np.abs(phi)
    degrees = np.degrees(a)
    front = h["hairline"] + h["recede"] * np.exp(-(((degrees - 28) / 14) ** 2)) - 0.04 * np.exp(-((degrees / 12) ** 2))
    ends = {
        "short": (0.22, -0.9),
        "crop": (0.30, -0.6),
        "side": (0.15, -0.9),
        "bob": (-1.5, -1.7),
        "long": (-3.1, -3.3),
        "fringe": (-1.1, -1.6),
        "tied": (0.35, -0.7),
        "bald": (0.35, -0.7),
    }
    ear, nape = ends[person.style]
    if person.style in ("bob", "long"):
        ear, nape = ear * h["length"], nape * h["length"]
    if person.style == "fringe":
        front = 0.50 + 0.03 * np.sin(9 * phi)
    edge = 56 if person.style in ("bob", "long", "fringe") else 52
    temple = smoothstep(edge, edge + (14 if ear < -0.5 else 24), degrees)
    back = smoothstep(88, 130, degrees)
    return front * (1 - temple) + (ear * (1 - back) + nape * back) * temple


def strands(rng: np.random.Generator, curl: float, columns: int) -> np.ndarray:
    """Brightness (STRAND_ROWS, columns) of hair: streaks along the strands that meander with the curl."""
    fine = 0.55 * _noise(rng, (1, columns), 1.5)[0] + 0.6 * _noise(rng, (1, columns), 4.0)[0]
    t = np.linspace(0, 1, STRAND_ROWS)[:, None]
    shift = curl * 2.2 * np.sin(6.3 * t * (1 + curl) + 1.5 * _noise(rng, (1, columns), 40)[0])
    at = np.arange(columns)[None] + shift
    streaks = np.interp(at.ravel() % (columns - 1), np.arange(columns), fine).reshape(at.shape)
    sheen = 0.30 * np.exp(-(((t - 0.38) / 0.13) ** 2)) - 0.25 * smoothstep(0.75, 1.0, t)
    return np.clip(1 + 0.30 * streaks + sheen, 0.3, 2.0)


def _blend(image: np.ndarray, colour: np.ndarray, mask: np.ndarray) -> None:
    where = np.nonzero(mask > 0.002)
    image[where] += (colour - image[where]) * np.minimum(mask[where], 1).astype(np.float32)[:, None]


def paint(person: Identity) -> np.ndarray:
    """The person's atlas (rows, columns, 3) float32: skin, then hair strands, then white."""
    rng = np.random.default_rng(person.texture_seed)
    t, s = texels(), person.shape
    x, y, phi = t["x"], t["y"], t["phi"]
    ax, dm = np.abs(x), t["y"] - MOUTH_Y
    front = smoothstep(0.1, 0.4, np.cos(phi)) * (t["knot"] < CHIN_KNOT + 1)
    pores, blotches, wide = _noise(rng, x.shape, 2), _noise(rng, x.shape, 9), _noise(rng, x.shape, 33)
    skin = person.skin.astype(np.float32)
    image = skin * (1 + 0.018 * pores + 0.025 * blotches + 0.04 * wide)[..., None]

    flush = (
        0.8 * both(x, y, 0.6, -0.6, 0.28, 0.25)
        + 0.7 * bump(x, y, 0, -0.75, 0.2, 0.2)
        + 0.3 * bump(x, y, 0, -1.8, 0.25, 0.2)
    ) * front
    image *= 1 - flush[..., None] * np.array([0.02, 0.17, 0.15])
    circles = both(x, y, 0.46, -0.17, 0.22, 0.09) * front * (0.14 + 0.14 * person.age)
    socket = both(x, y, 0.48, 0.12, 0.3, 0.12) * front * 0.16 + both(x, y, 0.2, 0.06, 0.10, 0.12) * front * 0.10
    image *= 1 - (circles + socket)[..., None] * np.array([0.75, 1.0, 0.9])

    hollow = (
        0.16 * both(x, y, 0.30, -0.55, 0.09, 0.22)
        + 0.14 * both(x, y, 0.72, -1.0, 0.22, 0.28)
        + 0.12 * both(x, y, 0.95, 0.45, 0.16, 0.3)
        + 0.16 * bump(x, y, 0, -1.06, 0.22, 0.08)
    ) * front
    image *= 1 - hollow[..., None] * np.array([0.75, 1.0, 1.0])

    fold_x = 0.26 + 0.27 * np.clip((-0.82 - y) / 0.55, 0, 1) ** 0.8
    fold = np.exp(-(((ax - fold_x) / 0.035) ** 2)) * smoothstep(-0.78, -0.92, y) * smoothstep(-1.5, -1.25, y)
    lines = np.exp(-(((y - 0.62 - 0.02 * np.cos(3 * x)) / 0.02) ** 2)) + np.exp(
        -(((y - 0.78 - 0.02 * np.cos(4 * x)) / 0.02) ** 2)
    )
    crow = both(x, y, 0.84, 0.0, 0.07, 0.1) * (0.5 + 0.5 * np.sin(45 * (y - 0.4 * ax)))
    age = person.age**1.5
    image *= (
        1
        - (fold * (0.10 + 0.22 * age) + lines * (ax < 0.55) * 0.17 * age + crow * 0.22 * age)[..., None]
        * front[..., None]
    )

    if person.freckles:
        dots = gaussian_filter((rng.uniform(size=x.shape) < 0.012).astype(np.float32), 0.7) * 3.5
        zone = smoothstep(-1.2, -0.9, y) * smoothstep(0.45, 0.2, y)
        image *= 1 - (np.clip(dots, 0, 1) * zone * person.freckles * front)[..., None] * np.array([0.25, 0.42, 0.5])
    for _ in range(int(rng.integers(0, 5) // 3)):
        cx, cy = rng.uniform(-0.8, 0.8), rng.uniform(-1.7, 0.6)
        image *= 1 - (0.45 * bump(x, y, cx, cy, 0.022, 0.022) * front)[..., None]

    # Beard: jaw and upper lip, broken up by strands.
    grain = 0.72 + 0.16 * _noise(rng, x.shape, 2) + 0.1 * blotches
    jaw = smoothstep(-0.55, -1.35, y + 0.35 * np.cos(phi) ** 4 - 0.25) * smoothstep(1.75, 1.45, np.abs(phi))
    jaw *= smoothstep(CHIN_KNOT + 3.2, CHIN_KNOT + 1.5, t["knot"])
    high, low = lip_outline(x, s)
    clear = smoothstep(0.02, 0.09, -dm - low) + (dm > 0) + (ax > s["mouth_width"] + 0.04)
    jaw = jaw * np.clip(clear, 0, 1)
    lip_hair = smoothstep(0.52, 0.40, ax) * smoothstep(0.0, 0.035, dm - high) * smoothstep(0.27, 0.2, dm) * front
    _blend(image, person.skin * np.array([0.42, 0.45, 0.5]), 0.30 * person.stubble * np.maximum(jaw, lip_hair))
    _blend(image, person.brow, np.clip(grain, 0, 1) * np.clip(jaw * 1.3, 0, 1) * person.beard)
    _blend(image, person.brow, np.clip(grain * 1.1, 0, 1) * lip_hair * person.moustache)

    # Lips: soft border, darker towards the seam.
    inside = np.where(t["upper_lip"], (high - dm) / 0.018, (low + dm) / 0.022)
    on_slit = np.where(t["upper_lip"], dm > -0.001, dm < 0.001) & (ax < s["mouth_width"])
    mask = np.clip(inside * 0.7 + 0.3, 0, 1) * on_slit * front
    creases = 1 + 0.05 * np.sin(90 * x + 6 * blotches)
    shade = np.where(t["upper_lip"], 0.82, 1.06) * creases
    image += (person.lips * shade[..., None] - image) * (mask * 0.9)[..., None]
    image *= 1 - (0.62 * np.exp(-((dm / 0.016) ** 2)) * (ax < s["mouth_width"] * 1.03) * front)[..., None]
    image *= 1 - (0.25 * bump(x, y, 0, MOUTH_Y - s["lower_lip"] - 0.06, 0.26, 0.05) * front)[..., None]

    # Nostrils and the creases beside the wings.
    yn, nw = y / s["nose_length"], s["nose_width"]
    nostril = both(x, yn, 0.105 * nw, -0.945, 0.06, 0.028)
    wing = both(x, yn, 0.29 * nw, -0.85, 0.03, 0.09) + bump(x, yn, 0, -1.0, 0.14, 0.03)
    image *= 1 - (np.clip(0.9 * nostril, 0, 1) * front)[..., None] * np.array([0.85, 0.95, 0.95])
    image *= 1 - (0.28 * wing * front)[..., None]

    # Eyes: lash lines on the slit's sides, the crease of the upper lid, brows as strands.
    ew = 0.23 * s["eye_width"]
    e = (ax - 0.5) / ew
    along = smoothstep(1.12, 0.95, np.abs(e)) * front
    lash = np.where(
        t["upper_lid"],
        np.exp(-((np.clip(y, 0, 1) / 0.020) ** 2)) * (y > -1e-3),
        0.45 * np.exp(-((y / 0.012) ** 2)) * (y < 1e-3),
    )
    _blend(image, person.brow * 0.25, lash * along * (0.75 + 0.25 * person.feminine))
    if person.feminine > 0.5:
        shadow = np.exp(-(((y - 0.06) / 0.06) ** 2)) * along * (y > 0)
        _blend(image, person.skin * np.array([0.5, 0.42, 0.42]), shadow * 0.45 * rng.uniform(0, 1))
    fold_y = 0.075 + 0.025 * (1 - e**2)
    image *= 1 - (0.5 * s["eye_fold"] * np.exp(-(((y - fold_y) / 0.014) ** 2)) * along * (y > 0))[..., None]
    b = np.clip((ax - 0.55) / 0.36, -1.3, 1.3)
    brow_y = s["brow_height"] + s["brow_arch"] * (1 - ((ax - 0.62) / 0.3) ** 2)
    thick = s["brow_thick"] * np.clip(1.15 - 0.45 * np.clip(b, -1, 1.2) - 0.2 * b**2, 0.1, 2)
    hairs = 0.8 + 0.2 * np.sin(60 * (ax - 1.5 * (y - brow_y)) + 2 * pores)
    brow = np.exp(-(((y - brow_y) / thick) ** 4)) * smoothstep(1.12, 0.75, np.abs(b)) * front
    _blend(image, person.brow, brow * hairs * np.clip(s["brow_density"], 0.4, 1))

    # Scalp under the hair, soft at its border; shade under the jaw.
    end = hair_end(phi, person) + 0.03 * _noise(rng, (1, x.shape[1]), 4)
    cover = smoothstep(-0.02, 0.10, y - end) * (1.0 if person.style != "bald" else 0.18)
    if person.style == "bald":
        cover = cover * person.stubble
    _blend(image, person.hair * 0.8, cover)
    under = smoothstep(CHIN_KNOT - 0.1, CHIN_KNOT + 1.5, t["knot"]) * (0.5 - 0.25 * smoothstep(15, 17, t["knot"]))
    image *= 1 - under[..., None] * np.array([0.8, 1.0, 1.0])

    hair = strands(rng, person.hair_shape["curl"] if person.style not in ("crop",) else 0.2, x.shape[1])
    atlas = np.concatenate([image, person.hair * hair[..., None], np.ones((WHITE_ROWS, x.shape[1], 3))])
    return np.ascontiguousarray(np.clip(atlas, 0.002, 1.5), np.float32)
