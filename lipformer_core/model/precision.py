"""Where mixed precision holds, and float32 where it would choose other codes: searches, logits, similarities."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> AbstractContextManager:
    """No autocast on the tensor's device inside this context; what half precision gave must be cast by `.float()`.

    bfloat16 has 8 bits: near a common mean that is large beside the distances, many tokens would get another code.
    """
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def fast(device: torch.device) -> AbstractContextManager:
    """Bfloat16 autocast where dubbing is made and the device multiplies bfloat16 itself; nothing elsewhere."""
    return torch.autocast(device.type, torch.bfloat16) if has_bfloat16(device.type) else nullcontext()


@cache
def has_bfloat16(kind: str) -> bool:
    """Whether devices of a kind here multiply bfloat16 themselves: `cuda`, and some CPUs; others are slower with it."""
    if kind == "cpu":  # absent from older versions of torch
        asked = (getattr(torch.cpu, f"_is_{name}_supported", bool) for name in ("avx512_bf16", "amx_tile"))
        return any(supported() for supported in asked)
    return kind == "cuda"
