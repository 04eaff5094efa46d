"""What goes beyond the paper, each part switched on by `lips.design=ours`."""

from .lipformer import OurLipFormer
from .transformer import OurTransformer

__all__ = ["OurLipFormer", "OurTransformer"]
