"""Clips: one person, one script, one path of the head; frames, sound and exact ground truth from a seed."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lipformer_core.data.faces.alignment import mouth_shape
from lipformer_core.data.synthetic.articulation import mouth_track
from lipformer_core.data.synthetic.identity import Identity, sample_identity
from lipformer_core.data.synthetic.parts import TONGUE_LIFT, assemble
from lipformer_core.data.synthetic.render import SUPERSAMPLING, move, rasterise, shade, vertex_normals
from lipformer_core.data.synthetic.speech import Segment, random_script, synthesise
from lipformer_core.data.synthetic.surface import expressions, eyeball, grid, landmark_vertices, neutral, smoothstep
from lipformer_core.data.synthetic.texture import STRAND_ROWS, UP, WHITE_ROWS, paint
from lipformer_core.timing import FPS, SAMPLES_PER_FRAME

NECK_PIVOT = np.array([0.0, -1.2, -0.25])  # the head turns about the top of the neck
WIDE_REACH, ROUND_REACH, TUCK_REACH, PROTRUSION = 0.055, -0.10, 0.055, 0.11  # inter-ocular distances at full strength


@dataclass(frozen=True)
class SyntheticClip:
    """Frames with sound and exact ground truth. Frame k shows the moment k / 25 s of `audio`."""

    clip_id: str
    person: int
    frames: np.ndarray  # (n, S, S, 3) uint8 RGB
    audio: np.ndarray  # (n * 640,) float32, 16 kHz
    landmarks: np.ndarray  # (n, 68, 2) float32 pixels, iBUG order, pixel centres at whole numbers
    pose: np.ndarray  # (n, 3) float32 degrees: yaw > 0 to the picture's right, pitch > 0 up, roll > 0 clockwise
    opening: np.ndarray  # (n,) float32, of the landmarks: inner-lip gap over inter-ocular distance
    width: np.ndarray  # (n,) float32, of the landmarks: outer lip corners over inter-ocular distance
    phonemes: list[Segment]


@dataclass(frozen=True)
class _Person:
    """Everything of a person that stays, assembled for the renderer."""

    identity: Identity
    fields: np.ndarray  # (E, N0, 3) float32
    points: np.ndarray  # (N, 3), skin first
    triangles: np.ndarray
    uv: np.ndarray
    colours: np.ndarray
    gloss: np.ndarray
    follow: np.ndarray
    jaw: np.ndarray
    eyes: tuple[tuple[int, int, int], ...]  # side, first vertex, one past the last
    tongue: slice
    atlas: np.ndarray
    landmarks: np.ndarray  # (68,) vertex indices


@dataclass(frozen=True)
class _Motion:
    """One clip's movement: everything a frame needs besides the person."""

    mouth: np.ndarray  # (n, channels)
    pose: np.ndarray  # (n, 3) degrees
    shift: np.ndarray  # (n, 3)
    lids: np.ndarray  # (n,) 0 closed to 1
    brow: np.ndarray  # (n,)
    gaze: np.ndarray  # (n, 2) degrees
    script: list[Segment]


def _rng(seed: int, *keys: int) -> np.random.Generator:
    return np.random.default_rng([int(seed), *map(int, keys)])


