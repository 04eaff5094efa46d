"""Everything that is not skin: eyeballs, teeth, tongue, hair, ears, clothes, glasses; each `Part` a triangle grid."""

from dataclasses import dataclass

import numpy as np

from lipformer_core.data.synthetic.identity import Identity, linear
from lipformer_core.data.synthetic.surface import EYE_KNOT, eyeball, profile_at, section, settle, smoothstep
from lipformer_core.data.synthetic.texture import STRAND_ROWS, hair_end, texels


@dataclass(frozen=True)
class Part:
    """A piece of the mesh. uv None means: white texture, the vertex colours speak."""

    points: np.ndarray  # (N, 3)
    triangles: np.ndarray  # (M, 3)
    colours: np.ndarray  # (N, 3)
    gloss: float
    uv: np.ndarray | None = None
    follow: np.ndarray | float = 1.0  # how far the vertex follows the head's turning
    jaw: np.ndarray | float = 0.0  # how far it follows the jaw
    tongue: bool = False
    eye: int = 0  # -1, +1: turned by the gaze of that eye


def grid_triangles(rows: int, columns: int) -> np.ndarray:
    """Two triangles for each cell of a (rows, columns) grid of vertices."""
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (v.ravel() for v in (index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]))
    return np.concatenate([np.stack([a, c, b], -1), np.stack([b, c, d], -1)]).astype(np.int32)


def _part(points: np.ndarray, colours: np.ndarray, gloss: float, **more) -> Part:
    rows, columns, _ = points.shape
    colours = np.broadcast_to(colours, points.shape).reshape(-1, 3)
    return Part(points.reshape(-1, 3), grid_triangles(rows, columns), colours, gloss, **more)


def eyes(person: Identity) -> list[Part]:
    """Two eyeballs as polar grids round the gaze axis (so iris and pupil have clean rims) and their catchlights."""
    centre, radius = eyeball(person.shape)
    rim = np.array([0.0, 0.02, 0.033, 0.038, 0.055, 0.08, 0.089, 0.096, 0.11, 0.14, 0.17, 0.192, 0.1999])
    white = linear((224, 214, 208))
    colours = np.array([0.008, 0.008, 0.008, 0.5, 1.15, 0.9, 0.55, 0, 0, 0, 0, 0, 0])[:, None] * person.iris
    colours[:3] = 0.004
    colours[7] = 0.5 * white + 0.5 * person.iris * 0.5
    colours[8:] = white
    colours[10:] *= np.array([0.9, 0.78, 0.76])
    turn = np.linspace(0, 2 * np.pi, 25)
    z = np.sqrt(radius**2 - rim**2)
    local = np.stack([rim[:, None] * np.cos(turn), rim[:, None] * np.sin(turn), np.repeat(z[:, None], 25, 1)], -1)
    spoke = 1 + 0.18 * np.sin(7 * turn + 1) * ((rim > 0.04) & (rim < 0.09))[:, None]
    parts = []
    for side in (-1, 1):
        at = centre * np.array([side, 1, 1])
        shade = 1 - 0.5 * smoothstep(0.02, 0.13, local[..., 1])  # the upper lid's shadow
        parts.append(_part(local + at, colours[:, None] * (spoke * shade)[..., None], 0.25, eye=side))
        spot = np.array([0.035 * np.sign(person.key_light[0]), 0.045, radius + 0.004])
        disc = np.stack(
            [np.outer((0, 0.013), np.cos(turn[::3])), np.outer((0, 0.013), np.sin(turn[::3])), np.zeros((2, 9))], -1
        )
        parts.append(_part(disc + at + spot, np.full(3, 3.0), 0.0))
    return parts


