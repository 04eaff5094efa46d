"""Which frame shows a person's mouth to the model while another one is generated: the one rule of stage 2."""

import numpy as np

NEAREST = 3  # frames; what lies closer to the target looks like it, and copying would do
CANDIDATES = 4  # frames that a draw looks at
TWIN_GAP = 4.0  # degrees of yaw, pitch and roll together within which two frames count as one pose


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