@lru_cache(maxsize=4)
def _build(seed: int, person: int) -> _Person:
    identity = sample_identity(_rng(seed, 1, person))
    g = grid()
    rows, columns = g.x.shape
    base = neutral(identity.shape, identity.texture_seed)
    fields = expressions(identity.shape, base)
    row, column = np.divmod(np.arange(rows * columns), columns)
    points, triangles = [base.reshape(-1, 3)], [g.triangles]
    uv, colours = [np.stack([column * UP, row * UP], -1).astype(float)], [np.ones((rows * columns, 3))]
    gloss = [np.full(rows * columns, identity.light["specular"]) * np.clip(np.cos(g.phi).ravel(), 0.2, 1)]
    neck = 1 - 0.88 * smoothstep(13.5, 16.0, g.knot).ravel()
    follow, jaw, eyes, at = [neck], [np.zeros(rows * columns)], [], rows * columns
    skin_rows = (rows - 1) * UP + 1
    tongue = slice(0, 0)
    for part in assemble(identity):
        n = len(part.points)
        if part.eye:
            eyes.append((part.eye, at, at + n))
        if part.tongue:
            tongue = slice(at, at + n)
        points.append(part.points)
        triangles.append(part.triangles + at)
        white = np.full((n, 2), (4.0, skin_rows + STRAND_ROWS + WHITE_ROWS / 2))
        uv.append(white if part.uv is None else part.uv + np.array([0.0, skin_rows]))
        colours.append(part.colours)
        gloss.append(np.full(n, part.gloss))
        follow.append(np.broadcast_to(part.follow, n))
        jaw.append(np.broadcast_to(part.jaw, n))
        at += n
    return _Person(
        identity,
        fields.astype(np.float32),
        np.concatenate(points),
        np.ascontiguousarray(np.concatenate(triangles), np.int32),
        *(np.concatenate(parts) for parts in (uv, colours, gloss, follow, jaw)),
        tuple(eyes),
        tongue,
        paint(identity),
        landmark_vertices(identity.shape),
    )


def _background(identity: Identity, size: int) -> np.ndarray:
    """Out-of-focus room (S, S, 3), linear: a gradient and a few wide blurred shapes."""
    rng = np.random.default_rng(identity.texture_seed + 2)
    v, u = np.mgrid[0:size, 0:size] / (size - 1)
    c = identity.background
    image = (
        c[0] * ((1 - u) * (1 - v))[..., None]
        + c[1] * (u * (1 - v))[..., None]
        + c[2] * ((1 - u) * v)[..., None]
        + c[3] * (u * v)[..., None]
    )
    for _ in range(int(rng.integers(1, 5))):
        cx, cy, w, h, soft = rng.uniform((0, 0, 0.05, 0.1, 0.03), (1, 0.7, 0.3, 0.5, 0.1))
        mask = 1 / (1 + np.exp((np.abs(u - cx) - w) / soft)) / (1 + np.exp((np.abs(v - cy) - h) / soft))
        colour = np.clip(c.mean(0) * rng.uniform(0.3, 1.9) * (1 + rng.normal(0, 0.15, 3)), 0, 0.9)
        image += (colour - image) * (mask * identity.light["blobs"] * 0.8)[..., None]
    return np.clip(image, 0, 1)


def _wander(rng: np.random.Generator, n: int, seconds: float, scale: float) -> np.ndarray:
    """Smooth random path (n,): waypoints every `seconds` or so, joined without corners."""
    from scipy.interpolate import PchipInterpolator

    count = int(np.ceil(n / FPS / seconds)) + 3
    times = (np.arange(count) - rng.uniform(0, 1)) * seconds
    return PchipInterpolator(times, rng.uniform(-scale, scale, count))(np.clip(np.arange(n) / FPS, times[0], times[-1]))