def mouth_inside(person: Identity) -> list[Part]:
    """Dark cavity, two rows of teeth and a tongue."""
    s = person.shape
    lip_z = 1.36 * s["depth"] + 0.09
    y0 = float(settle(s["mouth_y"]))
    hw = s["mouth_width"]
    a = np.linspace(-1, 1, 15)
    gum, tone = linear((150, 70, 70)), linear((226, 216, 196)) * s["teeth_tone"]
    v = np.linspace(0, 1, 6)[:, None]
    hole = np.stack(
        [
            a[None] * (hw + 0.03) * (1 - 0.35 * v**2),
            y0 + 0.22 - 0.62 * v + 0 * a,
            lip_z - 0.32 - 0.22 * (1 - a**2)[None] + 0 * v,
        ],
        -1,
    )
    # Wings deep inside the cheeks: what a turned head shows past the hole's edge must be dark too.
    wing = np.stack([np.array([side * 0.54, y0, lip_z - 0.66]) + (0.22 - 0.4 * v) * (0, 1, 0) for side in (-1, 1)], 1)
    hole = np.concatenate([wing[:, :1], hole, wing[:, 1:]], 1)
    parts = [
        _part(
            hole,
            linear((58, 20, 20)) * (1.0 - 0.5 * np.abs(v - 0.4))[..., None],
            0.0,
            jaw=0.7 * np.repeat(v, 17, 1).ravel(),
        )
    ]
    b = np.linspace(-1, 1, 57)
    tooth_edges = np.abs(((b * 5.0 + 0.5) % 1.0) - 0.5)  # 0 between two teeth
    for upper in (True, False):
        rows = (
            np.array([0.16, 0.085, 0.07, 0.0, -0.055, -0.075])
            if upper
            else np.array([0.02, 0.0, -0.05, -0.09, -0.1, -0.2])
        )
        length = 1 - 0.16 * np.exp(-((tooth_edges / 0.12) ** 2)) - 0.12 * np.abs(b)
        y = rows[:, None] * np.where((rows[:, None] < 0) == upper, length[None], 1.0)
        y = y + (y0 + 0.015 if upper else y0 - 0.085)
        half = 0.33 if upper else 0.29
        z = lip_z - (0.10 if upper else 0.135) - 0.22 * b**2
        points = np.stack([np.repeat(b[None] * half, 6, 0), y, np.repeat(z[None], 6, 0)], -1)
        is_gum = np.array([1, 1, 0, 0, 0, 0] if upper else [0, 0, 0, 0, 1, 1])[:, None, None]
        seam = 1 - (0.3 + 0.15 * s["teeth_gap"]) * np.exp(-((tooth_edges / 0.10) ** 2))
        dim = (1 - 0.55 * b**2) * seam * (1.0 if upper else 0.72)
        parts.append(
            _part(points, (tone * (1 - is_gum) + gum * is_gum) * dim[None, :, None], 0.12, jaw=0.0 if upper else 0.85)
        )
    u, w = np.linspace(-1, 1, 13), np.linspace(0, 1, 9)[:, None]
    arch = (1 - u**2)[None]
    tongue = np.stack(
        [
            np.repeat(u[None] * 0.24, 9, 0) * (1 - 0.35 * w**3),
            y0 - 0.15 + 0.05 * arch - 0.03 * w - 0.07 * w**4 * arch**0.5,
            lip_z - 0.36 + 0.21 * np.sqrt(np.clip(w * (0.35 + 0.65 * arch), 0, 1)),
        ],
        -1,
    )
    red = linear((168, 84, 84)) * (0.55 + 0.45 * w)[..., None]
    parts.append(_part(tongue, red * (1 - 0.2 * np.exp(-((u / 0.12) ** 2)))[None, :, None], 0.1, jaw=0.8, tongue=True))
    return parts


def _skull(y: np.ndarray) -> np.ndarray:
    """Width, front and back of the head at height `y` (crown to eyes; constant below)."""
    knots = np.linspace(0, EYE_KNOT, 60)
    table = profile_at(knots)
    return np.stack([np.interp(-y, -table[:, 0], table[:, k]) for k in (1, 2, 3)], -1)


