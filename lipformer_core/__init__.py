"""LipFormer: make a person in a video say what an audio track says.

    import lipformer_core as lf
    model = lf.load("runs/quick")
    lf.dub(model, "video.mp4", "speech.wav", "out.mp4")

`load` and `dub` import what they need when first used: `import lipformer_core` alone is instant.
"""

from importlib import import_module

__version__ = "0.1.0"
__all__ = ["__version__", "dub", "load"]

_LAZY = {"load": ("lipformer_core.checkpoint", "load_lipformer"), "dub": ("lipformer_core.dubbing.dub", "dub")}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
