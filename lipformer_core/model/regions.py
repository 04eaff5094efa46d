"""Where mouth and jaw lie in an aligned crop, whose eyes stand at 0.31 of its height, 0.31 of its side apart."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import Config

MOUTH = (0.54, 0.94, 0.26, 0.74)  # top, bottom, left, right, in units of the crop's side
SPEAKING = (0.54, 1.0, 0.16, 0.84)  # all that moves with the jaw, chin and its shadow on the neck included


def _pixels(size: int, box: tuple[float, float, float, float]) -> Tensor:
    mask = torch.zeros(1, 1, size, size)
    top, bottom, left, right = (round(part * size) for part in box)
    mask[:, :, top:bottom, left:right] = 1
    return mask


def _tokens(config: Config, box: tuple[float, float, float, float]) -> Tensor:
    pixels = _pixels(config.crop_size, box)[:, :, config.crop_size // 2 :]
    return F.max_pool2d(pixels, config.downsampling)[0, 0] > 0


def mouth_pixels(size: int) -> Tensor:
    """1 in the mouth's region of a crop, 0 elsewhere: (1, 1, size, size)."""
    return _pixels(size, MOUTH)


def mouth_tokens(config: Config) -> Tensor:
    """True for bottom-half tokens that touch the mouth's region: (h/2, w)."""
    return _tokens(config, MOUTH)


def speaking_tokens(config: Config) -> Tensor:
    """True for bottom-half tokens that speech changes, jaw and chin included: (h/2, w).

    By the reference policy `own` the others are the frame's own.
    """
    return _tokens(config, SPEAKING)
