"""How a training frame may look besides as filmed: other colours and light, mirrored, moved a little.

One look is drawn for all that a sample sees of a clip, so that target and reference stay the same person in the same
light. Look 0 is the frame as filmed.
"""

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import Stage1

# at strength 1: shares of the light, exponent, degrees, share of the size, share of the side
COLOUR, GAMMA, TURN, ZOOM, SHIFT = 0.3, 0.09, 3.0, 0.03, 0.02


@dataclass
class Looks:
    """One look a sample; the lengths are those of a batch."""

    mirrored: Tensor  # (B,) bool
    gain: Tensor  # (B, 3, 1, 1), on [0, 1] colours
    shift: Tensor  # (B, 3, 1, 1)
    gamma: Tensor  # (B, 1, 1, 1)
    theta: Tensor | None  # (B, 2, 3), from places in the result to places in the crop, both in [-1, 1]; None: unmoved

    def images(self, images: Tensor) -> Tensor:
        """The looks of (B, 3, S, S) in [-1, 1]; those as filmed are not touched."""
        changed = self.changed()
        if changed.all() or not changed.any():
            return self._change(images) if changed.any() else images
        rows, looks = changed.nonzero()[:, 0], Looks(*(None if x is None else x[changed] for x in vars(self).values()))
        return images.index_copy(0, rows.to(images.device), looks._change(images[rows.to(images.device)]))

    def changed(self) -> Tensor:
        """True in (B,) for looks that are not as filmed."""
        same = ~self.mirrored & (self.gain == 1).flatten(1).all(1) & (self.shift == 0).flatten(1).all(1)
        same &= (self.gamma == 1).flatten()
        return ~same if self.theta is None else ~(same & (self.theta == torch.eye(2, 3)).flatten(1).all(1))

    def _change(self, images: Tensor) -> Tensor:
        images = torch.where(self.mirrored.to(images.device)[:, None, None, None], images.flip(-1), images)
        if self.theta is not None:
            grid = F.affine_grid(self.theta.to(images), list(images.shape), align_corners=False)
            images = F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
        if (self.gain == 1).all() and (self.shift == 0).all() and (self.gamma == 1).all():  # before a GPU waits for it
            return images
        gain, shift, gamma = (x.to(images) for x in (self.gain, self.shift, self.gamma))
        return ((images / 2 + 0.5).clamp(1e-3, 1) ** gamma * gain + shift).clamp(0, 1) * 2 - 1

    def expand(self, count: int) -> "Looks":
        """The only look, for so many samples."""
        return Looks(*(None if x is None else x.expand(count, *x.shape[1:]) for x in vars(self).values()))

    def points(self, points: Tensor, size: int) -> Tensor:
        """Where crop points (B, n, 2), pixels of a crop of side `size`, go; their order stays, also when mirrored."""
        flipped = points.clone()
        flipped[..., 0] = size - 1 - points[..., 0]
        points = torch.where(self.mirrored[:, None, None], flipped, points)
        if self.theta is None:
            return points
        unit = (points + 0.5) * 2 / size - 1
        turn, where = self.theta.to(points).split((2, 1), 2)  # (B, 2, 2), (B, 2, 1)
        moved = torch.linalg.solve(turn, unit.transpose(1, 2) - where).transpose(1, 2)
        return (moved + 1) * size / 2 - 0.5


def draw_looks(rngs: list[np.random.Generator], settings: Stage1) -> Looks:
    """One look from each generator, by the settings `mirror` and `augment`."""
    rows = [_draw(rng, settings) for rng in rngs]
    mirrored, gain, shift, gamma, theta = (np.stack(column) for column in zip(*rows, strict=True))
    colour = [torch.from_numpy(x.astype(np.float32)) for x in (gain, shift, gamma)]
    return Looks(
        torch.from_numpy(mirrored),
        *(x.view(len(rows), -1, 1, 1) for x in colour),
        torch.from_numpy(theta.astype(np.float32)) if settings.augment else None,
    )


def clip_looks(clip_ids: list[str], looks: list[int], settings: Stage1) -> Looks:
    """Look number `looks[i]` of `clip_ids[i]`, the same in every run; number 0 is as filmed."""
    keys = [zlib.crc32(name.encode()) for name in clip_ids]
    drawn = draw_looks([np.random.default_rng(key) for key in zip(keys, looks, strict=True)], settings)
    filmed = torch.tensor([look == 0 for look in looks])
    drawn.mirrored[filmed], drawn.gain[filmed], drawn.shift[filmed], drawn.gamma[filmed] = False, 1.0, 0.0, 1.0
    if drawn.theta is not None:
        drawn.theta[filmed] = torch.eye(2, 3)
    return drawn


def _draw(rng: np.random.Generator, settings: Stage1) -> tuple[np.ndarray, ...]:
    mirrored = np.asarray(settings.mirror and rng.random() < 0.5)
    strength = settings.augment
    colour = COLOUR * strength
    light, tint = rng.uniform(-1, 1, 2), rng.uniform(-1, 1, 3)
    gain = 1 + colour * (light[0] + 0.5 * tint)
    shift = np.full(3, colour * light[1] / 2)
    gamma = np.exp(GAMMA * strength * rng.uniform(-1, 1, 1))
    turn, zoom = np.radians(TURN * strength * rng.uniform(-1, 1)), 1 + ZOOM * strength * rng.uniform(-1, 1)
    where = 2 * SHIFT * strength * rng.uniform(-1, 1, 2)
    cosine, sine = zoom * np.cos(turn), zoom * np.sin(turn)
    theta = np.array([[cosine, -sine, where[0]], [sine, cosine, where[1]]])
    return mirrored, gain, shift, gamma, theta
