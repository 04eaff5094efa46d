"""Whether something covers the mouth for a while: a hand, a cup, a microphone that is lifted.

Landmark networks guess the mouth behind it and say nothing. So each crop is compared with others of its clip in which
the upper face looks alike: there the lower face should as well, but for the mouth itself. What covers it most of the
time is the clip's usual look, and is not noticed; what hides the mouth alone may be missed. Where the head moves much,
as synthetic persons do, a cover may be missed and free frames beside it be named. Fingers drawn before three filmed
mouths for 10 of 75 frames were found in all 10, nothing in the other 65, and nothing without fingers; the constants
were chosen on nine clips, these three among them (`pytest -s tests/test_covered.py -k filmed`).
"""

from __future__ import annotations

import numpy as np

from .compositing import lower_face_mask
from .grain import LUMA

SIDE = 32  # pixels of a crop here
ALIKE = 15  # crops that one is compared with,
AMONG = 200  # out of so many, evenly from the whole appearance
LEAST = 0.9  # correlation of upper faces that look alike
DROP = 0.25  # below the appearance's usual correlation of lower faces: covered
NEAR_S = 0.25  # seconds; nearer crops are covered alike and tell nothing, and gaps in a cover up to here are filled
SHORTEST_S = 0.15  # seconds of a cover
BLOCK = 2_000  # crops compared at once

_ROW, _COLUMN = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE
UPPER = (_ROW > 0.28) & (_ROW < 0.5) & (np.abs(_COLUMN - 0.5) < 0.33)
LOWER = (lower_face_mask(SIDE) > 0.5) & (((_COLUMN - 0.5) / 0.17) ** 2 + ((_ROW - 0.69) / 0.12) ** 2 > 1)


class CoverCheck:
    """Looks at crops one after the other, keeps half a kilobyte of each, and says in the end which are covered."""

    def __init__(self) -> None:
        self.seen: dict[int, bytes] = {}  # by source picture

    def look(self, index: int, crop: np.ndarray) -> None:
        """Take the crop `(S, S, 3)` uint8 of a source picture."""
        import cv2

        if index not in self.seen:
            small = cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA) @ LUMA
            self.seen[index] = np.rint(np.concatenate([small[UPPER], small[LOWER]])).astype(np.uint8).tobytes()

    def of(self, indices: np.ndarray) -> dict[int, bytes]:
        """What was seen of these source pictures."""
        return {i: self.seen[i] for i in np.unique(indices).tolist() if i in self.seen}

    def covered(self, part: np.ndarray, rate: float) -> np.ndarray:
        """Which pictures show a face whose mouth is covered, `(n,)` bool; none of an appearance that is short.

        part : (n,), the number of each picture's appearance; rate : pictures a second
        """
        from scipy.ndimage import binary_closing, binary_opening

        result = np.zeros(len(part), bool)
        seen = np.array(sorted(self.seen), dtype=int)
        for number in np.unique(part[seen]):
            indices = seen[part[seen] == number]
            if len(indices) < 2 * ALIKE:
                continue
            pixels = np.frombuffer(b"".join(self.seen[i] for i in indices), np.uint8).reshape(len(indices), -1)
            near = round(NEAR_S * rate)
            flags = np.pad(_unlike(pixels, indices, near), near + 1)
            flags = binary_closing(flags, np.ones(near + 1))
            flags = binary_opening(flags, np.ones(max(1, round(SHORTEST_S * rate))))
            result[indices] = flags[near + 1 : -near - 1]
        return result


def _unlike(pixels: np.ndarray, indices: np.ndarray, near: int) -> np.ndarray:
    """Which crops' lower faces are unlike those of crops with the same upper face; pixels: (n, upper and lower)."""
    among = np.unique(np.linspace(0, len(indices) - 1, AMONG).round().astype(int))
    sides = slice(UPPER.sum()), slice(UPPER.sum(), None)
    alike, same = np.empty(len(indices), np.float32), np.empty(len(indices), np.float32)
    unlike = np.zeros(len(indices), bool)
    for _ in range(2):  # again without those found: who is free just before or after resembles them in pose and light
        free = among[~unlike[among]]
        if len(free) <= ALIKE:
            break
        upper, lower = (_unit(pixels[free, side]).T for side in sides)
        for first in range(0, len(indices), BLOCK):
            block = slice(first, first + BLOCK)
            above, below = (_unit(pixels[block, side]) for side in sides)
            above, below = above @ upper, below @ lower
            above[np.abs(indices[block, None] - indices[free]) <= near] = -1
            best = np.argpartition(-above, ALIKE, axis=1)[:, :ALIKE]
            alike[block] = np.median(np.take_along_axis(above, best, 1), axis=1)
            same[block] = np.median(np.take_along_axis(below, best, 1), axis=1)
        unlike = (same < np.median(same) - DROP) & (alike > LEAST)
    return unlike


def _unit(pixels: np.ndarray) -> np.ndarray:
    centred = pixels.astype(np.float32)
    centred -= centred.mean(1, keepdims=True)
    return centred / (np.linalg.norm(centred, axis=1, keepdims=True) + 1e-6)
