"""Where mixed precision holds, and float32 where it would choose other codes: searches, logits, similarities."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> AbstractContextManager:
    """No autocast on the tensor's device inside this context; what half precision gave must be cast by `.float()`.

    bfloat16 has 8 bits: near a common mean that is large beside the distances, many tokens would get another code.
    """
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def fast(device: torch.device) -> AbstractContextManager:
    """Bfloat16 autocast on a GPU of the kind `cuda`, where dubbing is made; nothing elsewhere."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