def hair(person: Identity) -> list[Part]:
    """A shell over the skull, each column ending where `hair_end` says."""
    if person.style == "bald":
        return []
    s, h = person.shape, person.hair_shape
    rng = np.random.default_rng(person.texture_seed + 1)
    columns, rows = 81, 30
    phi = np.radians(np.linspace(-180, 180, columns))
    t = np.linspace(0, 1, rows)[:, None]
    volume = {"crop": 0.05, "tied": 0.07, "short": 0.6 * h["volume"] + 0.03}.get(person.style, h["volume"])
    jag = np.convolve(rng.normal(0, 1, columns + 4), np.ones(5) / 5, "valid")
    end = hair_end(phi, person) + 0.05 * jag * (1 + (person.style in ("long", "bob")))
    top = 1.74
    y = top - (top - end)[None] * (0.15 * t + 0.85 * t**1.6)
    scale = _skull(y)
    x, z = section(phi[None], scale[..., 0], scale[..., 1], scale[..., 2])
    degrees = np.abs(np.degrees(phi))
    hang = smoothstep(0.3, -1.2, y) * (person.style in ("long", "bob", "fringe"))
    puff = volume * np.clip(1 - t**5, 0, 1) * (1 - 0.35 * np.exp(-((degrees / 40) ** 2)) * (person.style != "fringe"))
    puff = np.maximum(puff, 0.035) + hang * 0.06
    part = np.exp(-(((x - h["part"]) / 0.05) ** 2)) * smoothstep(0.6, 1.3, y) * (z > -0.5)
    puff = puff * (1 - 0.4 * part * (person.style in ("side", "bob", "long")))
    lump = sum(np.sin(k * phi[None] * 3 + rng.uniform(0, 6) + 3 * t * rng.uniform(-1, 1)) / k for k in (1, 2, 3))
    puff = puff * (1 + 0.10 * lump)
    if person.style == "side":
        puff = puff * (1 + 0.5 * np.sign(-h["part"]) * np.tanh(2 * x) * smoothstep(0.7, 1.3, y))
    radial = np.stack(
        [np.sin(phi)[None] * np.ones_like(y), 0.9 * smoothstep(0.4, 1.7, y), np.cos(phi)[None] * np.ones_like(y)], -1
    )
    radial /= np.linalg.norm(radial, axis=-1, keepdims=True)
    points = np.stack(
        [x * s["width"], settle(np.where(y > 0.5, 0.5 + (y - 0.5) * s["forehead"], y)), z * s["depth"]], -1
    )
    points += radial * puff[..., None]
    points[..., 2] -= 0.25 * hang * (np.cos(phi) > 0) * np.cos(phi)
    points[..., 0] += hang * 0.07 * np.sin(phi) * np.sin(4 * y + 2)
    uv = np.stack(
        np.broadcast_arrays((phi[None] + np.pi) / (2 * np.pi) * (texels()["x"].shape[1] - 2), t * (STRAND_ROWS - 2)), -1
    ).reshape(-1, 2)
    shade = 1 - 0.45 * smoothstep(-0.6, -2.4, y) - 0.35 * part * (person.style in ("side", "bob", "long"))
    follow = 1 - 0.6 * smoothstep(-1.2, -3.0, points[..., 1])
    parts = [_part(points, shade[..., None] * np.ones(3), 0.06, uv=uv, follow=follow.ravel())]
    return parts


def ears(person: Identity) -> list[Part]:
    """Two shells with a rim and a hollow."""
    s = person.shape
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, 25), np.array([0, 0.35, 0.6, 0.78, 0.9, 1.0]))
    outline = 1 + 0.12 * np.sin(u)
    back, up = 0.19 * v * np.cos(u) * outline, 0.36 * v * np.sin(u)
    lobe = np.where(np.sin(u) < 0, 0.72, 1.0)
    depth = 0.12 * np.sin(v * np.pi * 1.35 - 0.9)  # hollow in the middle, a rolled rim
    parts = []
    for side in (-1, 1):
        x = side * (1.12 * s["width"] + 0.06 + 0.3 * depth + 0.16 * v * np.cos(u))
        points = np.stack([x, -0.25 + up * s["ear"], 0.02 - back * lobe * s["ear"]], -1)
        hollow = 0.55 + 0.45 * smoothstep(0.35, 0.85, v)
        tint = np.array([1.0, 0.86, 0.84])
        parts.append(_part(points, person.skin * tint * hollow[..., None], 0.05))
    return parts


