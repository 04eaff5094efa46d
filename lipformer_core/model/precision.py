"""Float32 where mixed precision would choose other codes: searches, logits and their noise, similarities."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> AbstractContextManager:
    """No autocast on the tensor's device inside this context; what half precision gave must be cast by `.float()`.

    bfloat16 has 8 bits: near a common mean that is large beside the distances, many tokens would get another code.
    """
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
