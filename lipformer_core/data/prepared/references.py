"""Which frame shows a person's mouth to the model while another one is generated.

Dubbing and evaluation use one rule, `references`; training draws, by `draw_reference`, as that rule may choose. Its
policies (`lips.reference`):

- `one`: each part of a clip has one reference, the frame most nearly frontal among those with the mouth half open;
- `nearest`: each frame has the reference nearest in pose, out of a few that cover the poses of its part;
- `own`: as `one`, but for mouth and jaw alone; where speech changes nothing, a frame keeps its own pixels
  (`model.regions.speaking_pixels`).
"""

from collections.abc import Callable, Iterator

import numpy as np

NEAREST = 3  # frames; what lies closer to the target looks like it, and copying would do
CANDIDATES = 4  # frames that a draw looks at
TWIN_GAP = 4.0  # degrees of yaw, pitch and roll together within which two frames count as one pose
HALF_OPEN = (0.35, 0.65)  # quantiles of the opening between which a reference is looked for first: lips and some teeth
LARGE_YAW = 35.0  # degrees, from which on half the mouth is hidden and results get worse
FEWEST_CONTRAST = 8.0  # grey levels of deviation; a faded or grey frame is no reference
LOOKED_AT = 32  # pictures at most, for each of them is decoded out of order
LENDERS = 12  # frames at most that cover the poses of a part
COVERED = 3.0  # degrees of yaw and pitch within which a pose is covered
STAY = 1.5  # degrees by which another lender must be nearer before it takes over, so that it does not flicker
APART = 12  # frames between a frame and its lender by the policy `nearest`: what the lips say there is another sound
LEAST_OPEN = 0.5  # share of a part's frames, the least open ones, that may lend by the policy `nearest`


def references(
    opening: np.ndarray,
    pose: np.ndarray,
    usable: np.ndarray,
    picture: Callable[[int], np.ndarray],
    part: np.ndarray | None = None,
    policy: str = "one",
) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
    """Choose who lends to whom. Each part of a clip has references of its own.

    A faded or grey frame lends nothing: clips begin with such, and with turned heads. Where all frames with the mouth
    half open hide half of it, another may lend; where all frames are faded, the one with the most contrast lends.

    opening : (n,), of any unit; pose : (n, 3) degrees; usable : (n,) bool, frames that may lend
    picture : gives the aligned crop (S, S, 3) uint8 of a frame
    part : (n,), the same number in all frames of a part, such as a shot; None: all are one
    yields (frames that borrow (k,) int64, the frame that lends, its crop); parts without a usable frame are left out
    """
    part = np.zeros(len(usable), int) if part is None else part
    for number in np.unique(part[usable]):
        borrowers = np.flatnonzero(part == number)
        lender, crop = _frontal_and_half_open(opening, pose, borrowers[usable[borrowers]], picture)
        if policy == "nearest":
            yield from _nearest(opening, pose, usable, borrowers, lender, picture)
        else:
            yield borrowers, lender, crop


def _nearest(
    opening: np.ndarray,
    pose: np.ndarray,
    usable: np.ndarray,
    borrowers: np.ndarray,
    first: int,
    picture: Callable[[int], np.ndarray],
) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
    """The policy `nearest` within a part: lenders are added where a pose is farthest from all so far."""
    able = borrowers[usable[borrowers]]
    able = able[opening[able] <= np.quantile(opening[able], LEAST_OPEN)]
    crops = {first: picture(first)}
    gaps = np.linalg.norm(pose[able, :2] - pose[first, :2], axis=1)
    for _ in range(LOOKED_AT):
        farthest = int(gaps.argmax())
        if len(crops) == LENDERS or gaps[farthest] <= COVERED:
            break
        crop = picture(int(able[farthest]))
        if crop.std() < FEWEST_CONTRAST:
            gaps[farthest] = 0
            continue
        crops[int(able[farthest])] = crop
        gaps = np.minimum(gaps, np.linalg.norm(pose[able, :2] - pose[able[farthest], :2], axis=1))
    lenders = np.array(list(crops))
    away = np.linalg.norm(pose[borrowers, None, :2] - pose[lenders, :2], axis=-1)  # (k, lenders)
    close = np.abs(borrowers[:, None] - lenders) <= APART
    away = np.where(close & ~close.all(1, keepdims=True), np.inf, away)
    chosen, now = np.empty(len(borrowers), int), int(away[0].argmin())
    for row, gap in enumerate(away):
        if gap[now] > gap.min() + STAY:
            now = int(gap.argmin())
        chosen[row] = now
    for number, lender in enumerate(lenders):
        if (chosen == number).any():
            yield borrowers[chosen == number], int(lender), crops[int(lender)]