def torso(person: Identity) -> list[Part]:
    """Base of the neck and shoulders in the person's clothes."""
    knots = np.array(
        [
            (-2.55, 0.64, 0.44, 0.72),
            (-2.78, 0.72, 0.5, 0.8),
            (-2.9, 1.0, 0.6, 0.86),
            (-3.02, 1.5, 0.7, 0.88),
            (-3.22, 2.05, 0.78, 0.88),
            (-3.6, 2.4, 0.9, 0.85),
            (-4.4, 2.5, 1.05, 0.8),
            (-6.0, 2.5, 1.1, 0.8),
        ]
    )
    q = np.interp(np.linspace(0, 1, 30), np.linspace(0, 1, len(knots)), np.arange(len(knots)))
    table = np.stack([np.interp(q, np.arange(len(knots)), knots[:, k]) for k in range(4)], -1)
    phi = np.radians(np.linspace(-180, 180, 61))
    grid_phi, y = np.meshgrid(phi, table[:, 0])
    x, z = section(grid_phi, table[:, 1:2], table[:, 2:3], table[:, 3:4])
    neckline = -2.72 - 0.35 * np.exp(-((grid_phi / 0.5) ** 2)) * (0.3 + person.feminine)
    cloth = smoothstep(0.03, -0.03, y - neckline)[..., None]
    folds = 1 + 0.12 * np.sin(5 * x + 2 * y) * np.cos(3 * y)
    colours = person.skin * 0.72 * (1 - cloth) + person.cloth * folds[..., None] * cloth
    collar = np.exp(-(((y - neckline + 0.05) / 0.05) ** 2))[..., None]
    points = np.stack([x * person.shape["neck"] ** 0.5, y + 0.08, z], -1) + np.stack(
        [0 * z, 0 * z, 0.04 * collar[..., 0]], -1
    )
    return [_part(points, colours * (1 + 0.15 * collar), 0.02, follow=0.12)]


def glasses(person: Identity) -> list[Part]:
    """Two rims and a bridge in front of the eyes."""
    if not person.glasses:
        return []
    turn = np.linspace(0, 2 * np.pi, 33)
    z = 1.36 * person.shape["depth"] + 0.02
    dark = linear((34, 28, 26))
    parts = []
    for side in (-1, 1):
        power = 0.75
        cx, cy = (
            np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** power,
            np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** power,
        )
        ring = [
            np.stack(
                [
                    side * 0.52 + cx * (0.36 + r),
                    -0.04 + cy * (0.27 + r),
                    z - 0.12 * (np.abs(side * 0.52 + cx * 0.36)) ** 2,
                ],
                -1,
            )
            for r in (0.0, person.glasses)
        ]
        parts.append(_part(np.stack(ring), dark, 0.2))
        arm = np.array(
            [[(side * 0.90, h, z - 0.1), (side * 1.22 * person.shape["width"], h - 0.02, 0.15)] for h in (0.08, 0.03)]
        )
        parts.append(_part(arm, dark, 0.1))
    span = np.linspace(-0.17, 0.17, 7)
    bridge = np.stack(
        [
            np.stack([span, 0.04 + r + 0.03 * (1 - (span / 0.17) ** 2), 0 * span + z + 0.02], -1)
            for r in (0.0, person.glasses)
        ]
    )
    parts.append(_part(bridge, dark, 0.2))
    return parts


def assemble(person: Identity) -> list[Part]:
    """All parts of one person but the skin."""
    return [*eyes(person), *mouth_inside(person), *hair(person), *ears(person), *torso(person), *glasses(person)]


TONGUE_LIFT = np.array([0.0, 0.13, 0.10])  # from rest to the upper teeth
