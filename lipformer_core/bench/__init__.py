"""How fast all this is on the machine at hand: `lipformer bench`."""

from .generators import MODELS, RUNTIMES, bench, table

__all__ = ["MODELS", "RUNTIMES", "bench", "table"]