@lru_cache(maxsize=8)
def _motion(seed: int, person: int, clip: int, n: int, speech: str) -> _Motion:
    identity = sample_identity(_rng(seed, 1, person))
    rng = _rng(seed, 2, person, clip)
    script = (
        [("sil", 0.0, n / FPS)]
        if speech == "silence"
        else random_script(_rng(seed, 3, person, clip), n / FPS, identity.rate)
    )
    mouth = mouth_track(script, n)
    yaw = np.clip(_wander(rng, n, 0.75, 27) + rng.uniform(-9, 9) + _wander(rng, n, 0.3, 1.5), -30, 30)
    pitch = np.clip(_wander(rng, n, 0.8, 10) + rng.uniform(-4, 4) + _wander(rng, n, 0.3, 1), -16, 16)
    roll = _wander(rng, n, 1.0, 8)
    shift = np.stack([_wander(rng, n, 1.2, 0.12), _wander(rng, n, 1.2, 0.07), _wander(rng, n, 1.5, 0.25)], -1)
    lids = np.ones(n)
    time = rng.uniform(0, 2.5)
    while time < n / FPS:
        d = np.arange(n) / FPS - time
        lids = np.minimum(lids, np.clip(np.where(d < 0, -d / 0.07, d / 0.14), 0, 1))
        time += rng.uniform(1.2, 4.0)
    gaze = np.stack([-0.5 * yaw + _wander(rng, n, 0.9, 6), -0.5 * pitch + _wander(rng, n, 0.9, 4)], -1)
    lids = lids * (1 + 0.1 * _wander(rng, n, 1.0, 1)) * np.clip(1 + 0.012 * pitch, 0.8, 1.15)
    return _Motion(mouth, np.stack([yaw, pitch, roll], -1), shift, lids, 0.045 * _wander(rng, n, 0.8, 1), gaze, script)


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Head to camera axes; degrees, signs as in `SyntheticClip.pose`."""
    y, p, r = np.radians([yaw, -pitch, -roll])
    turn = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    nod = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    tilt = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return tilt @ turn @ nod


def _posed(p: _Person, m: _Motion, k: int) -> np.ndarray:
    """World points (N, 3) of frame k."""
    opening, jaw, wide, protrude, tongue, tuck = m.mouth[k]
    scale = p.identity.articulation
    opening, jaw = opening * scale, jaw * scale
    reach = wide * (WIDE_REACH if wide > 0 else -ROUND_REACH)
    tucked = min(tuck * TUCK_REACH, 0.4 * max(opening, 0) + 0.015 * tuck)
    values = np.array([jaw, opening - jaw, reach, protrude * PROTRUSION, tucked, m.lids[k], m.lids[k], m.brow[k]])
    points = p.points.copy()
    points[p.tongue] += tongue * TONGUE_LIFT
    centre, _ = eyeball(p.identity.shape)
    look = _rotation(m.gaze[k, 0], m.gaze[k, 1], 0.0)
    for side, first, last in p.eyes:
        at = centre * np.array([side, 1, 1])
        points[first:last] = (points[first:last] - at) @ look.T + at
    out = np.empty_like(points)
    drop = jaw * np.array([0, -1.0, -0.42])
    move(points, p.fields, values, p.jaw, drop, p.follow, _rotation(*m.pose[k]), NECK_PIVOT, m.shift[k], out)
    return out


def _project(points: np.ndarray, identity: Identity, size: int) -> np.ndarray:
    """Screen (N, 3): pixel x, y and distance."""
    f = identity.framing
    away = f["distance"] - points[:, 2] + 1.1
    scale = f["inter_ocular"] * size * f["distance"] / away
    return np.stack(
        [size * 0.5 - 0.5 + points[:, 0] * scale, size * f["eye_row"] - 0.5 - points[:, 1] * scale, away], -1
    )


def _buffers(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `rasterise` fills: triangles' numbers, depths, and places within the triangles."""
    return np.empty((side, side), np.int32), np.empty((side, side)), np.empty((side, side, 2), np.float32)