def _frontal_and_half_open(
    opening: np.ndarray, pose: np.ndarray, frames: np.ndarray, picture: Callable[[int], np.ndarray]
) -> tuple[int, np.ndarray]:
    least, most_open = np.quantile(opening[frames], HALF_OPEN)
    beyond = (opening[frames] < least) | (opening[frames] > most_open)
    turned, hidden = np.hypot(*pose[frames, :2].T), np.abs(pose[frames, 0]) > LARGE_YAW
    best, best_crop, most = -1, None, -1.0
    for frame in frames[np.lexsort((turned, beyond, hidden))][:LOOKED_AT]:
        crop = picture(int(frame))
        contrast = float(crop.std())
        if contrast > most:
            best, best_crop, most = int(frame), crop, contrast
        if contrast >= FEWEST_CONTRAST:
            break
    return best, best_crop


def far_enough(valid: np.ndarray, target: int) -> np.ndarray:
    """Indices of valid frames that lie more than NEAREST from `target`. valid: (n,) bool."""
    candidates = np.flatnonzero(valid)
    return candidates[np.abs(candidates - target) > NEAREST]


def draw_nearest(rng: np.random.Generator, pose: np.ndarray, valid: np.ndarray, target: int) -> int:
    """A reference for `target` by the policy `nearest`: of another time, nearly in its pose, whatever its mouth does.

    One of those within COVERED degrees of yaw and pitch, or of the CANDIDATES nearest, more than APART frames away. If
    its mouth were chosen to differ, it would say something about the target's.

    pose : (n, 3) degrees; valid : (n,) bool
    """
    candidates = np.flatnonzero(valid)
    far = candidates[np.abs(candidates - target) > APART]
    far = far if len(far) else far_enough(valid, target)
    far = far if len(far) else candidates
    gaps = np.linalg.norm(pose[far, :2] - pose[target, :2], axis=1)
    near = far[gaps <= max(COVERED, np.partition(gaps, min(CANDIDATES, len(far)) - 1)[min(CANDIDATES, len(far)) - 1])]
    return int(rng.choice(near))


def draw_reference(
    rng: np.random.Generator, yaw: np.ndarray, valid: np.ndarray, target: int, opening: np.ndarray | None = None
) -> int:
    """A reference frame for `target`: of another time, and in half of the draws of another pose or mouth as well.

    Those are, of a few candidates, the one with the widest gap in yaw, or (in half of these draws, where `opening` is
    given) in mouth opening. Never the target or its neighbours, unless nothing else is valid.

    yaw : (n,) degrees; valid : (n,) bool; opening : (n,), of any unit
    """
    far = far_enough(valid, target)
    candidates = far if len(far) else np.flatnonzero(valid)
    few = rng.choice(candidates, min(CANDIDATES, len(candidates)), replace=False)
    drawn = rng.random()
    if drawn < 0.5:
        return int(few[0])
    differs = opening if opening is not None and drawn >= 0.75 else yaw
    return int(few[np.abs(differs[few] - differs[target]).argmax()])


def draw_twin(rng: np.random.Generator, pose: np.ndarray, valid: np.ndarray, target: int) -> int:
    """Another frame in the pose of `target`: its upper half says where the head is, and nothing of the target's mouth.

    Any valid frame within TWIN_GAP that is not a neighbour in time, the target itself where there is none. Not the
    nearest in pose: a measured pose feels the jaw a little, and the nearest would share the mouth as well.

    pose : (n, 3) degrees; valid : (n,) bool
    """
    far = far_enough(valid, target)
    near = far[np.linalg.norm(pose[far] - pose[target], axis=1) <= TWIN_GAP]
    return int(rng.choice(near)) if len(near) else target
