"""Where a model runs: on a GPU where there is one that works, else on the CPU."""

from __future__ import annotations

import torch

from .errors import ConfigError
from .model.warping import bilinear_sample

GPUS = ("cuda", "mps")  # in the order of preference


def choose_device(name: str | torch.device | None = None) -> torch.device:
    """The device of that name, or None: `cuda`, else `mps`, else `cpu`, the first that is there and works.

    Raises:
        ConfigError: the name is none of `cpu`, `cuda`, `cuda:N` and `mps`, or that device is not here or does not work.
    """
    if name is None:
        return next((d for d in map(torch.device, GPUS) if _why_not(d) is None), torch.device("cpu"))
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", *GPUS):
        raise ConfigError(f"device: {name!r} is unknown; choose cpu, cuda, cuda:1 (and so on) or mps")
    if why := _why_not(device):
        raise ConfigError(f"device: {name} {why}; `lipformer info` lists the devices here, and cpu always works")
    return device


def _why_not(device: torch.device) -> str | None:
    """Why a device cannot be used; None where it can."""
    if device.type == "cpu":
        return None
    present = torch.cuda.is_available() if device.type == "cuda" else torch.backends.mps.is_available()
    if not present:
        return "is not here"
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        return f"is not here, the last one is cuda:{torch.cuda.device_count() - 1}"
    try:
        _work(device)
    except RuntimeError as error:
        return f"does not work here ({str(error).splitlines()[0]})"
    return None


def _work(device: torch.device) -> None:
    """The warping's sampling, which older systems lack on mps; too old a card can do nothing at all."""
    points = torch.zeros(1, 1, 1, 2, device=device)
    bilinear_sample(torch.ones(1, 1, 2, 2, device=device), points).cpu()