def synthesise_clip(
    seed: int, person: int, clip: int = 0, n_frames: int = 50, size: int = 128, *, speech: str = "script"
) -> SyntheticClip:
    """Generate one clip; equal arguments give equal bytes.

    person and clip count from 0 and may be any non-negative integers; speech is "script" or "silence" (room noise,
    closed mouth). Raises ValueError for anything else.
    """
    if speech not in ("script", "silence"):
        raise ValueError(f"speech is 'script' or 'silence', not {speech!r}")
    if n_frames < 1 or size < 16 or min(seed, person, clip) < 0:
        raise ValueError(
            f"n_frames >= 1, size >= 16 and non-negative seeds, not {(n_frames, size, seed, person, clip)}"
        )
    p, m = _build(seed, person), _motion(seed, person, clip, n_frames, speech)
    ident = p.identity
    voice = {"pitch_hz": ident.pitch_hz, "tract": ident.tract, "breath": ident.breath}
    audio = synthesise(m.script, n_frames * SAMPLES_PER_FRAME, _rng(seed, 4, person, clip), **voice)
    side, one_sided = size * SUPERSAMPLING, grid().one_sided
    (ids, depth, bary), normals = _buffers(side), np.empty_like(p.points)
    background = _background(ident, size)
    rng = _rng(seed, 5, person, clip)
    grain = rng.normal(0, 1.1, (size + 64, size + 64, 3)).astype(np.float32)
    surface = p.uv, p.colours, p.gloss, p.atlas
    lights = np.array([ident.light["key"], ident.light["ambient"], ident.light["warm"]])
    frames, landmarks = np.empty((n_frames, size, size, 3), np.uint8), np.empty((n_frames, 68, 2), np.float32)
    picture = np.empty((size, size, 3), np.float32)
    for k in range(n_frames):
        points = _posed(p, m, k)
        screen = _project(points, ident, size)
        rasterise(screen, p.triangles, one_sided, side, float(SUPERSAMPLING), ids, depth, bary)
        vertex_normals(points, p.triangles, normals)
        shade(ids, bary, p.triangles, normals, *surface, background, ident.key_light, lights, picture)
        oy, ox = rng.integers(0, 64, 2)
        frames[k] = np.clip(picture + grain[oy : oy + size, ox : ox + size] + 0.5, 0, 255)
        landmarks[k] = screen[p.landmarks, :2]
    opening, width = mouth_shape(landmarks)
    return SyntheticClip(
        f"synthetic_{seed}_{person:04d}_{clip:03d}",
        person,
        frames,
        audio,
        landmarks,
        m.pose.astype(np.float32),
        opening.astype(np.float32),
        width.astype(np.float32),
        m.script,
    )


def correspondence(
    seed: int, person: int, clip: int, n_frames: int, size: int, frame_a: int, frame_b: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of frame a lies in frame b of the same clip.

    Returns flow (S, S, 2) float32, absolute pixel coordinates (x, y) in b, and visible (S, S) bool: seen in both.
    Background stands still; it is visible where b shows background too.
    """
    p, m = _build(seed, person), _motion(seed, person, clip, n_frames, "script")
    screens, buffers = [], []
    for k in (frame_a, frame_b):
        screen = _project(_posed(p, m, k), p.identity, size)
        screens.append(screen)
        buffers.append(_buffers(size))
        rasterise(screen, p.triangles, grid().one_sided, size, 1.0, *buffers[-1])
    (ids_a, _, bary_a), (ids_b, depth_b, _) = buffers
    v, u = np.mgrid[0:size, 0:size].astype(np.float32)
    flow = np.stack([u, v], -1)
    hit = ids_a >= 0
    corners = p.triangles[ids_a[hit]]  # (K, 3)
    weights = np.concatenate([1 - bary_a[hit].sum(-1, keepdims=True), bary_a[hit]], -1)
    weights = weights / screens[0][corners, 2]  # screen to surface weights under perspective
    weights /= weights.sum(-1, keepdims=True)
    forward = weights * screens[1][corners, 2]
    depth = forward.sum(-1)
    xy = (forward[..., None] * screens[1][corners, :2]).sum(1) / depth[:, None]
    flow[hit] = xy
    visible = ~hit & (ids_b < 0)
    column, row = np.round(xy[:, 0]).astype(int), np.round(xy[:, 1]).astype(int)
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    seen = depth <= depth_b[np.clip(row, 0, size - 1), np.clip(column, 0, size - 1)] + 0.04
    visible[hit] = inside & seen
    return flow, visible
