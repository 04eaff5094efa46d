"""Where mouth and jaw lie in an aligned crop, whose eyes stand at 0.31 of its height, 0.31 of its side apart."""

import torch
from torch import Tensor
from torch.nn import functional as F

# top, bottom, left, right, in units of the crop's side
MOUTH = (0.54, 0.94, 0.26, 0.74)
SPEAKING = (0.54, 1.0, 0.16, 0.84)  # all that moves with the jaw, chin and its shadow on the neck included
RIM = 0.04  # of the crop's side; inside the speaking region, over which a frame's own pixels fade


def mouth_pixels(size: int) -> Tensor:
    """1 in the mouth's region of a crop, 0 elsewhere: (1, 1, size, size)."""
    mask = torch.zeros(1, 1, size, size)
    top, bottom, left, right = (round(part * size) for part in MOUTH)
    mask[:, :, top:bottom, left:right] = 1
    return mask


def mouth_tokens(size: int, side: int) -> Tensor:
    """True for bottom-half tokens, of `side` pixels, that touch the mouth's region of a crop of `size`: (h/2, w)."""
    return F.max_pool2d(mouth_pixels(size)[:, :, size // 2 :], side)[0, 0] > 0


def speaking_pixels(size: int) -> Tensor:
    """1 where speech moves a crop's bottom half, 0 elsewhere, falling over a rim inside: (1, 1, S/2, S).

    By the reference policy `own` what lies outside is the frame's own.
    """
    top, bottom, left, right = SPEAKING
    at = (torch.arange(size) + 0.5) / size
    down = ((at - top) / RIM).clamp(0, 1) * (((bottom - at) / RIM).clamp(0, 1) if bottom < 1 else 1)
    across = ((at - left) / RIM).clamp(0, 1) * ((right - at) / RIM).clamp(0, 1)
    return (down[size // 2 :, None] * across)[None, None]
