"""Where mouth and jaw lie in an aligned crop, whose eyes stand at 0.31 of its height, 0.31 of its side apart."""

import torch
from torch import Tensor
from torch.nn import functional as F

MOUTH = (0.54, 0.94, 0.26, 0.74)  # top, bottom, left, right, in units of the crop's side
SPEAKING = (0.54, 1.0, 0.16, 0.84)  # all that moves with the jaw, chin and its shadow on the neck included


def _pixels(size: int, box: tuple[float, float, float, float]) -> Tensor:
    mask = torch.zeros(1, 1, size, size)
    top, bottom, left, right = (round(part * size) for part in box)
    mask[:, :, top:bottom, left:right] = 1
    return mask


def _tokens(size: int, side: int, box: tuple[float, float, float, float]) -> Tensor:
    return F.max_pool2d(_pixels(size, box)[:, :, size // 2 :], side)[0, 0] > 0


def mouth_pixels(size: int) -> Tensor:
    """1 in the mouth's region of a crop, 0 elsewhere: (1, 1, size, size)."""
    return _pixels(size, MOUTH)


def mouth_tokens(size: int, side: int) -> Tensor:
    """True for bottom-half tokens, of `side` pixels, that touch the mouth's region of a crop of `size`: (h/2, w)."""
    return _tokens(size, side, MOUTH)


def speaking_tokens(size: int, side: int) -> Tensor:
    """True for bottom-half tokens, of `side` pixels, that speech changes, jaw and chin included: (h/2, w).

    By the reference policy `own` the others are the frame's own.
    """
    return _tokens(size, side, SPEAKING)
