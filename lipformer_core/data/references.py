"""Which frame shows a person's mouth to the model while another one is generated.

Dubbing and evaluation use one rule, `references`; training draws from all that such a rule may choose.
"""

from collections.abc import Callable, Iterator

import numpy as np

NEAREST = 3  # frames; what lies closer to the target looks like it, and copying would do
CANDIDATES = 4  # frames that a draw looks at
TWIN_GAP = 4.0  # degrees of yaw, pitch and roll together within which two frames count as one pose
NEARLY_CLOSED = 0.2  # share of the frames, the least open ones, among which a reference is looked for first
LARGE_YAW = 35.0  # degrees, from which on half the mouth is hidden and results get worse
FEWEST_CONTRAST = 8.0  # grey levels of deviation; a faded or grey frame is no reference
LOOKED_AT = 32  # pictures at most, for each of them is decoded out of order


def references(
    opening: np.ndarray,
    pose: np.ndarray,
    usable: np.ndarray,
    picture: Callable[[int], np.ndarray],
    part: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
    """Choose who lends to whom, by the policy `one`: each part of a clip has one reference, of its own.

    That is the frame most nearly frontal among those with the mouth nearly closed, and not a faded or grey one: clips
    begin with such, and with turned heads. Where all of these hide half the mouth, it may be open; where all frames are
    faded, the one with the most contrast lends.

    opening : (n,), of any unit; pose : (n, 3) degrees; usable : (n,) bool, frames that may lend
    picture : gives the aligned crop (S, S, 3) uint8 of a frame
    part : (n,), the same number in all frames of a part, such as a shot; None: all are one
    yields (frames that borrow (k,) int64, the frame that lends, its crop); parts without a usable frame are left out
    """
    part = np.zeros(len(usable), int) if part is None else part
    for number in np.unique(part[usable]):
        borrowers = np.flatnonzero(part == number)
        lender, crop = _frontal_and_closed(opening, pose, borrowers[usable[borrowers]], picture)
        yield borrowers, lender, crop


def _frontal_and_closed(
    opening: np.ndarray, pose: np.ndarray, frames: np.ndarray, picture: Callable[[int], np.ndarray]
) -> tuple[int, np.ndarray]:
    open_lips = opening[frames] > np.quantile(opening[frames], NEARLY_CLOSED)
    turned, hidden = np.hypot(*pose[frames, :2].T), np.abs(pose[frames, 0]) > LARGE_YAW
    best, best_crop, most = -1, None, -1.0
    for frame in frames[np.lexsort((turned, open_lips, hidden))][:LOOKED_AT]:
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
